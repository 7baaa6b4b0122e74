"""What happens at listeners between passes: peaks, drops, half-open connections.

Most listeners have nothing of it, and cost next to nothing here.

Listeners are not looked at more often than everything else that a watch pass reads. A burst that is
over before the next pass shows in the drops, which the kernel counts, and a queue that filled and
emptied without a drop has harmed nobody. Looking alone would not pay either: the kernel needs 16 us
for it, but who wakes up for it 0.6 ms with 20 listeners and 4 ms with 5,000, so that ten such looks
a second cost as much again as all else. Whoever wants it can set watch.interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import chain
from typing import Final, NamedTuple, TypeVar

from sockwatch.observe.snapshot import Listener
from sockwatch.tcp.changes import changes
from sockwatch.tcp.records import Endpoint
from sockwatch.tcp.states import Family
from sockwatch.tcp.tally import plain_address

Key = TypeVar("Key")

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


class HalfOpen(NamedTuple):
    """Half-open connections of one listener."""

    all: int
    resent: int | None
    """Those whose SYN+ACK was sent again; `None` where the source cannot know."""


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

    def __iter__(self) -> Iterator[Hashable]:
        """The keys that have a peak."""
        return iter(self._seen)


class Drops:
    """Drops by name, as counters that survive the restart of a listener.

    A socket that a pass does not show is no reason to forget it: a dump may miss one that is
    there, and psutil shows no drops at all.
    """

    def __init__(self) -> None:
        self._by_cookie: dict[int, int] = {}
        self._totals: dict[Name, int] = {}

    def note(self, found: Iterable[Listener]) -> None:
        """Take the listeners of a pass that have dropped something."""
        names = cookies = 0
        for listener in found:
            name = name_of(listener)
            more = sum(self._more(cookie, drops) for cookie, drops in listener.dropped.items())
            self._totals[name] = self._totals.pop(name, 0) + more
            names, cookies = names + 1, cookies + len(listener.dropped)
        _forget_oldest(self._totals, max(REMEMBERED, names))
        _forget_oldest(self._by_cookie, max(REMEMBERED, cookies))

    def _more(self, cookie: int, drops: int) -> int:
        """What a socket has dropped since it was last seen."""
        before = self._by_cookie.pop(cookie, 0)
        self._by_cookie[cookie] = drops
        return (drops - before) % DROPS_MODULUS

    def total(self, name: Name) -> int:
        """All drops under a name, those before it was first seen included."""
        return self._totals.get(name, 0)

    def __iter__(self) -> Iterator[Name]:
        """The names that have dropped something."""
        return iter(self._totals)


def _forget_oldest(memory: dict[Key, int], most: int) -> None:
    while len(memory) > most:
        del memory[next(iter(memory))]


class QueueMemory:
    """Adds to listeners what one look at them cannot show."""

    def __init__(self) -> None:
        self._peaks = Peaks()
        self._drops = Drops()
        self._found: Sequence[Listener] = ()
        self._positions: Mapping[Hashable, int] = {}

    def complete(
        self,
        found: Sequence[Listener],
        half_open: Mapping[Endpoint, int],
        resent: Mapping[Endpoint, int] | None,
        now: float,
    ) -> tuple[Listener, ...]:
        """The listeners of a pass with what is remembered of them.

        Args:
            found: no two of the same name.
            half_open: SYN_RECV connections by their local end.
            resent: those of them whose SYN+ACK was sent again; `None` if that is not known.
            now: monotonic seconds.
        """
        self._peaks.note(now, [(name_of(one), one.queue) for one in found if one.queue])
        self._drops.note([one for one in found if one.dropped])
        half = _by_listener(found, half_open, resent)
        none = HalfOpen(0, None if resent is None else 0)
        result = [*found]
        for position in {*self._remembered(found), *half}:
            result[position] = self._complete(found[position], half.get(position, none))
        return tuple(result)

    def _remembered(self, found: Sequence[Listener]) -> Iterator[int]:
        """Where those are of which something is remembered."""
        if not _same_names(found, self._found):
            self._positions = {name_of(one): at for at, one in enumerate(found)}
        self._found = found
        named = map(self._positions.get, chain(self._peaks, self._drops))
        return (position for position in named if position is not None)

    def _complete(self, listener: Listener, half_open: HalfOpen) -> Listener:
        name = name_of(listener)
        return replace(
            listener,
            peak=None if listener.queue is None else self._peaks.of(name),
            drops=None if listener.drops is None else self._drops.total(name),
            half_open=half_open.all,
            half_open_resent=half_open.resent,
        )


def _same_names(some: Sequence[Listener], others: Sequence[Listener]) -> bool:
    changed = changes(some, others)
    return changed is not None and all(name_of(old) == name_of(new) for old, new in changed)


def _by_listener(
    found: Sequence[Listener],
    half_open: Mapping[Endpoint, int],
    resent: Mapping[Endpoint, int] | None,
) -> Mapping[int, HalfOpen]:
    """Half-open connections by position of the listener they came to."""
    if not half_open:
        return {}
    positions = _positions(found, {end.port for end in half_open})
    counted, again = Counter[int](), Counter[int]()
    for end, number in half_open.items():
        at = _position(end, positions)
        if at is not None:
            counted[at] += number
            again[at] += (resent or {}).get(end, 0)
    return {
        at: HalfOpen(number, None if resent is None else again[at])
        for at, number in counted.items()
    }


def _positions(found: Sequence[Listener], ports: set[int]) -> Mapping[Endpoint, int]:
    """Listeners on these ports by address; of several on one address, the first."""
    positions: dict[Endpoint, int] = {}
    for position, listener in enumerate(found):
        if listener.port in ports:
            address = plain_address(ip_address(listener.address).packed)
            positions.setdefault(Endpoint(address, listener.port), position)
    return positions


def _position(end: Endpoint, positions: Mapping[Endpoint, int]) -> int | None:
    """The listener of a connection: on its very address, else on a wildcard."""
    for address in (end.address, *_WILDCARDS[len(end.address)]):
        at = positions.get(Endpoint(address, end.port))
        if at is not None:
            return at
    return None
