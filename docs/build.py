"""Writes docs/metrics.md: `python docs/build.py`, or with `--check` only compares.

What is told of a metric comes from the families that export it; where it is used, from the alerts
and the dashboard that are shipped. A metric that neither uses has its reason here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client.metrics_core import Metric

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]

import boards  # noqa: E402
import promql  # noqa: E402
from alerting.rules import ALERTS, RECORDS  # noqa: E402
from everything import EVERYTHING  # noqa: E402

from sockwatch.export.families import families  # noqa: E402
from sockwatch.export.own import HttpCounts, Reloads, own_families  # noqa: E402

OUTPUT: Final = ROOT / "docs" / "metrics.md"
TYPES: Final = {"gaugehistogram": "gauge histogram"}
DURATIONS: Final = {"__rate_interval": "4m", "__range": "1h"}
"""What stands for Grafana's variables, so that its queries can be parsed."""

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Host totals": (
        "sockwatch_tcp_sockets",
        "sockwatch_mptcp_",
        "sockwatch_tcp_unowned_",
        "sockwatch_tcp_hidden_",
        "sockwatch_tcp_connections_peak",
    ),
    "Services": (
        "sockwatch_tcp_connections",
        "sockwatch_tcp_stuck_",
        "sockwatch_tcp_oldest_",
        "sockwatch_tcp_kernel_held_",
        "sockwatch_tcp_state_",
        "sockwatch_folded_",
    ),
    "Listeners": ("sockwatch_listener_",),
    "Destinations": ("sockwatch_ephemeral_", "sockwatch_destination_"),
    "Kernel counters and limits": ("sockwatch_tcp_", "sockwatch_somaxconn"),
    "sockwatch itself": ("sockwatch_", "process_"),
}
"""Beginnings of names; the first that fits counts."""

UNUSED: Final[Mapping[str, str]] = {
    "sockwatch_mptcp_connections": "few have any; `sockwatch_tcp_connections` has them in it",
    "sockwatch_tcp_kernel_held_oldest_age_seconds": "never beyond what tcp_fin_timeout allows; no "
    "process can leak what the kernel holds",
    "sockwatch_tracking_sampling_ratio": "1 until `sockwatch_tracked_connections` meets its limit, "
    "which the dashboard shows",
    "sockwatch_somaxconn": "a setting; the limit of each listener has it in it",
    "sockwatch_tcp_max_syn_backlog": "a setting, which the kernel obeys only without SYN cookies",
    "sockwatch_collector_success": "for rules of your own in the style of other exporters; the "
    "alerts go by the age and the failures of passes",
    "sockwatch_config_last_reload_success_timestamp_seconds": "tells whoever gets the alert on "
    "`sockwatch_config_last_reload_successful` how old the configuration in use is",
    "sockwatch_http_requests_in_flight": "of one moment; what was turned away tells of too many",
    "process_virtual_memory_bytes": "of every Prometheus client; address space costs nothing",
    "process_cpu_seconds_total": "of every Prometheus client; passes have their own",
    "process_open_fds": "of every Prometheus client; connections are capped far below the limit",
    "process_max_fds": "see `process_open_fds`",
}
"""Why neither an alert nor the dashboard uses a metric."""

INTRODUCTION: Final = """\
# Metrics

Made by `make metrics` from the program, its alerts and its dashboard; do not edit.

* A gauge is as of the last pass that measured it, not of the scrape:
  `sockwatch_last_pass_timestamp_seconds` says when that was.
* What nobody could measure is absent, never 0. A series that an alert depends on is there at 0 from
  the first pass on.
* `netns` is empty for the host's own network namespace. `unit` is the systemd unit or container of
  the socket's cgroup, empty if unknown; `port="other",unit="other"` are label sets folded together.
* Times are in seconds and sizes in bytes, as the names say; all else are numbers of what is named.
* A gauge histogram is a histogram of what is there now. In the text format, which has none, its sum
  and count are gauges whose names end with `_gsum` and `_gcount`.

The alerts are in [deploy/prometheus](../deploy/prometheus/README.md), each linked to its runbook;
*panels* are those of the dashboard in [grafana](../grafana/README.md).
"""
HEADINGS: Final = ("metric", "type", "labels", "meaning", "used by")


class Use(NamedTuple):
    """Where a metric is used."""

    alerts: tuple[str, ...]
    panels: tuple[str, ...]


def exported() -> Iterator[Metric]:
    """All families, with samples of each."""
    own = own_families(Reloads(successful=True, success_time=0), HttpCounts(0, {"limit": 0}), 0.02)
    return chain(families(EVERYTHING), own)


def asked_for(expression: object) -> set[str]:
    """The metrics and recorded series that an expression selects."""
    return {str(selector.name) for selector in promql.selectors(str(expression))}


def through_records(names: set[str]) -> set[str]:
    """The same with what recorded series among them are made of."""
    found, unseen = set[str](), names
    while unseen:
        found |= unseen
        recorded = (rule["expr"] for rule in RECORDS if rule["record"] in unseen)
        unseen = set().union(*map(asked_for, recorded)) - found
    return found


def uses() -> Mapping[str, Use]:
    """Where each series is used, as alerts and dashboard are written."""
    alerts: dict[str, dict[str, None]] = {}
    panels: dict[str, dict[str, None]] = {}
    for rule in ALERTS:
        for name in through_records(asked_for(rule["expr"])):
            alerts.setdefault(name, {})[rule["alert"]] = None
    for query in boards.queries(boards.load()):
        for name in asked_for(boards.interpolate(query.expression, DURATIONS)):
            panels.setdefault(name, {})[query.panel] = None
    return {
        name: Use(tuple(alerts.get(name, ())), tuple(panels.get(name, ())))
        for name in alerts | panels
    }


def used_by(family: Metric, used: Mapping[str, Use]) -> str:
    """The alerts and panels of a family, or why there are none."""
    some = [used[name] for name in {sample.name: None for sample in family.samples} if name in used]
    alerts = dict.fromkeys(alert for use in some for alert in use.alerts)
    panels = dict.fromkeys(panel for use in some for panel in use.panels)
    told = [f"[{name}](../deploy/prometheus/runbooks/{name}.md)" for name in alerts]
    told += [f"*{name}*" for name in panels]
    name = named(family)
    if bool(told) == (name in UNUSED):
        state = "used, yet a reason for no use" if told else "used by nothing, and no reason"
        raise SystemExit(f"{name} is {state} stands in docs/build.py")
    return ", ".join(told) or f"none: {UNUSED[name]}"


def named(family: Metric) -> str:
    """The name that its series begin with."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def row(family: Metric, used: Mapping[str, Use]) -> str:
    """A line of the table."""
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels)
    cells = (
        f"`{named(family)}`",
        TYPES.get(family.type, family.type),
        ", ".join(label for label in labels if label != "le"),
        family.documentation,
        used_by(family, used),
    )
    return line(*(cell.replace("|", "\\|") for cell in cells))


def line(*cells: str) -> str:
    """Cells as Markdown has them."""
    return f"| {' | '.join(cells)} |"


def section_of(family: Metric) -> str:
    """The title that a family stands under."""
    name = named(family)
    return next(title for title, starts in SECTIONS.items() if name.startswith(starts))


def page() -> str:
    """The whole page."""
    used, tables = uses(), {title: list[str]() for title in SECTIONS}
    for family in exported():
        tables[section_of(family)].append(row(family, used))
    head = [line(*HEADINGS), line(*("---" for _ in HEADINGS))]
    parts = ["\n".join([f"## {title}\n", *head, *rows]) for title, rows in tables.items()]
    return "\n\n".join([INTRODUCTION.rstrip(), *parts]) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is up to date; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the table of metrics.")
    parser.add_argument("--check", action="store_true", help="only compare, exit 1 if different")
    text = page()
    if not parser.parse_args().check:
        OUTPUT.write_text(text)
        return 0
    if OUTPUT.exists() and OUTPUT.read_text() == text:
        return 0
    print(f"{OUTPUT.name} is not what the generator writes: run make metrics")
    return 1


if __name__ == "__main__":
    sys.exit(main())
