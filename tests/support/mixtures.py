"""Hypothesis strategies: sockets as kernels describe them, and dumps in which they come mixed."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from typing import Final

from hypothesis import strategies as st
from replies import (
    GENERATIONS,
    NEWEST,
    Generation,
    attribute,
    done,
    is_full,
    noop,
    record,
    shows_v6_only,
)

from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

NAMED_STATES: Final = tuple(state for state in State if state)

LISTENED: Final = 80
PORTS: Final = st.sampled_from([LISTENED, 0x5000, 443, 1, 256, 65535]) | st.integers(0, 65535)
"""80 and 0x5000 are each other's bytes swapped."""
ADDRESSES: Final = {
    Family.INET: st.sampled_from(["127.0.0.1", "10.0.0.1", "0.0.0.0", "255.255.255.255"]),
    Family.INET6: st.sampled_from(["::", "::1", "::ffff:10.0.0.1", "::10.0.0.1", "2001:db8::1"]),
}
CGROUPS: Final = st.sampled_from([1, 2, 1 << 32, (1 << 32) + 1, (1 << 64) - 1])
U8, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF_FFFF)
COOKIES: Final = st.integers(1, (1 << 64) - 1)
EXPIRIES: Final = st.integers(0, (1 << 31) - 1)
INODES: Final = st.just(0) | U32
STRANGE: Final = [
    b"",
    attribute(200, b"new!"),
    attribute(99, b"\1"),
    attribute(21, b"id"),
    attribute(15, b""),
]
"""Attributes that no kernel has sent."""
GENERATION: Final = st.sampled_from([*GENERATIONS.values()])


@st.composite
def rows(
    draw: st.DrawFn,
    states: Collection[State] = NAMED_STATES,
    generation: Generation = NEWEST,
    families: Collection[Family] = tuple(Family),
) -> Row:
    """A socket with what a generation of kernels tells of it."""
    family, state = draw(st.sampled_from([*families])), draw(st.sampled_from([*states]))
    address = ADDRESSES[family].map(lambda text: ip_address(text).packed)
    row = Row(
        family=family,
        state=state,
        source=draw(address),
        source_port=draw(PORTS),
        destination=draw(address),
        destination_port=draw(PORTS),
        timer=draw(_timers(state)),
        retransmits=draw(U8),
        expires=draw(EXPIRIES),
        receive_queue=0,
        send_queue=0,
        uid=0,
        inode=0,
        cookie=draw(COOKIES),
    )
    return draw(_full(row, generation)) if is_full(row) else row


def _timers(state: State) -> st.SearchStrategy[int]:
    match state:
        case State.TIME_WAIT:
            return st.just(3)
        case State.FIN_WAIT2:
            return st.integers(0, 4)
        case _:
            return st.sampled_from([0, 1, 2, 4, 5])


@st.composite
def _full(draw: st.DrawFn, row: Row, generation: Generation) -> Row:
    """A socket of which the kernel holds more than the least."""
    return row._replace(
        receive_queue=draw(U32),
        send_queue=draw(U32),
        uid=draw(U32),
        inode=draw(INODES),
        cgroup=draw(CGROUPS) if generation.cgroup else None,
        v6_only=draw(st.booleans()) if shows_v6_only(row) else None,
    )


@st.composite
def uniform_datagrams(draw: st.DrawFn, state: State) -> bytes:
    """What a dump of one state consists of: records of one layout, and at least one."""
    generation, mark = draw(GENERATION), draw(st.booleans())
    many = st.lists(rows([state], generation), min_size=1, max_size=8)
    return b"".join(record(row, generation, mark=mark) for row in draw(many))


@st.composite
def _odd_messages(draw: st.DrawFn, state: State) -> bytes:
    """A message that is not like the others."""
    row, mark = draw(rows([state])), draw(st.booleans())
    moved_on = record(row, state=draw(st.integers(1, 13)))
    longer = record(row, draw(GENERATION), mark=mark, more=draw(st.sampled_from(STRANGE)))
    return draw(st.sampled_from([noop(), moved_on, longer]))


@st.composite
def mixed_datagrams(draw: st.DrawFn, state: State) -> bytes:
    """Records of several layouts, of sockets that moved on, and messages that are none."""
    parts = st.lists(uniform_datagrams(state) | _odd_messages(state), max_size=4)
    return b"".join([draw(_odd_messages(state)), *draw(parts)])


@st.composite
def mixed_dumps(draw: st.DrawFn, state: State) -> list[bytes]:
    """The datagrams of a complete dump of one state, one per record or many in each."""
    datagram = uniform_datagrams(state) | mixed_datagrams(state)
    datagrams = draw(st.lists(datagram, max_size=4))
    end, in_the_last_one = draw(st.sampled_from([done(), noop() + done()])), draw(st.booleans())
    if datagrams and in_the_last_one:
        return [*datagrams[:-1], datagrams[-1] + end]
    return [*datagrams, end]


def listener(port: int, address: str = "0.0.0.0", *, v6_only: bool | None = None) -> Row:
    """A listening socket, as far as directions go."""
    packed_address = ip_address(address).packed
    family = Family.INET if len(packed_address) == 4 else Family.INET6
    nobody = bytes(len(packed_address))
    return Row(family, State.LISTEN, packed_address, port, nobody, 0, v6_only=v6_only)
