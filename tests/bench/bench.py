"""`make bench`: what looking at every socket costs, beside the kernel's own dump and peers.

    BENCH_SOCKETS=10000,100000 python tests/bench/bench.py [--write]

Exits with 1 if a bound is missed. `--write` puts tables and plot into docs/benchmark/.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

from lab import Namespace  # noqa: E402
from population import (  # noqa: E402
    CLOSE_WAIT,
    ESTABLISHED,
    MANY_LISTENERS,
    MANY_PORTS,
    MIXED,
    SETTINGS,
    SILENCE,
    TIME_WAIT,
    Mixture,
    populate,
    populate_close_wait,
)
from served import ASKED, CLIENTS, Load, load, rendering, under  # noqa: E402
from subjects import (  # noqa: E402
    ALL_STUCK,
    FOLLOWED,
    Cost,
    followed,
    measured_side_by_side,
    passes,
    peers,
)
from table import (  # noqa: E402
    HEADINGS,
    Bound,
    Line,
    cells,
    lines,
    markdown,
    markdown_of_bounds,
    svg,
)

DOCUMENTATION: Final = ROOT / "docs/benchmark"
ROUNDS: Final = 9
PEER_ROUNDS: Final = 2
POPULATIONS: Final = (ESTABLISHED, MIXED, MANY_PORTS, MANY_LISTENERS)


class Limit(NamedTuple):
    """The most CPU that a look may take, as a multiple of the floor."""

    population: str
    look: str
    ratio: float


LIMITS: Final = (
    Limit(ESTABLISHED.name, "census", 1.5),
    Limit(ESTABLISHED.name, "watch", 0.2),
    Limit(MIXED.name, "census", 1.8),
    Limit(MANY_PORTS.name, "census", 1.8),
    Limit(MANY_PORTS.name, "watch", 0.25),  # listeners are watched, and here they are as many
    Limit(MANY_LISTENERS.name, "census", 1.5),
    Limit(MANY_LISTENERS.name, "watch", 0.2),
    Limit(CLOSE_WAIT.name, FOLLOWED, 2.5),
    Limit(CLOSE_WAIT.name, ALL_STUCK, 2.5),
)
JUDGED_FROM: Final = 100_000
"""Sockets; with fewer most of the time goes into walking the kernel's tables, however empty."""
MOST_FOLLOWED: Final = 200_000
"""The default of tracking.limit."""
PLOTTED: Final = 100_000
"""Sockets in the plot."""
NOT_ANSWERED: Final = 2.0
"""Per cent of the requests under load; the clients share the machine."""


def measured(mixture: Mixture, sockets: int, *, with_peers: bool) -> list[Line]:
    """Every look at one population."""
    with Namespace(sysctls=SETTINGS) as namespace:
        namespace.filter(SILENCE)
        populate(namespace, mixture, sockets)
        costs: dict[str, list[Cost]] = namespace.call(
            measured_side_by_side, passes, ROUNDS, timeout=900.0
        )
        for _ in range(PEER_ROUNDS if with_peers else 0):
            for peer in peers():
                if peer.installed and sockets <= peer.most_sockets:
                    costs.setdefault(peer.name, []).append(peer.measure(namespace))
    return lines(mixture.name, sockets, costs)


def measured_following(connections: int) -> list[Line]:
    """Watch passes that follow so many connections in CLOSE_WAIT; there are no others."""
    with Namespace(sysctls=SETTINGS) as namespace:
        populate_close_wait(namespace, connections)
        costs = namespace.call(measured_side_by_side, followed, ROUNDS, timeout=900.0)
    return lines(CLOSE_WAIT.name, connections, costs)


def missed(
    results: list[Line], slack: float = 1.0, judged_from: int = JUDGED_FROM
) -> Iterator[str]:
    """A sentence for every ratio that is over its limit times `slack`."""
    limits = {(limit.population, limit.look): limit.ratio * slack for limit in LIMITS}
    for line in results:
        limit = limits.get((line.population, line.look))
        if limit is not None and line.ratio > limit and line.sockets >= judged_from:
            yield (
                f"{line.look} of {line.sockets:,} sockets ({line.population}) takes "
                f"{line.ratio:.2f} x the floor, at most {limit:.2f} x is allowed"
            )


def look_at_passes(sizes: list[int], *, with_peers: bool) -> list[Line]:
    """The table of all looks at all populations."""
    results: list[Line] = []
    print(" | ".join(HEADINGS))
    for sockets in sizes:
        for mixture in POPULATIONS:
            peers_too = with_peers and mixture is ESTABLISHED
            found = measured(mixture, sockets, with_peers=peers_too)
            results += found
            for line in found:
                print(" | ".join(cells(line)), flush=True)
    found = measured_following(MOST_FOLLOWED)
    for line in found:
        print(" | ".join(cells(line)), flush=True)
    return results + found


def look_at_daemon(sizes: list[int]) -> list[Bound]:
    """Memory, answers under load and rendering."""
    found: list[Bound] = []
    for bound in _bounds(sizes):
        print(bound, flush=True)
        found.append(bound)
    return found


def _bounds(sizes: list[int]) -> Iterator[Bound]:
    for name, seconds in rendering(2_000).items():
        yield Bound(f"rendering 2,000 series, {name}", seconds * 1e3, "ms", 20)
    for sockets in sizes:
        for mixture in (ESTABLISHED, TIME_WAIT):
            memory, latency = under(mixture, sockets)
            about = f"{sockets:,} {mixture.name}"
            yield Bound(f"{about}: RSS above idle", memory.growth / 1e6, "MB", 10)
            yield Bound(f"{about}: scrape, 99th percentile", latency.p99 * 1e3, "ms", 50)
            yield Bound(f"{about}: scrape, median", latency.median * 1e3, "ms", 2)
    memory, _ = under(CLOSE_WAIT, 2 * MOST_FOLLOWED, "--ages.close-wait=1s")
    yield Bound(f"{MOST_FOLLOWED:,} stuck: RSS above idle", memory.growth / 1e6, "MB", 80)
    yield from _bounds_of_load(load(10_000, MIXED))


def _bounds_of_load(found: Load) -> Iterator[Bound]:
    asked = f"{ASKED} requests per second on {CLIENTS} connections"
    ratio = found.pass_cpu_loaded / found.pass_cpu_alone
    unanswered = max(0.0, 1 - found.rate / ASKED)
    yield Bound(f"{asked}: not answered", 100 * unanswered, "%", NOT_ANSWERED)
    yield Bound(f"{asked}: CPU of a watch pass, as a multiple", ratio, "x", 1.1)


def main() -> int:
    """Measure, print, and say what is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmark/")
    parser.add_argument("--no-peers", action="store_true", help="measure sockwatch only")
    parser.add_argument("--no-daemon", action="store_true", help="measure passes only")
    parser.add_argument("--no-passes", action="store_true", help="measure the daemon only")
    args = parser.parse_args()
    sizes = [int(size) for size in os.environ.get("BENCH_SOCKETS", "10000,100000").split(",")]
    written: dict[str, str] = {}
    problems: list[str] = []
    if not args.no_passes:
        results = look_at_passes(sizes, with_peers=not args.no_peers)
        problems += missed(results)
        written |= {"table.md": markdown(results), "cost.svg": plot(results, sizes)}
    if not args.no_daemon:
        bounds = look_at_daemon(sizes)
        problems += [f"missed: {bound}" for bound in bounds if not bound.met]
        written["daemon.md"] = markdown_of_bounds(bounds)
    for name, text in written.items() if args.write else ():
        (DOCUMENTATION / name).write_text(text)
    print("\n".join(problems or ["every bound is met"]))
    return 1 if problems else 0


def plot(results: list[Line], sizes: list[int]) -> str:
    """What looking at established sockets costs, as many as the README tells of if possible."""
    sockets = PLOTTED if PLOTTED in sizes else max(sizes)
    chosen = [
        line for line in results if (line.population, line.sockets) == (ESTABLISHED.name, sockets)
    ]
    return svg(f"{sockets:,} established sockets", chosen)


if __name__ == "__main__":
    sys.exit(main())
