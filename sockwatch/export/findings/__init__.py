"""What looks wrong in one snapshot.

One look has no rates, so it cannot tell what is growing from what passes through. It judges by
numbers that a healthy host does not show at a moment, however busy it is: what is found is worth
looking at, and silence proves nothing about slow leaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sockwatch.export.findings.finding import Finding, Kind
from sockwatch.export.findings.limits import about_limits
from sockwatch.export.findings.ports import about_destinations, services_without_answer
from sockwatch.export.findings.queues import about_queues
from sockwatch.export.findings.sockets import about_sockets
from sockwatch.export.findings.watching import about_watching
from sockwatch.observe.snapshot import NamespaceView, Snapshot

__all__ = ["Finding", "Kind", "find"]


def find(snapshot: Snapshot, *, now: float, preferred: str = "netlink") -> tuple[Finding, ...]:
    """Say what looks wrong, by kind and within it the largest count first.

    Args:
        snapshot: the moment to judge.
        now: Unix time in seconds, against which the age of the figures is judged.
        preferred: the source that was asked for; another one in use is a finding.
    """
    found = [*about_watching(snapshot, now, preferred)]
    for view in snapshot.namespaces:
        found += [replace(one, netns=view.netns) for one in _about(view)]
    order = list(Kind)
    return tuple(sorted(found, key=lambda one: (order.index(one.kind), -(one.count or 0))))


def _about(view: NamespaceView) -> Iterator[Finding]:
    yield from about_queues(view)
    yield from about_destinations(view)
    yield from about_sockets(view, services_without_answer(view))
    yield from about_limits(view)
