"""Replies of sock_diag made by hand, for sockets that one describes as the rows they should become.

Written from `include/uapi/linux/netlink.h`, `include/uapi/linux/inet_diag.h` and what kernels were
seen to send. Nothing of sockwatch's decoder is used, so that no mistake of it is repeated here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sockwatch.kernel.wire import Dump
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

# include/uapi/linux/netlink.h
NOOP, ERROR, DONE, OVERRUN = 1, 2, 3, 4
NLM_F_MULTI, NLM_F_DUMP_INTR = 0x02, 0x10
# include/uapi/linux/inet_diag.h
TCPDIAG_GETSOCK: Final = 18
# include/uapi/linux/sock_diag.h
SOCK_DIAG_BY_FAMILY: Final = 20
SHUTDOWN, SKV6ONLY, MARK, CGROUP_ID, SOCKOPT = 8, 11, 15, 21, 22

TIME_WAIT_TIMER: Final = 3
SEQUENCE: Final = 77
PORT_ID: Final = 4242
BUFFER_BYTES: Final = 64 * 1024


class Generation(NamedTuple):
    """What a line of kernels appends to its records."""

    cgroup: bool
    options: bool
    mini_mark: bool
    """Whether a mini carries the mark, which only those with CAP_NET_ADMIN are shown."""


GENERATIONS: Final = {
    "4.18": Generation(cgroup=False, options=False, mini_mark=False),
    "el8.5": Generation(cgroup=False, options=False, mini_mark=True),
    "5.4": Generation(cgroup=False, options=False, mini_mark=False),
    "5.8": Generation(cgroup=True, options=False, mini_mark=False),
    "5.15": Generation(cgroup=True, options=True, mini_mark=True),
    "6.18": Generation(cgroup=True, options=True, mini_mark=True),
}
NEWEST: Final = GENERATIONS["6.18"]


def aligned(payload: bytes) -> bytes:
    return payload + bytes(-len(payload) % 4)


def message(kind: int, payload: bytes, sequence: int = SEQUENCE, flags: int = NLM_F_MULTI) -> bytes:
    """struct nlmsghdr and what follows it."""
    header = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, PORT_ID)
    return aligned(header + payload)


def attribute(kind: int, payload: bytes) -> bytes:
    """struct nlattr and its payload."""
    return aligned(struct.pack("=HH", 4 + len(payload), kind) + payload)


def done(sequence: int = SEQUENCE, errno: int = 0) -> bytes:
    """The end of a dump; `errno` negative, as the kernel has it."""
    return message(DONE, struct.pack("=i", errno), sequence)


def error(errno: int, sequence: int = SEQUENCE) -> bytes:
    """A refusal, with the header of what it refuses (struct nlmsgerr)."""
    refused = struct.pack("=IHHII", 76, TCPDIAG_GETSOCK, 0x301, sequence, 0)
    return message(ERROR, struct.pack("=i", errno) + refused, sequence, flags=0)


def noop(sequence: int = SEQUENCE) -> bytes:
    return message(NOOP, b"", sequence)


def overrun(sequence: int = SEQUENCE) -> bytes:
    return message(OVERRUN, b"", sequence)


def is_request(row: Row) -> bool:
    """Whether the kernel holds nothing but the SYN (struct request_sock)."""
    return row.state is State.SYN_RECV


def is_mini(row: Row) -> bool:
    """Whether the kernel holds the least it can (struct inet_timewait_sock)."""
    return row.timer == TIME_WAIT_TIMER


def is_full(row: Row) -> bool:
    return not is_request(row) and not is_mini(row)


def shows_v6_only(row: Row) -> bool:
    return row.family is Family.INET6 and row.state in (State.LISTEN, State.CLOSE)


def record(
    row: Row,
    generation: Generation = NEWEST,
    *,
    mark: bool = False,
    sequence: int = SEQUENCE,
    state: int | None = None,
    more: bytes = b"",
    kind: int = TCPDIAG_GETSOCK,
) -> bytes:
    """The reply that describes a row.

    Args:
        row: what should be read from it; values that are None go as zero, or without attribute.
        generation: of the kernel.
        mark: as seen with CAP_NET_ADMIN.
        sequence: of the request.
        state: the number on the wire, if it is not that of the row.
        more: further attributes.
        kind: the type of the request.
    """
    body = description(row, row.state if state is None else state)
    return message(kind, body + attributes(row, generation, mark) + more, sequence)


def description(row: Row, state: int) -> bytes:
    """struct inet_diag_msg."""
    numbers = (row.expires, row.receive_queue, row.send_queue, row.uid, row.inode)
    return b"".join(
        (
            struct.pack("=4B", row.family, state, row.timer or 0, row.retransmits or 0),
            struct.pack(">HH", row.source_port, row.destination_port),
            row.source.ljust(16, b"\0"),
            row.destination.ljust(16, b"\0"),
            struct.pack("=IQ", 0, row.cookie or 0),
            struct.pack("=5I", *(number or 0 for number in numbers)),
        )
    )


def attributes(row: Row, generation: Generation, mark: bool) -> bytes:
    """What inet_sk_diag_fill, tcp_req_diag_fill and tcp_twsk_diag_fill append, in their order."""
    full = is_full(row)
    found = []
    if full:
        found.append(attribute(SHUTDOWN, b"\0"))
    if full and shows_v6_only(row):
        found.append(attribute(SKV6ONLY, bytes([bool(row.v6_only)])))
    if mark and (generation.mini_mark or not is_mini(row)):
        found.append(attribute(MARK, bytes(4)))
    if full and generation.cgroup:
        found.append(attribute(CGROUP_ID, struct.pack("=Q", row.cgroup or 0)))
    if full and generation.options:
        found.append(attribute(SOCKOPT, b"\x10\x02"))
    return b"".join(found)


def packed(messages: Iterable[bytes], size: int = 32_364) -> list[bytes]:
    """Messages put into datagrams of at most `size` bytes, one message at least in each."""
    datagrams = [b""]
    for each in messages:
        if datagrams[-1] and len(datagrams[-1]) + len(each) > size:
            datagrams.append(b"")
        datagrams[-1] += each
    return datagrams if datagrams[0] else []


def delivered(datagrams: Iterable[bytes]) -> Iterator[memoryview]:
    """Datagrams as a socket hands them out: in one buffer, each overwritten by the next."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    rubbish = b"\xa5" * BUFFER_BYTES
    for datagram in datagrams:
        buffer[:] = rubbish
        buffer[: len(datagram)] = datagram
        yield buffer[: len(datagram)]
    buffer[:] = rubbish


def dump_of(datagrams: Iterable[bytes], sequence: int = SEQUENCE) -> Dump:
    """A dump that answers with these datagrams and then is silent."""
    return Dump(sequence, delivered(datagrams))


def whole_dump(
    rows: Sequence[Row], generation: Generation = NEWEST, *, mark: bool = False, size: int = 32_364
) -> list[bytes]:
    """The datagrams of a dump of these rows, with its end in a datagram of its own."""
    return [*packed((record(row, generation, mark=mark) for row in rows), size), done()]
