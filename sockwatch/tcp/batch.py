"""Sockets in bulk: columns instead of an object per socket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Protocol

from sockwatch.tcp.states import State

Remote = tuple[int, bytes, int]
"""Family; remote port, local address and remote address as they stand in the record, 34 bytes, of
which IPv4 uses the first four of each address; id of the cgroup."""


class Batch(Protocol):
    """Some sockets in one state; position i of every column is the same socket.

    Columns are made when asked for and valid only as long as the batch is being looked at. Where
    the record of a socket lacks a value the column holds 0.
    """

    @property
    def state(self) -> State:
        """What all of them are in."""
        ...

    @property
    def multipath(self) -> bool:
        """Whether they are MPTCP sockets."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def families(self) -> bytes:
        """Address families, numbered as `Family`."""
        ...

    def local_ports(self) -> Sequence[int]:
        """Local ports, the two bytes of the record read natively: `ntohs` makes them numbers."""
        ...

    def remote_ports(self) -> Sequence[int]:
        """Remote ports, likewise."""
        ...

    def remotes(self) -> Iterable[Remote]:
        """What each is connected to, and who it belongs to."""
        ...

    def cookies(self) -> Sequence[int]:
        """The kernel's identities of the sockets."""
        ...

    def cgroups(self) -> Sequence[int]:
        """Ids of their cgroups (v2)."""
        ...

    def inodes(self) -> Sequence[int]:
        """Inodes; 0 for a socket that no file refers to."""
        ...

    def timers(self) -> bytes:
        """Kinds of the pending timers; see `Row.timer`."""
        ...

    def retransmits(self) -> bytes:
        """Retransmissions so far."""
        ...

    def expires(self) -> Sequence[int]:
        """Milliseconds until the pending timers fire."""
        ...

    def receive_queues(self) -> Sequence[int]:
        """Unread bytes, the FIN included."""
        ...

    def records(self) -> Sequence[bytes]:
        """The `struct inet_diag_msg` of each, 72 bytes."""
        ...


class Chosen:
    """Those sockets of a batch for which a mask is true; a Batch itself."""

    def __init__(self, batch: Batch, mask: Sequence[object]) -> None:
        self._batch = batch
        self._mask = mask
        self._length = sum(map(bool, mask))

    @property
    def state(self) -> State:
        """See `Batch`; likewise below."""
        return self._batch.state

    @property
    def multipath(self) -> bool:
        return self._batch.multipath

    def __len__(self) -> int:
        return self._length

    def families(self) -> bytes:
        return bytes(compress(self._batch.families(), self._mask))

    def local_ports(self) -> Sequence[int]:
        return self._chosen(self._batch.local_ports())

    def remote_ports(self) -> Sequence[int]:
        return self._chosen(self._batch.remote_ports())

    def remotes(self) -> Iterable[Remote]:
        return compress(self._batch.remotes(), self._mask)

    def cookies(self) -> Sequence[int]:
        return self._chosen(self._batch.cookies())

    def cgroups(self) -> Sequence[int]:
        return self._chosen(self._batch.cgroups())

    def inodes(self) -> Sequence[int]:
        return self._chosen(self._batch.inodes())

    def timers(self) -> bytes:
        return bytes(compress(self._batch.timers(), self._mask))

    def retransmits(self) -> bytes:
        return bytes(compress(self._batch.retransmits(), self._mask))

    def expires(self) -> Sequence[int]:
        return self._chosen(self._batch.expires())

    def receive_queues(self) -> Sequence[int]:
        return self._chosen(self._batch.receive_queues())

    def records(self) -> Sequence[bytes]:
        return [*compress(self._batch.records(), self._mask)]

    def _chosen(self, column: Sequence[int]) -> list[int]:
        return [*compress(column, self._mask)]
