"""Stuck connections listed by hand or drawn by hypothesis, packed as a watch pass packs them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from itertools import groupby
from typing import Final, NamedTuple

from hypothesis import strategies as st
from replies import description

from sockwatch.observe.leaks import Filter
from sockwatch.observe.packed import Packed
from sockwatch.observe.snapshot import OTHER, Marked, NamespaceView, ServiceKey, Stuck
from sockwatch.tcp.causes import ALL, Cause
from sockwatch.tcp.owners import Owners, Process
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Direction, Family, State

TAKEN: Final = 5000.0
"""The monotonic moment of all these passes."""
UNITS: Final[Mapping[int, str]] = {11: "app.service", 12: "db.service", 13: ""}
OWNERS: Final[Mapping[int, Owners]] = {
    101: Owners.alone(Process(7, "python3", 40.0)),
    102: Owners.alone(Process(8, "\x1b[31mred", 41.5)),
    103: Owners((Process(7, "python3", 40.0), Process(8, "\x1b[31mred", 41.5)), 20),
}


class Entry(NamedTuple):
    """One stuck connection."""

    state: State = State.CLOSE_WAIT
    cause: Cause = Cause.NOT_CLOSED
    age: float = 100.0
    """Seconds at `TAKEN`."""
    inbound: bool = True
    local: str = "192.0.2.1"
    local_port: int = 8080
    remote: str = "198.51.100.7"
    remote_port: int = 50_000
    cgroup: int = 11
    uid: int = 1000
    inode: int = 100
    multipath: bool = False

    @property
    def moment(self) -> float:
        """When it entered its state."""
        return TAKEN - self.age

    @property
    def service(self) -> ServiceKey:
        direction = Direction.INBOUND if self.inbound else Direction.OUTBOUND
        port = self.local_port if self.inbound else self.remote_port
        return ServiceKey(direction, str(port), UNITS.get(self.cgroup, ""))

    @property
    def record(self) -> bytes:
        """The `struct inet_diag_msg`."""
        local, remote = ip_address(self.local), ip_address(self.remote)
        family = Family.INET if local.version == 4 else Family.INET6
        row = Row(
            family,
            self.state,
            local.packed,
            self.local_port,
            remote.packed,
            self.remote_port,
            uid=self.uid,
            inode=self.inode,
        )
        return description(row, self.state)


def packed(entries: Iterable[Entry], batch: int = 3, stride: int = 1) -> tuple[Marked, ...]:
    """In batches of one state and protocol, in the order in which they come."""
    found = []
    for (state, _), some in groupby(entries, key=lambda entry: (entry.state, entry.multipath)):
        rest = [*some]
        while rest:
            found.append(_marked(state, rest[:batch], stride))
            rest = rest[batch:]
    return tuple(found)


def _marked(state: State, entries: Sequence[Entry], stride: int) -> Marked:
    return Marked(
        state,
        Packed.of(entry.record for entry in entries),
        array("d", [entry.moment for entry in entries]),
        array("Q", [entry.cgroup for entry in entries]),
        bytes(entry.inbound for entry in entries),
        bytes(ALL.index(entry.cause) for entry in entries),
        entries[0].multipath,
        stride,
    )


def stuck(
    *entries: Entry,
    owners: Mapping[int, Owners] | None = None,
    unnamed: str | None = None,
    bounds: Iterable[float] = (),
    stride: int = 1,
    batch: int = 3,
) -> Stuck:
    """What a pass at `TAKEN` says of these.

    Args:
        entries: all that are over their limits.
        owners: who holds them.
        unnamed: why that is not complete.
        bounds: ages that are lower bounds.
        stride: one of how many connections is followed.
        batch: connections in each batch of `Marked`.
    """
    return Stuck(
        connections={},
        oldest={},
        ages={},
        limits={},
        marked=packed(entries, batch, stride),
        units=UNITS,
        taken=TAKEN,
        lower_bounds=frozenset(TAKEN - age for age in bounds),
        followed=len(entries),
        most_followed=200_000,
        stride=stride,
        owners=owners or {},
        unnamed=unnamed,
    )


def seen(
    found: Stuck | None, *, netns: str = "", services: Iterable[ServiceKey] = (), folded: int = 0
) -> NamespaceView:
    """A namespace of which nothing else is known."""
    return NamespaceView(
        netns=netns,
        sockets={},
        unowned=None,
        services={key: {} for key in services},
        folded=folded,
        listeners=(),
        stuck=found,
    )


_STATES: Final = st.sampled_from([State.CLOSE_WAIT, State.FIN_WAIT2, State.SYN_SENT])
_AGES: Final = st.sampled_from([0.0, 1.0, 60.0, 60.5, 3600.0]) | st.floats(0, TAKEN)
_PORTS: Final = st.sampled_from([80, 0x5000, 443, 1, 65535])
_ADDRESSES: Final = st.one_of(
    st.tuples(*[st.sampled_from(["127.0.0.1", "10.0.0.1", "255.255.255.255"])] * 2),
    st.tuples(*[st.sampled_from(["::", "::1", "::ffff:10.0.0.1", "2001:db8::1"])] * 2),
)


@st.composite
def _entries(draw: st.DrawFn) -> Entry:
    local, remote = draw(_ADDRESSES)
    return Entry(
        state=draw(_STATES),
        cause=draw(st.sampled_from(ALL)),
        age=draw(_AGES),
        inbound=draw(st.booleans()),
        local=local,
        local_port=draw(_PORTS),
        remote=remote,
        remote_port=draw(_PORTS),
        cgroup=draw(st.sampled_from([0, 1 << 63, *UNITS])),
        uid=draw(st.sampled_from([0, 1000, 0xFFFF_FFFE])),
        inode=draw(st.sampled_from([0, 100, *OWNERS])),
    )


ENTRIES: Final = st.lists(_entries(), max_size=40)
FILTERS: Final = st.builds(
    Filter,
    state=st.none() | _STATES,
    port=st.none() | _PORTS.map(str) | st.just(OTHER),
    unit=st.none() | st.sampled_from([*UNITS.values(), OTHER, "none.service"]),
    older_than=st.just(0.0) | st.sampled_from([60.0, 3600.0]),
    limit=st.integers(1, 50),
)
