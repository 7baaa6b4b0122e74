"""From reply bytes to columns without an object per socket: the bulk path.

Theory of operation. Messages that have the same length and carry the same attributes form a
table: every field is a column, a slice of the buffer with the message length as its stride.
Columns are compared, looked up and counted by loops that run in C, and so a row costs a fraction
of what the kernel spends on it. A dump of established connections is one throughout: what the
kernel appends to a record depends only on the kind of socket and on our capabilities. Where kinds
come mixed they are sorted into tables first (see `batches`).

Nothing is assumed. The first message is taken apart attribute by attribute; then every header in
it, those of the attributes included, must have the same value in all other messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from operator import add
from struct import Struct
from typing import ClassVar, Final

from sockwatch.kernel.rows import NEGATIVE_EXPIRY, attributes, due
from sockwatch.kernel.wire import (
    ATTRIBUTES_AT,
    HEADER,
    INET_DIAG_CGROUP_ID,
    MESSAGE,
    STATE_AT,
    Kind,
    check_message,
)
from sockwatch.tcp.batch import Remote
from sockwatch.tcp.states import Family, State

_WORD: Final = 4
_FAMILY_AT: Final = HEADER.size
_TIMER_AT: Final = HEADER.size + 2
_RETRANSMITS_AT: Final = HEADER.size + 3
_PORTS_AT: Final = HEADER.size + 4
"""Where struct inet_diag_sockid begins: source and destination port, two bytes each."""

_REMOTE: Final = range(_PORTS_AT + 2, _PORTS_AT + 36)
"""Destination port, source address, destination address."""

# Words of struct inet_diag_msg, counted from the start of the message.
_COOKIE: Final = 15
_EXPIRES: Final = 17
_RECEIVE_QUEUE: Final = 18
_INODE: Final = 21

_CGROUP_ID: Final = (INET_DIAG_CGROUP_ID, 2 * _WORD)
"""Type and size of the cgroup id."""
_HEADER_WORDS: Final = (0, 1, 2)
"""Length; type and flags; sequence."""


@dataclass(frozen=True, slots=True)
class Table:
    """Messages of one layout about sockets in one state; a `Batch`."""

    messages: memoryview
    length: int
    """Bytes per message."""
    state: State
    cgroup: int | None
    """Word of the low half of the cgroup id, if the messages carry one."""
    multipath: ClassVar[bool] = False

    @classmethod
    def of(cls, messages: memoryview, sequence: int) -> Table | None:
        """The messages as a table, `None` unless all are rows of one layout and one state.

        Raises:
            PassFailure: the first message is broken, foreign, or carries an error.
        """
        length, kind = check_message(messages, 0, sequence)
        if kind is not Kind.ROW or length % _WORD or len(messages) % length:
            return None
        found = [*attributes(messages, 0, length)]
        headers = (*_HEADER_WORDS, *(at // _WORD for _, at, _ in found))
        words = messages.cast("I")
        if not all(_constant(words[at :: length // _WORD]) for at in headers):
            return None
        if not _constant(messages[STATE_AT::length]):
            return None
        if bytes(messages[_FAMILY_AT::length]).strip(_FAMILIES):
            return None
        ids = [at // _WORD + 1 for kind, at, size in found if (kind, size) == _CGROUP_ID]
        return cls(messages, length, State.of(messages[STATE_AT]), ids[-1] if ids else None)

    def __len__(self) -> int:
        """The number of messages."""
        return len(self.messages) // self.length

    def families(self) -> bytes:
        """See `Batch`; likewise below."""
        return bytes(self.messages[_FAMILY_AT :: self.length])

    def local_ports(self) -> Sequence[int]:
        return self._half_words(_PORTS_AT // 2)

    def remote_ports(self) -> Sequence[int]:
        return self._half_words(_PORTS_AT // 2 + 1)

    def remotes(self) -> Iterator[Remote]:
        found = _remote_in(self.length, self.cgroup).iter_unpack(self.messages)
        return found if self.cgroup is not None else map(add, found, repeat((0,)))

    def cookies(self) -> Sequence[int]:
        return self._long_words(_COOKIE)

    def cgroups(self) -> Sequence[int]:
        return bytes(len(self)) if self.cgroup is None else self._long_words(self.cgroup)

    def inodes(self) -> Sequence[int]:
        return self._words(_INODE)

    def timers(self) -> bytes:
        return bytes(self.messages[_TIMER_AT :: self.length])

    def retransmits(self) -> bytes:
        return bytes(self.messages[_RETRANSMITS_AT :: self.length])

    def expires(self) -> Sequence[int]:
        column = self._words(_EXPIRES)
        return column if max(column) < NEGATIVE_EXPIRY else [*map(due, column)]

    def receive_queues(self) -> Sequence[int]:
        return self._words(_RECEIVE_QUEUE)

    def records(self) -> Sequence[bytes]:
        return [record for (record,) in _record_in(self.length).iter_unpack(self.messages)]

    def each(self) -> Iterator[memoryview]:
        """The messages one by one."""
        starts = range(0, len(self.messages), self.length)
        return (self.messages[start : start + self.length] for start in starts)

    def _half_words(self, at: int) -> list[int]:
        return self.messages.cast("H")[at :: self.length // 2].tolist()

    def _words(self, at: int) -> list[int]:
        return self.messages.cast("I")[at :: self.length // _WORD].tolist()

    def _long_words(self, at: int) -> list[int]:
        """64-bit columns, of which only every other is aligned."""
        low, high = self._words(at), self.messages.cast("I")[at + 1 :: self.length // _WORD]
        if high[0] == 0 and _constant(high):
            return low
        return [upper << 32 | lower for lower, upper in zip(low, high.tolist(), strict=True)]


_FAMILIES: Final = bytes(Family)


@cache
def _record_in(length: int) -> Struct:
    """Takes struct inet_diag_msg out of messages of that length."""
    return Struct(f"{HEADER.size}x {MESSAGE.size}s {length - ATTRIBUTES_AT}x")


@cache
def _remote_in(length: int, cgroup: int | None) -> Struct:
    """Takes the family, `_REMOTE` and the cgroup id out of messages of that length."""
    fields = f"{_FAMILY_AT}x B {_REMOTE.start - _FAMILY_AT - 1}x {len(_REMOTE)}s"
    if cgroup is None:
        return Struct(f"={fields} {length - _REMOTE.stop}x")
    at = cgroup * _WORD
    return Struct(f"={fields} {at - _REMOTE.stop}x Q {length - at - 2 * _WORD}x")


def _constant(column: memoryview) -> bool:
    """Whether all values of a column are equal: each equals its neighbour."""
    return column[1:] == column[:-1]
