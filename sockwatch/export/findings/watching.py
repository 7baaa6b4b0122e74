"""Findings about the watching itself: old figures, a source that was not wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sockwatch.export.findings.finding import Finding, Kind
from sockwatch.export.terminal import printable
from sockwatch.observe.snapshot import PassStatus, Snapshot

MISSED_PASSES: Final = 3
"""Intervals without a good pass before figures are called old: one late pass is no news."""

_WITHOUT: Final = {
    "netlink": "Without it accept queues, units and what no process holds are unknown.",
    "psutil": "Nothing is missing: netlink knows all that psutil does.",
}
"""What it means that the preferred source is not in use."""


def about_watching(snapshot: Snapshot, now: float, preferred: str) -> Iterator[Finding]:
    """Whether the figures are what they are taken for."""
    if not snapshot.namespaces:
        yield Finding(Kind.STALE, "no pass has succeeded yet", "Nothing is known of the sockets.")
    for kind, status in snapshot.passes.items():
        if why := _why_stale(status, now):
            message = f"old figures: the {kind} pass {why}"
            yield Finding(Kind.STALE, message, "They are those of its last success, not of now.")
    if snapshot.source.name != preferred:
        name, reason = snapshot.source.name, printable(snapshot.source.reason)
        yield Finding(Kind.SOURCE, f"read from {name}: {reason}", _WITHOUT[preferred])


def _why_stale(status: PassStatus, now: float) -> str | None:
    if status.last_failure is not None:
        return f"failed ({printable(status.last_failure)})"
    if status.last_success is None:
        return None
    age = now - status.last_success
    if age <= MISSED_PASSES * status.interval:
        return None
    return f"ended {age:,.0f} s ago and is due every {status.interval:g} s"
