"""Findings about the two queues of a listener.

A connection stands in the SYN queue from the SYN to the last ACK, then in the accept queue until
accept(); both are as long as the backlog. If the application is slow the accept queue fills first,
and with it the SYN queue, as nobody can move on. If the SYN queue is full by itself, what stands
in it tells why: clients that are there answer within a moment, so where most SYN+ACKs had to be
sent again nobody is there, or packets get lost; where they did not, there are simply too many.

A flood that has just begun has not had to be sent anything again. What tells it then are SYNs that
came to nothing lately, more of them than connections that were completed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sockwatch.export.findings.finding import Finding, Kind
from sockwatch.export.names import endpoint, owner, with_unit
from sockwatch.observe.figures import Figures
from sockwatch.observe.snapshot import Listener, NamespaceView, ServiceKey
from sockwatch.tcp.states import Direction

_SILENT_SHARE: Final = 0.5
"""Of the half-open connections: from there on it is not their number that fills the queue."""


def about_queues(view: NamespaceView) -> Iterator[Finding]:
    """Queues at their limit, each listener's once."""
    for listener in view.listeners:
        if listener.limit is not None:
            found = _accept_queue(listener, listener.limit, view.figures) or _syn_queue(
                listener, listener.limit, view.figures
            )
            if found:
                yield found


def _accept_queue(listener: Listener, limit: int, figures: Figures | None) -> Finding | None:
    queue, peak = listener.queue or 0, max(listener.queue or 0, listener.peak or 0)
    if peak <= limit:  # the kernel takes one more than the limit before it calls the queue full
        return _one_of_a_group(listener, queue, figures) if listener.full else None
    is_full = queue > limit
    return _of_listener(
        Kind.ACCEPT_QUEUE,
        listener,
        queue if is_full else peak,
        "accept queue full" if is_full else "accept queue was full within the last minute",
        f"Clients connect faster than {owner(listener.unit)} accepts them. Beyond the limit the"
        f" kernel drops them.{_accepted(figures)}{_dropped(listener)}",
    )


def _one_of_a_group(listener: Listener, queue: int, figures: Figures | None) -> Finding:
    """The queues of a group with SO_REUSEPORT fill one by one."""
    return _of_listener(
        Kind.ACCEPT_QUEUE,
        listener,
        queue,
        f"accept queue of {listener.full:,} in {listener.sockets:,} sockets full",
        "The kernel chooses a socket for each client and drops it if that one is full, whatever"
        f" room others have: a part of {owner(listener.unit)} does not accept."
        f"{_accepted(figures)}{_dropped(listener)}",
    )


def _syn_queue(listener: Listener, limit: int, figures: Figures | None) -> Finding | None:
    waiting, resent = listener.half_open or 0, listener.half_open_resent or 0
    if waiting < max(limit, 1):
        return None
    if resent >= _SILENT_SHARE * waiting:
        kind, what = Kind.SYN_FLOOD, "SYN queue full of clients that do not answer"
        meaning = _FLOOD.format(resent=resent)
    elif _come_to_nothing(figures) > limit:
        kind, what = Kind.SYN_FLOOD, "SYN queue full, and more SYNs come to nothing than do not"
        meaning = _BEGINNING
    else:
        kind, what = Kind.SYN_QUEUE, "SYN queue full"
        meaning = _TOO_SMALL.format(who=owner(listener.unit))
    told = meaning + _answered(figures) + _dropped(listener)
    return _of_listener(kind, listener, waiting, what, told)


_FLOOD: Final = (
    "A SYN flood, or packets get lost: of {resent:,} the SYN+ACK had to be sent again. Nobody who"
    " is there takes so long."
)
_BEGINNING: Final = "A SYN flood that has just begun, or packets get lost."
_TOO_SMALL: Final = (
    "Clients answer, but more connect at a time than the backlog of {who} has room for: let it call"
    " listen() with more, and mind somaxconn."
)


def _come_to_nothing(figures: Figures | None) -> int:
    """SYNs lately of which nothing came, 0 if more connections were completed."""
    if figures is None or figures.lately is None:
        return 0
    gained = figures.lately.counters
    unfinished = max(0, gained.get("syncookies_sent", 0) - gained.get("syncookies_received", 0))
    unfinished += gained.get("syn_queue_full_drops", 0)
    return unfinished if unfinished > gained.get("passive_opens", 0) else 0


def _accepted(figures: Figures | None) -> str:
    """What happened at all accept queues lately."""
    if figures is None or figures.lately is None:
        return ""
    seconds, gained = figures.lately
    full, completed = gained.get("listen_overflows"), gained.get("passive_opens")
    if not full or completed is None:
        return ""
    return (
        f" Within {seconds:.0f} s {full:,} found an accept queue of this host full, and"
        f" {completed:,} found room."
    )


def _answered(figures: Figures | None) -> str:
    """What the kernel did about full SYN queues lately, or so far, whoever's they were."""
    if figures is None:
        return ""
    if figures.lately is None:
        done = _done(figures.counters)
        return f" So far the kernel has {done}." if done else ""
    seconds, gained = figures.lately
    completed, done = gained.get("passive_opens"), _done(gained)
    opened = "" if completed is None else f"completed {completed:,} connections"
    told = " and ".join(filter(None, (opened, done)))
    return f" Within {seconds:.0f} s the kernel has {told}." if told else ""


def _done(counters: Mapping[str, int]) -> str:
    sent, received = counters.get("syncookies_sent"), counters.get("syncookies_received", 0)
    refused = counters.get("syn_queue_full_drops")
    if sent:
        return f"sent {sent:,} SYN cookies, of which {received:,} came back"
    return f"dropped {refused:,} SYNs for that" if refused else ""


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
