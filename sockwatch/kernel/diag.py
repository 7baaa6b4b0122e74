"""A sock_diag socket: dumps by state mask, every failure named.

pyroute2 opens the socket and encodes the request. Replies are handed on as raw datagrams, because
its reply objects cost about a hundred times what the kernel spends on a socket.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from struct import Struct
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from pyroute2 import netns
from pyroute2.netlink import NETLINK_SOCK_DIAG, NLM_F_MATCH, NLM_F_REQUEST, NLM_F_ROOT, nlmsg

from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.filters import local_port_in
from sockwatch.kernel.wire import (
    INET_DIAG_SKMEMINFO,
    SOCK_DIAG_BY_FAMILY,
    TCPDIAG_GETSOCK,
    Dump,
)
from sockwatch.tcp.states import Family

IPPROTO_MPTCP: Final = 262
"""`include/uapi/linux/in.h`."""
DATAGRAM_BYTES: Final = 64 * 1024
"""Twice what the kernel puts into one datagram of a dump at most."""
BUFFER_BYTES: Final = 16 * DATAGRAM_BYTES
"""What is handed on at once at most: the more, the less often what follows starts anew. It is
mapped, so that a host with few sockets never touches most of it."""
_TIMEVAL: Final = Struct("@ll")
_RECEIVE_BUFFER_BYTES: Final = 256 * 1024
"""SO_RCVBUF; some stable kernels of mid-2025 refuse to dump into less than 128 KiB."""


class _DumpRequest(nlmsg):  # type: ignore[misc]  # pyroute2 is untyped
    """struct inet_diag_req of `include/uapi/linux/inet_diag.h`, the request of type 18."""

    fields = (
        ("idiag_family", "B"),
        ("idiag_src_len", "B"),
        ("idiag_dst_len", "B"),
        ("idiag_ext", "B"),
        ("idiag_sport", ">H"),
        ("idiag_dport", ">H"),
        ("idiag_src", ">4I"),
        ("idiag_dst", ">4I"),
        ("idiag_if", "I"),
        ("idiag_cookie", "Q"),
        ("idiag_states", "I"),
        ("idiag_dbs", "I"),
    )
    nla_map = (("INET_DIAG_REQ_NONE", "none"), ("INET_DIAG_REQ_BYTECODE", "cdata"))


class _FamilyRequest(nlmsg):  # type: ignore[misc]  # as above
    """struct inet_diag_req_v2, the request of type 20."""

    fields = (
        ("sdiag_family", "B"),
        ("sdiag_protocol", "B"),
        ("idiag_ext", "B"),
        ("pad", "B"),
        ("idiag_states", "I"),
        ("idiag_sport", ">H"),
        ("idiag_dport", ">H"),
        ("idiag_src", ">4I"),
        ("idiag_dst", ">4I"),
        ("idiag_if", "I"),
        ("idiag_cookie", "Q"),
    )
    nla_map = (
        ("INET_DIAG_REQ_NONE", "none"),
        ("INET_DIAG_REQ_BYTECODE", "cdata"),
        ("INET_DIAG_REQ_SK_BPF_STORAGES", "none"),
        ("INET_DIAG_REQ_PROTOCOL", "uint32"),
    )


class Query(NamedTuple):
    """Which sockets a dump shall hold, and what of them."""

    states: int
    """See `wire.mask`."""
    local_ports: Sequence[int] = ()
    """Only sockets with one of these local ports; empty for all."""
    memory: bool = False
    """Whether to ask for INET_DIAG_SKMEMINFO, which holds the drops of a listener."""
    multipath: Family | None = None
    """Ask for the MPTCP sockets of a family, and for no TCP socket."""


class Dumper(Protocol):
    """What answers dump requests: the kernel, a recording, a test's script."""

    def dump(self, query: Query) -> Dump:
        """Begin a dump; see `DiagSocket.dump`."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def dump_request(query: Query, sequence: int) -> bytes:
    """The request that a query makes.

    INET_DIAG_INFO is never asked for: it takes each socket's lock and can block for ever.
    """
    if query.multipath is None:
        return _encoded(_tcp_request(query), TCPDIAG_GETSOCK, sequence)
    return _encoded(_multipath_request(query), SOCK_DIAG_BY_FAMILY, sequence)


def _tcp_request(query: Query) -> nlmsg:
    request = _DumpRequest()
    if query.memory:
        request["idiag_ext"] = 1 << (INET_DIAG_SKMEMINFO - 1)
    if query.local_ports:
        program = local_port_in(query.local_ports)
        request["attrs"] = [("INET_DIAG_REQ_BYTECODE", program)]
    request["idiag_states"] = query.states
    return request


def _multipath_request(query: Query) -> nlmsg:
    """With 0 in the byte for the protocol, which MPTCP's number does not fit into.

    A kernel that does not know the attribute has nobody for protocol 0 and answers ENOENT; for
    any other byte it would answer with what that means.
    """
    request = _FamilyRequest()
    request["sdiag_family"] = query.multipath
    request["attrs"] = [("INET_DIAG_REQ_PROTOCOL", IPPROTO_MPTCP)]
    request["idiag_states"] = query.states
    return request


def _encoded(request: nlmsg, kind: int, sequence: int) -> bytes:
    request["idiag_src"] = request["idiag_dst"] = (0, 0, 0, 0)
    request["header"]["type"] = kind
    request["header"]["flags"] = NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
    request["header"]["sequence_number"] = sequence
    request.encode()
    return bytes(request.data)


class DiagSocket:
    """One netlink socket in the network namespace it was opened in.

    Not thread safe. After any failure it must be closed: replies of an abandoned dump would
    otherwise be taken for those of the next.
    """

    def __init__(self, timeout: float) -> None:
        """Open the socket.

        Args:
            timeout: seconds to wait for one reply.

        Raises:
            PassFailure: the system refuses.
        """
        try:
            self._socket = netns.create_socket(
                None, socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG
            )
        except OSError as error:
            raise _failure(error, "opening a sock_diag socket") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._buffer = memoryview(mmap(-1, BUFFER_BYTES, MAP_PRIVATE | MAP_ANONYMOUS))
        self._sequences = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; a dump under way ends."""
        self._socket.close()

    def dump(self, query: Query) -> Dump:
        """Begin a dump.

        Its replies must be read to the end of the dump before the next begins.

        Raises:
            PassFailure: at once or while reading, the dump must be discarded.
        """
        sequence = next(self._sequences)
        try:
            self._socket.send(dump_request(query, sequence))
        except OSError as error:
            raise _failure(error, "asking for a socket dump") from error
        return Dump(sequence, self._replies())

    def _replies(self) -> Iterator[memoryview]:
        while True:
            try:
                yield self._buffer[: self._receive()]
            except OSError as error:
                raise _failure(error, "receiving a socket dump") from error

    def _receive(self) -> int:
        """Wait for a datagram and take those that are there already; the size of all.

        The kernel makes the next one of a dump while it hands one out, so that nothing more is
        there only at the end.
        """
        size = self._receive_at(0)
        with suppress(BlockingIOError):
            while len(self._buffer) - size >= DATAGRAM_BYTES:
                size += self._receive_at(size, socket.MSG_DONTWAIT)
        return size

    def _receive_at(self, at: int, flags: int = 0) -> int:
        while True:
            room = self._buffer[at : at + DATAGRAM_BYTES]
            size: int
            size, _, flagged, sender = self._socket.recvmsg_into([room], 0, flags)
            if sender[0] != 0:  # only the kernel speaks with port id 0
                continue
            if flagged & socket.MSG_TRUNC:
                raise PassFailure(Cause.TRUNCATED, f"datagram larger than {len(room)} bytes")
            return size


def _timeval(seconds: float) -> bytes:
    """For SO_RCVTIMEO, a struct timeval: a timeout of Python's costs a poll() for each reply."""
    whole = int(seconds)
    return _TIMEVAL.pack(whole, int((seconds - whole) * 1e6))


def _failure(error: OSError, doing: str) -> PassFailure:
    """The named failure behind an OSError."""
    return PassFailure.of_errno(error.errno or errno.EIO, doing)
