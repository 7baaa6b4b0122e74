"""Findings about limits of the kernel that are near or met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sockwatch.export.findings.finding import Finding, Kind
from sockwatch.export.terminal import size
from sockwatch.observe.figures import Figures, HostFigures
from sockwatch.observe.snapshot import NamespaceView

ORPHANS_ACTED_ON: Final = 0.25
"""Of tcp_max_orphans: tcp_too_many_orphans() counts an orphan up to four times."""
TIME_WAIT_NEAR: Final = 0.9
"""Of tcp_max_tw_buckets."""

_TIME_WAIT: Final = (
    "Beyond tcp_max_tw_buckets a connection ends without it, so that late packets of one may be"
    " taken for the next."
)
_ORPHANS: Final = (
    "Their processes closed them, their peers do not answer. From a quarter of tcp_max_orphans on"
    " the kernel resets them."
)
_PRESSURE: Final = "The kernel makes the buffers of all connections small, until it is below {low}."
_USED_UP: Final = "The kernel refuses memory: connections stall and orphans are reset."


def about_limits(view: NamespaceView) -> Iterator[Finding]:
    """Limits of a namespace, and of the host where it is told there."""
    if view.figures is None:
        return
    yield from _time_wait(view.figures)
    if view.figures.host is not None:
        yield from _orphans(view.figures.host)
        yield from _memory(view.figures.host)


def _time_wait(figures: Figures) -> Iterator[Finding]:
    used, limit = figures.time_wait, figures.time_wait_limit
    if used is None or not limit or used < TIME_WAIT_NEAR * limit:
        return
    times = figures.counters.get("time_wait_overflows")
    so_far = f" That has happened {times:,} times so far." if times else ""
    message = f"time_wait near its limit, {used:,} of {limit:,}"
    yield Finding(Kind.TIME_WAIT, message, _TIME_WAIT + so_far, used, limit)


def _orphans(host: HostFigures) -> Iterator[Finding]:
    used, limit = host.orphans, host.orphan_limit
    if used is None or not limit or used < ORPHANS_ACTED_ON * limit:
        return
    message = f"{used:,} orphans, {used / limit:.0%} of the limit of {limit:,}"
    yield Finding(Kind.ORPHANS, message, _ORPHANS, used, limit)


def _memory(host: HostFigures) -> Iterator[Finding]:
    used, levels = host.memory, host.memory_limits
    if used is None or not levels or used < levels["pressure"]:
        return
    low, pressure, high = (size(levels[level]) for level in ("low", "pressure", "high"))
    is_full = used >= levels["high"]
    message = f"TCP buffers take {size(used)} of memory, " + (
        f"over the limit of {high}" if is_full else f"under pressure from {pressure} on"
    )
    meaning = _USED_UP if is_full else _PRESSURE.format(low=low)
    yield Finding(Kind.MEMORY, message, meaning, used, levels["high"])
