"""Findings about the two queues of a listener.

A connection stands in the SYN queue from the SYN to the last ACK, then in the accept queue until
accept(); both are as long as the backlog. If the application is slow the accept queue fills first,
and with it the SYN queue, as nobody can move on. If the SYN queue is full by itself, what stands
in it tells why: clients that are there answer within a moment, so where most SYN+ACKs had to be
sent again nobody is there, or packets get lost; where they did not, there are simply too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sockwatch.export.findings.finding import Finding, Kind
from sockwatch.export.names import endpoint, owner, with_unit
from sockwatch.observe.snapshot import Listener, NamespaceView, ServiceKey
from sockwatch.tcp.states import Direction

_SILENT_SHARE: Final = 0.5
"""Of the half-open connections: from there on it is not their number that fills the queue."""


def about_queues(view: NamespaceView) -> Iterator[Finding]:
    """Queues at their limit, each listener's once."""
    counters = view.figures.counters if view.figures else {}
    for listener in view.listeners:
        if listener.limit is not None:
            found = _accept_queue(listener, listener.limit) or _syn_queue(
                listener, listener.limit, counters
            )
            if found:
                yield found


def _accept_queue(listener: Listener, limit: int) -> Finding | None:
    queue, peak = listener.queue or 0, max(listener.queue or 0, listener.peak or 0)
    if peak < max(limit, 1):
        return None
    is_full = queue >= limit
    return _of_listener(
        Kind.ACCEPT_QUEUE,
        listener,
        queue if is_full else peak,
        "accept queue full" if is_full else "accept queue was full within the last minute",
        f"Clients connect faster than {owner(listener.unit)} accepts them. Beyond the limit the"
        f" kernel drops them.{_dropped(listener)}",
    )


def _syn_queue(listener: Listener, limit: int, counters: Mapping[str, int]) -> Finding | None:
    waiting, resent = listener.half_open or 0, listener.half_open_resent or 0
    if waiting < max(limit, 1):
        return None
    if resent >= _SILENT_SHARE * waiting:
        kind, what = Kind.SYN_FLOOD, "SYN queue full of clients that do not answer"
        meaning = _FLOOD.format(resent=resent) + _cookies(counters)
    else:
        kind, what = Kind.SYN_QUEUE, "SYN queue full"
        meaning = _TOO_SMALL.format(who=owner(listener.unit))
    return _of_listener(kind, listener, waiting, what, meaning + _dropped(listener))


_FLOOD: Final = (
    "A SYN flood, or packets get lost: of {resent:,} the SYN+ACK had to be sent again. Nobody who"
    " is there takes so long."
)
_TOO_SMALL: Final = (
    "Clients answer, but more connect at a time than the backlog of {who} has room for: let it call"
    " listen() with more, and mind somaxconn."
)


def _cookies(counters: Mapping[str, int]) -> str:
    """What the kernel did about full SYN queues so far, whoever's they were."""
    sent, received = counters.get("syncookies_sent"), counters.get("syncookies_received", 0)
    refused = counters.get("syn_queue_full_drops")
    if sent:
        return f" So far the kernel has sent {sent:,} SYN cookies, of which {received:,} came back."
    return f" So far the kernel has dropped {refused:,} SYNs for that." if refused else ""


def _dropped(listener: Listener) -> str:
    return f" So far it has dropped {listener.drops:,} packets." if listener.drops else ""


def _of_listener(kind: Kind, listener: Listener, count: int, what: str, meaning: str) -> Finding:
    name = with_unit(endpoint(listener), listener.unit)
    return Finding(
        kind,
        f"{what}, {count:,} of {listener.limit:,}: {name}",
        meaning,
        count,
        listener.limit,
        ServiceKey(Direction.INBOUND, str(listener.port), listener.unit),
        listener,
    )
