"""From reply bytes to rows, one message after another: right for every mixture of messages.

This is the general path. It is used where rows are few or differ in length, and it is what the
bulk path of `columns` is tested against.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.wire import (
    ATTRIBUTE,
    ATTRIBUTES_AT,
    DUMP_UNFINISHED,
    HEADER,
    INET_DIAG_CGROUP_ID,
    INET_DIAG_NONE,
    INET_DIAG_SKMEMINFO,
    INET_DIAG_SKV6ONLY,
    MESSAGE,
    SK_MEMINFO_DROPS,
    Dump,
    Kind,
    aligned,
    check_message,
)
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

_U32: Final = Struct("=I")
_U64: Final = Struct("=Q")
_DROPS_AT: Final = SK_MEMINFO_DROPS * _U32.size
NEGATIVE_EXPIRY: Final = 1 << 31
"""Before 5.x an expired timer underflows to nearly 2**32 ms."""


def read_dump(dump: Dump) -> list[Row]:
    """All rows of a dump.

    Raises:
        PassFailure: the dump is not complete and must be discarded.
    """
    rows: list[Row] = []
    for datagram in dump.datagrams:
        some, done = read_rows(datagram, dump.sequence)
        rows += some
        if done:
            return rows
    raise PassFailure(Cause.TRUNCATED, DUMP_UNFINISHED)


def read_rows(datagram: memoryview, sequence: int) -> tuple[list[Row], bool]:
    """The rows of one datagram, and whether it ends the dump.

    Raises:
        PassFailure: the datagram is broken, foreign, or carries an error.
    """
    rows: list[Row] = []
    at = 0
    while at < len(datagram):
        end, kind = check_message(datagram, at, sequence)
        if kind is Kind.END:
            return rows, True
        if kind is Kind.ROW:
            rows.append(_row(datagram, at, end))
        at = aligned(end)
    return rows, False


def attributes(datagram: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The attributes of the socket record at `at`: (type, start of header, length of payload).

    Raises:
        PassFailure: an attribute does not fit into its message.
    """
    position = at + ATTRIBUTES_AT
    while position < end:
        if end - position < ATTRIBUTE.size:
            raise PassFailure(Cause.MALFORMED, "attribute header beyond the end of its message")
        length, kind = ATTRIBUTE.unpack_from(datagram, position)
        # No attribute has type 0, but the header of a message that was swallowed reads like one.
        if kind == INET_DIAG_NONE or length < ATTRIBUTE.size or position + length > end:
            raise PassFailure(Cause.MALFORMED, f"attribute {kind} announces {length} bytes")
        yield kind, position, length - ATTRIBUTE.size
        position += aligned(length)


def _row(datagram: memoryview, at: int, end: int) -> Row:
    (
        family,
        state,
        timer,
        retransmits,
        source_port,
        destination_port,
        source,
        destination,
        _interface,
        cookie,
        expires,
        receive_queue,
        send_queue,
        uid,
        inode,
    ) = MESSAGE.unpack_from(datagram, at + HEADER.size)
    if family not in _ADDRESS_SIZE:
        raise PassFailure(Cause.MALFORMED, f"socket of address family {family}")
    size = _ADDRESS_SIZE[family]
    extras = _extras(datagram, at, end)
    return Row(
        family=Family(family),
        state=State.of(state),
        source=source[:size],
        source_port=int.from_bytes(source_port, "big"),
        destination=destination[:size],
        destination_port=int.from_bytes(destination_port, "big"),
        timer=timer,
        retransmits=retransmits,
        expires=due(expires),
        receive_queue=receive_queue,
        send_queue=send_queue,
        uid=uid,
        inode=inode,
        cookie=cookie,
        cgroup=extras.cgroup,
        v6_only=extras.v6_only,
        drops=extras.drops,
    )


def due(expires: int) -> int:
    """Milliseconds until a timer fires; one that should have fired already fires now."""
    return 0 if expires >= NEGATIVE_EXPIRY else expires


_ADDRESS_SIZE: Final = {Family.INET.value: 4, Family.INET6.value: 16}


class _Extras(NamedTuple):
    """What attributes say, `None` where one is missing."""

    cgroup: int | None = None
    v6_only: bool | None = None
    drops: int | None = None


def _extras(datagram: memoryview, at: int, end: int) -> _Extras:
    cgroup = v6_only = drops = None
    for kind, position, size in attributes(datagram, at, end):
        start = position + ATTRIBUTE.size
        if kind == INET_DIAG_CGROUP_ID and size == _U64.size:
            cgroup = _U64.unpack_from(datagram, start)[0]
        elif kind == INET_DIAG_SKV6ONLY and size == 1:
            v6_only = bool(datagram[start])
        elif kind == INET_DIAG_SKMEMINFO and size >= _DROPS_AT + _U32.size:
            drops = _U32.unpack_from(datagram, start + _DROPS_AT)[0]
    return _Extras(cgroup, v6_only, drops)
