"""What looks wrong in one snapshot.

One look has no ages, so it cannot tell a connection that is stuck from one that passes through.
It judges by numbers that a healthy host does not show at a moment, however busy it is: what is
found is worth looking at, and silence proves nothing about slow leaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from sockwatch.export.names import endpoint, owner, service_name, with_unit
from sockwatch.export.terminal import printable
from sockwatch.observe.snapshot import Listener, NamespaceView, PassStatus, ServiceKey, Snapshot
from sockwatch.tcp.states import Direction, State, Unowned


class Kind(StrEnum):
    """What was found, in the order in which it is told."""

    STALE = "stale"
    ACCEPT_QUEUE = "accept_queue"
    CLOSE_WAIT = "close_wait"
    SYN_SENT = "syn_sent"
    FIN_WAIT2 = "fin_wait2"
    ORPHANS = "orphans"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that looks wrong; `None` where a field does not apply or is not known."""

    kind: Kind
    message: str
    """What was seen and whose it is, safe to print."""
    meaning: str
    """What it means and who has to act, safe to print."""
    count: int | None = None
    limit: int | None = None
    service: ServiceKey | None = None
    """Whose it is; its unit is as the source names it, unescaped."""
    listener: Listener | None = None
    netns: str | None = None


class Pile(NamedTuple):
    """From when on the connections of one service in one state are more than a moment's worth."""

    kind: Kind
    state: State
    least: int
    share: float
    """Of the service's established connections: what passes through grows with them."""
    message: str
    meaning: str


PILES: Final = (
    # Idle pools keep a few for hours; a busy server has each of them for milliseconds.
    Pile(
        Kind.CLOSE_WAIT,
        State.CLOSE_WAIT,
        least=20,
        share=0.1,
        message="{count:,} connections in close_wait: {where}",
        meaning="The peers have closed, {who} has not. No timer ends these: only its close() does.",
    ),
    # A round trip each: a crawler has many at a moment, and many established ones besides.
    Pile(
        Kind.SYN_SENT,
        State.SYN_SENT,
        least=20,
        share=0.25,
        message="{count:,} connections in syn_sent: {where}",
        meaning="Nobody answers {who}: the other side is down, overloaded or behind a filter.",
    ),
)
HALF_CLOSED_LEAST: Final = 20
"""Half-closing is deliberate and rare; a pile of it means peers that never close their half."""
ORPHANS_LEAST: Final = 4096
"""The kernel acts from a quarter of tcp_max_orphans, which is 16,384 on a host with 4 GB."""
MISSED_PASSES: Final = 3
"""Intervals without a good pass before figures are called old: one late pass is no news."""

_WITHOUT: Final = {
    "netlink": "Without it accept queues, units and what no process holds are unknown.",
    "psutil": "Nothing is missing: netlink knows all that psutil does.",
}
"""What it means that the preferred source is not in use."""


def find(snapshot: Snapshot, *, now: float, preferred: str = "netlink") -> tuple[Finding, ...]:
    """Say what looks wrong, by kind and within it the largest count first.

    Args:
        snapshot: the moment to judge.
        now: Unix time in seconds, against which the age of the figures is judged.
        preferred: the source that was asked for; another one in use is a finding.
    """
    found = [*_about_watching(snapshot, now, preferred)]
    for view in snapshot.namespaces:
        found += [replace(one, netns=view.netns) for one in _about_sockets(view)]
    order = list(Kind)
    return tuple(sorted(found, key=lambda one: (order.index(one.kind), -(one.count or 0))))


def owned_fin_wait2(view: NamespaceView) -> int | None:
    """FIN_WAIT2 connections that a process holds, at least; `None` where that is not known."""
    held_by_kernel = _kernel_held_fin_wait2(view)
    if held_by_kernel is None:
        return None
    return max(0, _total(view, State.FIN_WAIT2) - held_by_kernel)


def _kernel_held_fin_wait2(view: NamespaceView) -> int | None:
    """FIN_WAIT2 connections that no process holds, at most: they pass by themselves.

    Minis are in TIME_WAIT or FIN_WAIT2; orphans are in one of four states, FIN_WAIT2 among them.
    """
    if view.unowned is None:
        return None
    minis = view.unowned.get(Unowned.MINI, 0) - _total(view, State.TIME_WAIT)
    return max(0, minis) + view.unowned.get(Unowned.ORPHAN, 0)


def _total(view: NamespaceView, state: State) -> int:
    return sum(count for (_, one), count in view.sockets.items() if one is state)


def _about_watching(snapshot: Snapshot, now: float, preferred: str) -> Iterator[Finding]:
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


def _about_sockets(view: NamespaceView) -> Iterator[Finding]:
    yield from _full_queues(view)
    for key, states in view.services.items():
        for pile in PILES:
            count = states.get(pile.state, 0)
            if count >= max(pile.least, pile.share * states.get(State.ESTABLISHED, 0)):
                yield _of_service(pile.kind, key, count, pile.message, pile.meaning)
    yield from _half_closed(view)
    yield from _orphans(view)


def _of_service(kind: Kind, key: ServiceKey, count: int, message: str, meaning: str) -> Finding:
    return Finding(
        kind,
        message.format(count=count, where=service_name(key)),
        meaning.format(who=owner(key.unit)),
        count,
        service=key,
    )


def _full_queues(view: NamespaceView) -> Iterator[Finding]:
    return (
        _full_queue(listener, listener.queue, listener.limit)
        for listener in view.listeners
        if listener.queue is not None
        and listener.limit is not None
        and listener.queue >= max(listener.limit, 1)
    )


def _full_queue(listener: Listener, queue: int, limit: int) -> Finding:
    return Finding(
        Kind.ACCEPT_QUEUE,
        f"accept queue full, {queue:,} of {limit:,}: "
        + with_unit(endpoint(listener), listener.unit),
        f"Clients connect faster than {owner(listener.unit)} accepts them. Beyond the limit the"
        " kernel drops them.",
        queue,
        limit,
        ServiceKey(Direction.INBOUND, str(listener.port), listener.unit),
        listener,
    )


def _half_closed(view: NamespaceView) -> Iterator[Finding]:
    """Name the services that must hold a pile themselves, else say that the host has one."""
    held_by_kernel = _kernel_held_fin_wait2(view)
    if held_by_kernel is None:
        return
    message = "at least {count:,} connections half-closed in fin_wait2: {where}"
    meaning = "Half shut down by {who}, which waits for the peers to close without any limit."
    sure = {
        key: states.get(State.FIN_WAIT2, 0) - held_by_kernel
        for key, states in view.services.items()
    }
    piles = {key: count for key, count in sure.items() if count >= HALF_CLOSED_LEAST}
    for key, count in piles.items():
        yield _of_service(Kind.FIN_WAIT2, key, count, message, meaning)
    owned = owned_fin_wait2(view) or 0
    if owned >= HALF_CLOSED_LEAST and not piles:
        text = message.format(count=owned, where="several services")
        yield Finding(Kind.FIN_WAIT2, text, meaning.format(who="their processes"), owned)


def _orphans(view: NamespaceView) -> Iterator[Finding]:
    count = (view.unowned or {}).get(Unowned.ORPHAN, 0)
    if count >= ORPHANS_LEAST:
        meaning = (
            "Their processes closed them, their peers do not answer. From a quarter of"
            " tcp_max_orphans on the kernel resets them."
        )
        yield Finding(Kind.ORPHANS, f"{count:,} orphans", meaning, count)
