"""Outbound connections by destination: where source ports run out, and who does not answer."""

from __future__ import annotations

from collections import Counter
from heapq import nlargest
from socket import inet_ntop
from typing import Final

from sockwatch.observe.snapshot import Destinations, DestinationUse, Stuck
from sockwatch.tcp.records import Counts, Destination, RawDestination
from sockwatch.tcp.states import Family, State
from sockwatch.tcp.tally import destination, plain_address

MOST_SHOWN: Final = 20
"""Destinations told apart at most."""
SHOWN_FROM: Final = 0.1
"""Share of the ephemeral ports in use beyond which a destination is told apart."""
UNANSWERED_FROM: Final = 3
"""Unanswered connections from which a destination is told apart."""

_SIZES: Final = {Family.INET.value: 4, Family.INET6.value: 16}


def destinations(watched: Counts, bulk: Counts, ports: int | None) -> Destinations:
    """Ephemeral ports in use as of a census.

    Args:
        watched: what the census read of the states that a watch pass reads too.
        bulk: what it read of all others.
        ports: how many ephemeral ports there are, `None` if unknown.
    """
    in_use: Counter[RawDestination] = Counter()
    for counted in (watched.destinations, bulk.destinations):
        for some in counted.values():
            in_use.update(some)
    threshold = max(1.0, ports * SHOWN_FROM) if ports is not None else 1.0
    crowded = {destination(raw): raw for raw, number in in_use.items() if number > threshold}
    fullest: dict[tuple[bytes, int], tuple[int, Destination]] = {}
    for target, raw in crowded.items():
        use, end = (in_use[raw], target), (target.destination, target.port)
        fullest[end] = max(use, fullest.get(end, use))
    in_time_wait = bulk.destinations.get(State.TIME_WAIT, Counter())
    return Destinations(
        ports=ports,
        in_use_max=max(in_use.values(), default=0),
        crowded=tuple(
            DestinationUse(
                source=_text(target.source),
                destination=endpoint(target.destination, target.port),
                in_use=number,
                time_wait=in_time_wait[crowded[target]],
            )
            for number, target in nlargest(MOST_SHOWN, fullest.values())
        ),
    )


def unanswered(stuck: Stuck) -> dict[str, int]:
    """Destinations that leave several connections in SYN_SENT beyond its age limit."""
    counted: Counter[tuple[bytes, int]] = Counter()
    for marked in stuck.marked:
        if marked.state is State.SYN_SENT:
            for (address, port), number in Counter(marked.records.remote_ends()).items():
                counted[plain_address(address), port] += number * marked.stride
    found = ((number, end) for end, number in counted.items())
    most = nlargest(MOST_SHOWN, (one for one in found if one[0] >= UNANSWERED_FROM))
    return {endpoint(address, port): number for number, (address, port) in most}


def endpoint(address: bytes, port: int) -> str:
    """An address and port as they are written in a URL."""
    text = _text(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def _text(address: bytes) -> str:
    family = Family.INET if len(address) == _SIZES[Family.INET.value] else Family.INET6
    return inet_ntop(family, address)
