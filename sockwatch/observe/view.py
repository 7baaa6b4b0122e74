"""One namespace's part of a Snapshot, composed of the newest watch and the newest census."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from operator import itemgetter
from typing import Final

from sockwatch.observe.listeners import Grouping, UnitOf, listeners
from sockwatch.observe.services import Counted, Telling, told_apart
from sockwatch.observe.snapshot import NamespaceView
from sockwatch.tcp.records import Counts, Reading
from sockwatch.tcp.states import Family, State, Unowned

CENSUS_STATES: Final = (State.ESTABLISHED, State.TIME_WAIT)
"""States that only a census counts; all others are as of the last watch."""
CONNECTED_STATES: Final = (
    State.ESTABLISHED,
    State.FIN_WAIT1,
    State.FIN_WAIT2,
    State.CLOSE_WAIT,
    State.LAST_ACK,
    State.CLOSING,
)
"""States in which an MPTCP socket is the connection; before and after, a TCP socket is."""

_FAMILY: Final = itemgetter(0)
"""Of a Row."""


_NO_CENSUS: Final[Counted] = {}


def view(  # noqa: PLR0913  two readings and how to read them
    watch: Reading,
    bulk: Counts | None,
    unit_of: UnitOf,
    limit: int,
    *,
    group: Grouping = listeners,
    tell: Telling = told_apart,
) -> NamespaceView:
    """Compose the view of sockwatch's own network namespace.

    Args:
        watch: the newest reading, of either pass.
        bulk: ESTABLISHED and TIME_WAIT of the newest census, `None` before the first.
        unit_of: names cgroup ids.
        limit: label sets of services at most.
        group: groups listening sockets.
        tell: tells services apart.
    """
    found = group(watch.listeners, unit_of)
    counted = bulk.services if bulk else _NO_CENSUS
    kept, folded = tell(watch.watched.services, counted, found, unit_of, limit)
    return NamespaceView(
        netns="",
        sockets=_sockets(watch, bulk),
        unowned=_unowned(watch.watched, bulk),
        services=kept,
        folded=folded,
        listeners=found,
        multipath=_multipath(watch.watched, bulk),
    )


def _sockets(watch: Reading, bulk: Counts | None) -> Mapping[tuple[Family, State], int]:
    """Counts for every family and every state that was measured, zeros included."""
    counted = Counter(watch.watched.sockets)
    for family, number in Counter(map(_FAMILY, watch.listeners)).items():
        counted[family, State.LISTEN] += number
    measured = set(State) - set(() if bulk else CENSUS_STATES)
    if bulk:
        counted += bulk.sockets
    return {
        (family, state): counted[family, state] for family in Family for state in sorted(measured)
    }


def _multipath(watched: Counts, bulk: Counts | None) -> Mapping[tuple[Family, State], int] | None:
    """Counts for every family and every state that was measured, zeros included."""
    if watched.multipath is None:
        return None
    known = bulk.multipath if bulk and bulk.multipath is not None else None
    counted = watched.multipath + (known or Counter())
    states = CONNECTED_STATES if known is not None else CONNECTED_STATES[1:]
    return {(family, state): counted[family, state] for family in Family for state in states}


def _unowned(watched: Counts, bulk: Counts | None) -> Mapping[Unowned, int] | None:
    if watched.unowned is None or bulk is None or bulk.unowned is None:
        return None
    counted = watched.unowned + bulk.unowned
    return {kind: counted[kind] for kind in Unowned}
