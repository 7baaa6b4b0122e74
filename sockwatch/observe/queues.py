"""What happens at listeners between passes: peaks, drops, half-open connections.

Most listeners have nothing of it, and cost nothing here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final, NamedTuple

from sockwatch.observe.snapshot import Listener
from sockwatch.tcp.records import Endpoint
from sockwatch.tcp.states import Family
from sockwatch.tcp.tally import plain_address

PEAK_SECONDS: Final = 60.0
"""For how long a peak is shown: longer than usual scrape intervals."""
DROPS_MODULUS: Final = 1 << 32
"""sk_drops is an atomic_t: it wraps after 32 bits."""
REMEMBERED: Final = 10_000
"""Listeners whose drops are remembered, also when they are gone, in case they come back."""

_WILDCARDS: Final = {4: (bytes(4), bytes(16)), 16: (bytes(16),)}
"""Addresses that stand for all, by the size of the address that a connection came to; a
wildcard of IPv6 takes IPv4 connections only if there is none of IPv4."""


class Name(NamedTuple):
    """What stays the same when a listener is restarted."""

    family: Family
    address: str
    port: int
    unit: str


def name_of(listener: Listener) -> Name:
    """The name of a listener."""
    return Name(listener.family, listener.address, listener.port, listener.unit)


class Peaks:
    """The highest value of the last minute for each key."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, list[tuple[float, int]]] = {}

    def note(self, now: float, values: Iterable[tuple[Hashable, int]]) -> None:
        """Take values seen at monotonic time `now` (seconds); forget old ones.

        Of what was seen only values that are higher than all later ones are kept.
        """
        for key, value in values:
            higher = [(at, seen) for at, seen in self._seen.get(key, ()) if seen > value]
            self._seen[key] = [*higher, (now, value)]
        for key, seen in [*self._seen.items()]:
            recent = [(at, value) for at, value in seen if at > now - PEAK_SECONDS]
            if recent:
                self._seen[key] = recent
            else:
                del self._seen[key]

    def of(self, key: Hashable) -> int:
        """The peak of a key."""
        seen = self._seen.get(key)
        return seen[0][1] if seen else 0


class Drops:
    """Drops by name, as counters that survive the restart of a listener."""

    def __init__(self) -> None:
        self._by_cookie: dict[int, int] = {}
        self._totals: dict[Name, int] = {}

    def note(self, found: Iterable[Listener]) -> None:
        """Take the listeners of a pass that have dropped something."""
        before, self._by_cookie = self._by_cookie, {}
        for listener in found:
            name = name_of(listener)
            more = sum(
                (drops - before.get(cookie, 0)) % DROPS_MODULUS
                for cookie, drops in listener.dropped.items()
            )
            self._totals[name] = self._totals.pop(name, 0) + more
            self._by_cookie |= listener.dropped
        while len(self._totals) > REMEMBERED:
            del self._totals[next(iter(self._totals))]

    def total(self, name: Name) -> int:
        """All drops under a name, since it was first seen."""
        return self._totals.get(name, 0)


class QueueMemory:
    """Adds to listeners what one look at them cannot show."""

    def __init__(self) -> None:
        self._peaks = Peaks()
        self._drops = Drops()

    def complete(
        self, found: Sequence[Listener], half_open: Mapping[Endpoint, int], now: float
    ) -> tuple[Listener, ...]:
        """The listeners of a pass at monotonic time `now`, with peaks, drops and half-open."""
        queued = ((name_of(one), one.queue) for one in found if one.queue)
        self._peaks.note(now, queued)
        self._drops.note(one for one in found if one.dropped)
        half = _by_listener(found, half_open)
        return tuple(self._complete(one, half[position]) for position, one in enumerate(found))

    def _complete(self, listener: Listener, half_open: int) -> Listener:
        name = name_of(listener)
        peak, drops = self._peaks.of(name), self._drops.total(name)
        if not (peak or drops or half_open):
            return listener
        return replace(
            listener,
            peak=None if listener.queue is None else peak,
            drops=None if listener.drops is None else drops,
            half_open=half_open,
        )


def _by_listener(found: Sequence[Listener], half_open: Mapping[Endpoint, int]) -> Counter[int]:
    """Half-open connections by position of the listener they came to."""
    result: Counter[int] = Counter()
    if not half_open:
        return result
    positions: dict[Endpoint, int] = {}
    for position, listener in enumerate(found):
        address = plain_address(ip_address(listener.address).packed)
        positions.setdefault(Endpoint(address, listener.port), position)
    for (address, port), number in half_open.items():
        for candidate in (address, *_WILDCARDS[len(address)]):
            at = positions.get(Endpoint(candidate, port))
            if at is not None:
                result[at] += number
                break
    return result
