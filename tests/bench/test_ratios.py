"""The benchmark's ratios at a size that every machine can make, with generous margins."""

from __future__ import annotations

import gc
from pathlib import Path
from resource import getpagesize

import pytest
from bench import measured, measured_following, missed
from lab import Namespace
from population import ESTABLISHED, MIXED, SETTINGS, Mixture, populate

from sockwatch.config import Config
from sockwatch.observe.snapshot import PassKind
from sockwatch.poll import Poller

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

SOCKETS = 20_000
MARGIN = 1.6
"""For a machine that does other things meanwhile, and for what a pass costs whatever it reads."""
PASSES = 400
GROWTH_BYTES = 1_000_000


@pytest.mark.parametrize("mixture", [ESTABLISHED, MIXED], ids=lambda mixture: mixture.name)
def test_passes_cost_little_more_than_the_bare_dump(mixture: Mixture) -> None:
    results = measured(mixture, SOCKETS, with_peers=False)
    assert not [*missed(results, MARGIN)]


def test_following_every_connection_costs_little_more_than_the_bare_dump() -> None:
    assert not [*missed(measured_following(SOCKETS), MARGIN)]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


def passes_leave_behind(passes: int) -> int:
    """Bytes that the second half of so many passes adds to this process."""
    poller = Poller(Config())
    kinds = [PassKind.CENSUS, *[PassKind.WATCH] * 14]
    halves = []
    for _ in range(2):
        for number in range(passes // 2):
            assert poller.step(kinds[number % len(kinds)])
            poller.snapshot()
        gc.collect()
        halves.append(resident_bytes())
    return halves[1] - halves[0]


def test_memory_does_not_grow_with_the_number_of_passes() -> None:
    with Namespace(sysctls=SETTINGS) as namespace:
        populate(namespace, MIXED, 2_000)
        assert namespace.call(passes_leave_behind, PASSES, timeout=100) < GROWTH_BYTES
