"""`make bench`: what looking at every socket costs, beside the kernel's own dump and peers.

    BENCH_SOCKETS=10000,100000 python tests/bench/bench.py [--write]

Exits with 1 if a ratio is missed. `--write` puts table and plot into docs/benchmark/.
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
from served import ASKED, CLIENTS, load, rendering, under  # noqa: E402
from subjects import (  # noqa: E402
    ALL_STUCK,
    FOLLOWED,
    Cost,
    followed,
    measured_side_by_side,
    passes,
    peers,
)
from table import HEADINGS, Line, cells, lines, markdown, svg  # noqa: E402

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
ANSWERED: Final = 0.98
"""Share of the requests under load; the clients share the machine."""


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


def look_at_daemon(sizes: list[int]) -> list[str]:
    """Memory, answers under load and rendering; what is missed."""
    problems: list[str] = []

    def check(what: str, value: float, most: float, unit: str) -> None:
        print(f"{what}: {value:.1f} {unit} (at most {most:g})", flush=True)
        if value > most:
            problems.append(f"{what}: {value:.1f} {unit}, at most {most:g} is allowed")

    for name, seconds in rendering(2_000).items():
        check(f"rendering 2,000 series, {name}", seconds * 1e3, 20, "ms")
    for sockets in sizes:
        for mixture, growth in ((ESTABLISHED, 10), (TIME_WAIT, 10)):
            memory, latency = under(mixture, sockets)
            about = f"{sockets:,} {mixture.name}"
            print(f"{about}: idle {memory.idle / 1e6:.1f} MB RSS, {latency.scrapes} scrapes")
            check(f"{about}: RSS above idle", memory.growth / 1e6, growth, "MB")
            check(f"{about}: scrape, 99th percentile", latency.p99 * 1e3, 50, "ms")
            check(f"{about}: scrape, median", latency.median * 1e3, 2, "ms")
    memory, _ = under(CLOSE_WAIT, 2 * MOST_FOLLOWED, "--ages.close-wait=1s")
    check(f"{MOST_FOLLOWED:,} stuck: RSS above idle", memory.growth / 1e6, 80, "MB")
    found = load(10_000, MIXED)
    ratio = found.pass_cpu_loaded / found.pass_cpu_alone
    answered = f"{found.rate:.0f} requests per second on {CLIENTS} connections"
    print(answered)
    if found.rate < ANSWERED * ASKED:
        problems.append(f"{answered}, {ASKED} were asked for")
    check("CPU of a watch pass meanwhile, as a multiple", ratio, 1.1, "x")
    return problems


def main() -> int:
    """Measure, print, and say what is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/benchmark/")
    parser.add_argument("--no-peers", action="store_true", help="measure sockwatch only")
    parser.add_argument("--no-daemon", action="store_true", help="measure passes only")
    parser.add_argument("--no-passes", action="store_true", help="measure the daemon only")
    args = parser.parse_args()
    sizes = [int(size) for size in os.environ.get("BENCH_SOCKETS", "10000,100000").split(",")]
    problems: list[str] = []
    if not args.no_passes:
        results = look_at_passes(sizes, with_peers=not args.no_peers)
        problems += missed(results)
        if args.write:
            write(results, max(sizes))
    if not args.no_daemon:
        problems += look_at_daemon(sizes)
    print("\n".join(problems or ["every bound is met"]))
    return 1 if problems else 0


def write(results: list[Line], sockets: int) -> None:
    """Put table and plot where the documentation shows them."""
    folder = ROOT / "docs/benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(markdown(results))
    chosen = [
        line for line in results if (line.population, line.sockets) == (ESTABLISHED.name, sockets)
    ]
    (folder / "cost.svg").write_text(svg(f"{sockets:,} established sockets", chosen))


if __name__ == "__main__":
    sys.exit(main())
