"""`make bench-fleet`: what many hosts cost one Prometheus with the shipped rules.

    python tests/bench/fleet.py [--hosts 1000] [--minutes 6] [--interval 15s] [--write]

Every host has a page of some 450 samples of its own. Figures are of the second half of the time;
rules that look further back than the whole of it would find more samples on a server that is older.
`--write` puts the table into docs/benchmark/.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

import yaml  # noqa: E402
from alerting import rules  # noqa: E402
from alerting.fleet import answering, targets  # noqa: E402
from alerting.servers import Json, Prometheus, get  # noqa: E402
from daemon import Metrics  # noqa: E402

LOOK_EVERY: Final = 5.0
"""Seconds."""
MOST_MINUTES: Final = 30.0
OF_A_SCRAPE: Final = 5
"""Series that Prometheus adds for each target: up and scrape_*."""
SLOWEST: Final = 5


class Look(NamedTuple):
    """What Prometheus tells of itself at one moment."""

    at: float
    series: float
    samples: float
    cpu: float
    resident: float
    groups: dict[str, float]
    """Seconds of the last evaluation by group."""
    missed: float


def look(prometheus: Prometheus) -> Look:
    metrics = Metrics(get(f"http://{prometheus.address}/metrics").decode())
    last = metrics.by("prometheus_rule_group_last_duration_seconds", "rule_group")
    return Look(
        time.monotonic(),
        metrics.sum("prometheus_tsdb_head_series"),
        metrics.sum("prometheus_tsdb_head_samples_appended_total"),
        metrics.sum("process_cpu_seconds_total"),
        metrics.sum("process_resident_memory_bytes"),
        {group.split(";")[-1]: seconds for (group,), seconds in last.items()},
        metrics.sum("prometheus_rule_group_iterations_missed_total"),
    )


def config(address: str, hosts: int, interval: str) -> Json:
    found: Json = yaml.safe_load((rules.FOLDER / "fleet.leaf.yml").read_text())
    del found["alerting"], found["remote_write"]
    found["global"] |= {"scrape_interval": interval, "evaluation_interval": interval}
    found["scrape_configs"][0]["static_configs"] = targets(address, hosts)
    return found


def looks(prometheus: Prometheus, seconds: float) -> Iterator[Look]:
    """Look again and again for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(LOOK_EVERY)
        yield look(prometheus)


def throughput(seen: Sequence[Look]) -> Iterator[tuple[str, str]]:
    first, last = seen[0], seen[-1]
    passed = last.at - first.at
    yield "samples a second", f"{(last.samples - first.samples) / passed:,.0f}"
    yield "CPU, share of one core", f"{(last.cpu - first.cpu) / passed:.2f}"
    yield "resident memory, at most", f"{max(one.resident for one in seen) / 1e9:.2f} GB"
    for group in last.groups:
        each = [one.groups[group] for one in seen]
        yield f"evaluation of {group}", f"{median(each):.2f} s, at most {max(each):.2f} s"
    yield "evaluations missed", f"{last.missed - first.missed:.0f}"


def storage(prometheus: Prometheus, hosts: int) -> Iterator[tuple[str, str]]:
    scraped = prometheus.value("sum(scrape_samples_scraped)") + OF_A_SCRAPE * hosts
    recorded = look(prometheus).series - scraped
    for name, found in (("raw", scraped), ("recorded", recorded)):
        yield f"{name} series", f"{found:,.0f} ({found / hosts:,.0f} a host)"
    yield "rules that fail", f"{len(prometheus.unhealthy())}"


def federation(prometheus: Prometheus) -> Iterator[tuple[str, str]]:
    """What a global server would get."""
    above = yaml.safe_load((rules.FOLDER / "fleet.global.yml").read_text())
    (match,) = above["scrape_configs"][0]["params"]["match[]"]
    began = time.monotonic()
    body = prometheus.federate(match)
    took = time.monotonic() - began
    series = sum(1 for line in body.splitlines() if not line.startswith(b"#"))
    yield "series for the global server", f"{series:,}"
    yield "one federation", f"{took:.2f} s, {len(body) / 1e6:.1f} MB"


def slowest(prometheus: Prometheus) -> Iterator[tuple[str, str]]:
    groups = prometheus.ask("rules")["data"]["groups"]
    each = [rule for group in groups for rule in group["rules"]]
    each.sort(key=lambda rule: float(rule["evaluationTime"]), reverse=True)
    for rule in each[:SLOWEST]:
        severity = rule.get("labels", {}).get("severity", "")
        yield f"{rule['name']} {severity}".strip(), f"{rule['evaluationTime']:.2f} s"


def measured(wanted: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str]]:
    """Rows of the table."""
    for file in (rules.RULES, rules.FLEET_RULES):
        shutil.copy(file, folder)
    with answering() as address:
        settings = config(address, wanted.hosts, wanted.interval)
        with Prometheus(folder, wanted.prometheus, settings) as prometheus:
            seen = list(looks(prometheus, 60 * wanted.minutes))
            yield "hosts, scraped and evaluated every", f"{wanted.hosts:,}, {wanted.interval}"
            yield from storage(prometheus, wanted.hosts)
            yield from throughput(seen[len(seen) // 2 :])
            yield from federation(prometheus)
            yield from (
                (f"slow rule {number}", f"`{name}`, {took}")
                for number, (name, took) in enumerate(slowest(prometheus), 1)
            )
            yield "time watched", f"{wanted.minutes:g} min"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--interval", default="15s")
    parser.add_argument("--prometheus", default="prometheus")
    parser.add_argument("--write", action="store_true")
    found = parser.parse_args()
    if not 0 < found.minutes <= MOST_MINUTES:
        parser.error(f"--minutes must be above 0 and at most {MOST_MINUTES:g}")
    return found


def main() -> None:
    wanted = arguments()
    with tempfile.TemporaryDirectory(prefix="sockwatch-fleet-") as folder:
        rows = [("what", "figure"), ("---", "---:"), *measured(wanted, Path(folder))]
    table = "".join(f"| {what} | {figure} |\n" for what, figure in rows)
    print(table, end="")
    if wanted.write:
        (ROOT / "docs/benchmark/fleet.md").write_text(table)


if __name__ == "__main__":
    main()
