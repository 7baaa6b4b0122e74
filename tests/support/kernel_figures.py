"""Figures made by hand, for tests of everything that is downstream of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sockwatch.observe.figures import ABORTS, COUNTERS, Figures, HostFigures
from sockwatch.observe.snapshot import Snapshot

MIB: Final = 1 << 20

HOST_FIGURES: Final = HostFigures(
    orphans=1_311,
    orphan_limit=65_536,
    memory=39 * MIB,
    memory_limits={"low": 736 * MIB, "pressure": 981 * MIB, "high": 1_472 * MIB},
    hidden=3,
)
FIGURES: Final = Figures(
    counters={name: number for number, name in enumerate(COUNTERS)},
    aborts={reason: 100 + number for number, reason in enumerate(ABORTS)},
    time_wait=117_965,
    time_wait_limit=131_072,
    ephemeral_ports=28_232,
    somaxconn=4_096,
    max_syn_backlog=1_024,
    host=HOST_FIGURES,
)
"""Those of a host on which everything can be read; the first counter is 0."""
UNKNOWN: Final = Figures({}, {}, None, None, None, None, None)
"""Those of a namespace in which nothing can be read."""


def with_figures(taken: Snapshot, *each: Figures | None) -> Snapshot:
    """The same snapshot with figures for each of its namespaces."""
    views = zip(taken.namespaces, each, strict=True)
    return replace(taken, namespaces=tuple(replace(view, figures=one) for view, one in views))
