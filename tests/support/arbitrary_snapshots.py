"""Any Snapshot at all, for hypothesis: hostile names, odd numbers, parts that do not agree."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from sockwatch.observe.figures import ABORTS, COUNTERS, MEMORY_LEVELS, Figures, HostFigures
from sockwatch.observe.snapshot import (
    OTHER,
    Destinations,
    DestinationUse,
    Listener,
    NamespaceView,
    PassKind,
    PassStatus,
    ServiceKey,
    Snapshot,
    SourceStatus,
)
from sockwatch.tcp.states import Direction, Family, State, Unowned

_NAMES: Final = st.one_of(
    st.sampled_from(["", "app.service", OTHER, "cri-containerd-0123456789abcdef.scope", "\x1b[2J"]),
    st.text(max_size=40),
)
_COUNTS: Final = st.integers(0, 9_999_999)
_PORTS: Final = st.integers(0, 65_535)
_TIMES: Final = st.floats(0, 4e9)
"""Unix times and durations in seconds, far beyond this century."""

_STATES: Final = st.dictionaries(st.sampled_from(State), _COUNTS)
_KEYS: Final = st.builds(
    ServiceKey,
    st.sampled_from(Direction),
    st.one_of(_PORTS.map(str), st.just(OTHER)),
    _NAMES,
)
_LISTENERS: Final = st.builds(
    Listener,
    family=st.sampled_from(Family),
    address=st.one_of(st.ip_addresses().map(str), _NAMES),
    port=_PORTS,
    unit=_NAMES,
    sockets=st.integers(1, 128),
    queue=st.none() | _COUNTS,
    limit=st.none() | _COUNTS,
    peak=st.none() | _COUNTS,
    half_open=st.none() | _COUNTS,
    half_open_resent=st.none() | _COUNTS,
    drops=st.none() | _COUNTS,
)
_ENDS: Final = st.builds("{}:{}".format, st.ip_addresses(v=4), _PORTS) | st.builds(
    "[{}]:{}".format, st.ip_addresses(v=6), _PORTS
)
_DESTINATIONS: Final = st.builds(
    Destinations,
    ports=st.none() | _PORTS,
    in_use_max=_COUNTS,
    crowded=st.lists(
        st.builds(DestinationUse, st.ip_addresses().map(str), _ENDS, _COUNTS, _COUNTS),
        max_size=3,
        unique_by=lambda use: use.destination,
    ).map(tuple),
    unanswered=st.none() | st.dictionaries(_ENDS, _COUNTS, max_size=3),
)
_KNOWN_OR_NOT: Final = st.none() | st.integers(0, 1 << 44)
"""Counts and bytes, up to 16 TiB."""
_HOST_FIGURES: Final = st.builds(
    HostFigures,
    orphans=_KNOWN_OR_NOT,
    orphan_limit=_KNOWN_OR_NOT,
    memory=_KNOWN_OR_NOT,
    memory_limits=st.just({})
    | st.fixed_dictionaries({level: st.integers(0, 1 << 44) for level in MEMORY_LEVELS}),
    hidden=_KNOWN_OR_NOT,
)
_FIGURES: Final = st.builds(
    Figures,
    counters=st.dictionaries(st.sampled_from([*COUNTERS]), st.integers(0, (1 << 64) - 1)),
    aborts=st.dictionaries(st.sampled_from([*ABORTS]), st.integers(0, (1 << 64) - 1)),
    time_wait=_KNOWN_OR_NOT,
    time_wait_limit=_KNOWN_OR_NOT,
    ephemeral_ports=_KNOWN_OR_NOT,
    somaxconn=_KNOWN_OR_NOT,
    max_syn_backlog=_KNOWN_OR_NOT,
    host=st.none() | _HOST_FIGURES,
)
_VIEWS: Final = st.builds(
    NamespaceView,
    netns=_NAMES,
    sockets=st.dictionaries(st.tuples(st.sampled_from(Family), st.sampled_from(State)), _COUNTS),
    unowned=st.none() | st.dictionaries(st.sampled_from(Unowned), _COUNTS),
    services=st.dictionaries(_KEYS, _STATES, max_size=25),
    folded=_COUNTS,
    listeners=st.lists(_LISTENERS, max_size=12).map(tuple),
    figures=st.none() | _FIGURES,
    destinations=st.none() | _DESTINATIONS,
    peaks=st.dictionaries(st.sampled_from(State), _COUNTS),
)
_PASSES: Final = st.builds(
    PassStatus,
    configured_interval=_TIMES,
    interval=_TIMES,
    passes=_COUNTS,
    failures=st.dictionaries(_NAMES, _COUNTS, max_size=3),
    last_failure=st.none() | _NAMES,
    last_success=st.none() | _TIMES,
    duration=st.none() | _TIMES,
    cpu_seconds=_TIMES,
)
SNAPSHOTS: Final = st.builds(
    Snapshot,
    taken=_TIMES,
    source=st.builds(SourceStatus, st.sampled_from(["netlink", "psutil"]), _NAMES, _TIMES),
    passes=st.dictionaries(st.sampled_from(PassKind), _PASSES),
    namespaces=st.lists(_VIEWS, max_size=2).map(tuple),
)
