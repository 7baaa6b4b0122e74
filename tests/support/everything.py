"""A snapshot in which something is known of everything, so that every metric has a sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from kernel_figures import FIGURES, with_figures
from snapshots import TAKEN, listener, outbound, service, snapshot

from sockwatch.kernel.failures import Cause as Failure
from sockwatch.observe.snapshot import (
    OTHER,
    Destinations,
    DestinationUse,
    PassKind,
    PassStatus,
    ServiceKey,
    Snapshot,
    Stuck,
    StuckKey,
)
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.states import Direction, Family, State, Unowned

APP: Final = ServiceKey(Direction.INBOUND, "8080", "app.service")
DATABASE: Final = ServiceKey(Direction.OUTBOUND, "5432", "app.service")

STUCK: Final = Stuck(
    connections={
        StuckKey(APP, State.CLOSE_WAIT, Cause.NOT_CLOSED): 400,
        StuckKey(APP, State.CLOSE_WAIT, Cause.DATA_UNREAD): 3,
        StuckKey(DATABASE, State.SYN_SENT, Cause.UNANSWERED): 1,
    },
    oldest={(APP, State.CLOSE_WAIT): 5400.5, (DATABASE, State.SYN_SENT): 12.25},
    ages={
        State.CLOSE_WAIT: {0.5: 9, 61.0: 300, 5400.5: 103},
        State.SYN_SENT: {12.25: 1},
        State.LAST_ACK: {},
    },
    limits={State.CLOSE_WAIT: 60.0, State.SYN_SENT: 10.0, State.LAST_ACK: 30.0},
    marked=(),
    units={},
    taken=5000.0,
    lower_bounds=frozenset(),
    followed=413,
    most_followed=200_000,
    stride=1,
    kernel_held=41.5,
)
DESTINATIONS: Final = Destinations(
    ports=28_232,
    in_use_max=9_000,
    crowded=(DestinationUse("192.0.2.1", "198.51.100.7:5432", 9_000, 8_800),),
    unanswered={"198.51.100.9:443": 3},
)
MULTIPATH: Final = {(Family.INET, State.ESTABLISHED): 5, (Family.INET6, State.CLOSE_WAIT): 2}
PEAKS: Final = {State.CLOSE_WAIT: 500, State.SYN_RECV: 7, State.ESTABLISHED: 170}


def passes(passed: int, failed: int) -> PassStatus:
    """Passes of which some were refused as busy."""
    failures = {cause.value: failed if cause is Failure.BUSY else 0 for cause in Failure}
    return PassStatus(1.0, 1.5, passed, failures, None, TAKEN, 0.004, 0.1875)


def _host() -> Snapshot:
    seen = snapshot(
        service(8080, "app.service", established=120, close_wait=412, time_wait=38),
        service(22),
        outbound(5432, "app.service", established=9, syn_sent=1),
        service(OTHER, OTHER, established=31),
        replace(
            listener(8080, "app.service", queue=129, limit=256, sockets=2),
            peak=250,
            half_open=7,
            drops=11,
        ),
        listener(22, address="::"),
        ipv6={State.CLOSE_WAIT: 12},
        unowned={Unowned.ORPHAN: 3, Unowned.MINI: 38},
        folded=7,
    )
    (view,) = seen.namespaces
    view = replace(view, stuck=STUCK, destinations=DESTINATIONS, peaks=PEAKS, multipath=MULTIPATH)
    known = {PassKind.WATCH: passes(1800, 2), PassKind.CENSUS: passes(120, 0)}
    return with_figures(replace(seen, namespaces=(view,), passes=known), FIGURES)


EVERYTHING: Final = _host()
"""One host in trouble, as of `TAKEN`."""
