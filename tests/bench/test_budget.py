"""The CPU budget on the live daemon: what it makes of load, and of its end."""

from __future__ import annotations

import time

import pytest
from daemon import Daemon, running
from lab import Namespace
from population import ESTABLISHED, SETTINGS, populate

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SOCKETS = 20_000
BUDGET = 0.05
INTERVALS = {"watch": 0.1, "census": 0.2}
FLAGS = (f"--cpu.budget={BUDGET}", "--watch.interval=100ms", "--census.interval=200ms")
"""Without load passes take a third of the budget; with it, they would take twice as much."""
SETTLE = 3.0
"""Seconds for the average of what passes cost to follow."""
SECONDS = 8.0
MARGIN = 1.25
"""The average looks back, and a pass more or less falls into the time measured."""


def intervals(daemon: Daemon) -> dict[str, float]:
    found = daemon.metrics().by("sockwatch_pass_interval_seconds", "pass")
    return {kind: interval for (kind,), interval in found.items()}


def share(daemon: Daemon, seconds: float) -> float:
    """Of one core, that passes take."""

    def spent() -> float:
        return daemon.metrics().sum("sockwatch_pass_cpu_seconds_total")

    before, began = spent(), time.monotonic()
    time.sleep(seconds)
    return (spent() - before) / (time.monotonic() - began)


def test_load_stretches_the_intervals_and_its_end_brings_them_back() -> None:
    with Namespace(sysctls=SETTINGS) as namespace, running(*FLAGS, namespace=namespace) as daemon:
        populate(namespace, ESTABLISHED, SOCKETS)
        daemon.until(lambda: intervals(daemon)["watch"] > INTERVALS["watch"], "longer intervals")
        time.sleep(SETTLE)
        assert BUDGET / 2 < share(daemon, SECONDS) < BUDGET * MARGIN
        namespace.run("ss", "--kill", "--tcp", "state", "established")
        daemon.until(lambda: intervals(daemon) == INTERVALS, "the intervals as configured")
