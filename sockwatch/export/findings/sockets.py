"""Findings about piles of connections in one state."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from sockwatch.export.findings.finding import Finding, Kind
from sockwatch.export.names import owner, service_name
from sockwatch.observe.snapshot import NamespaceView, ServiceKey
from sockwatch.tcp.states import State, Unowned


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


def about_sockets(view: NamespaceView, told: Collection[ServiceKey]) -> Iterator[Finding]:
    """Piles of connections.

    Args:
        view: what to judge.
        told: services of which it is known already who does not answer them.
    """
    for key, states in view.services.items():
        for pile in PILES:
            count = states.get(pile.state, 0)
            least = max(pile.least, pile.share * states.get(State.ESTABLISHED, 0))
            if count >= least and not (pile.kind is Kind.SYN_SENT and key in told):
                yield _of_service(pile.kind, key, count, pile.message, pile.meaning)
    yield from _half_closed(view)


def _of_service(kind: Kind, key: ServiceKey, count: int, message: str, meaning: str) -> Finding:
    return Finding(
        kind,
        message.format(count=count, where=service_name(key)),
        meaning.format(who=owner(key.unit)),
        count,
        service=key,
    )


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
