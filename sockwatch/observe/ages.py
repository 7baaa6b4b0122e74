"""Since when connections have been in their state, by kernel cookie: a function of passes.

Theory of operation. No record says since when a socket is in its state, so it is remembered when
each cookie was first seen there. A pass builds the next generation of that memory from the
previous one and from what it sees; a pass that fails is dropped and leaves no trace. A cookie
that one pass misses is kept for one more, because a dump may miss a socket that is alive.

All moments are seconds of one monotonic clock. Every socket that a pass sees for the first time
gets the very same moment, the pass's own. What a first pass sees (or the first after a gap) may
have been there for longer, so the moments of such passes are remembered as `starts`: an age that
is counted from one of them is a lower bound.

Over the limit ages are sampled: those cookies are taken whose hash falls into the first half, the
first quarter and so on, which is the same choice in every pass and a part of every larger one.
The cookies themselves would not do: they are given in order, so an application that connects to
two services in turn would have all the even ones on one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, filterfalse
from typing import Final, cast

from sockwatch.tcp.states import State

Since = dict[int, float]
"""Moment of entry by cookie."""

_ROOM: Final = 0.25
"""Share of the limit that a sample must fit into before it is doubled: well below the half that
is left when it is halved, so that it does not go to and fro."""

_HASHES: Final = 1 << 64
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
"""2**64 / golden ratio: multiples of it fall evenly between 0 and 2**64 (Knuth, TAOCP 6.4)."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What is remembered after a good pass."""

    since: Mapping[State, Since] = field(default_factory=dict)
    missed: Mapping[State, Since] = field(default_factory=dict)
    """Those that the newest pass did not see but the one before it did."""
    starts: frozenset[float] = frozenset()
    """Moments from which ages are lower bounds."""
    stride: int = 1
    """One of how many connections is followed in the next pass."""
    widened: bool = False
    """Whether the next pass follows connections that this one left out."""

    def __len__(self) -> int:
        """How many connections are followed."""
        return sum(map(len, self.since.values()))


@dataclass(slots=True)
class AgePass:
    """One pass under way: looks up the previous generation and collects the next."""

    previous: Generation
    now: float
    limit: int
    """Connections followed at most."""
    resumed: bool
    """Whether the previous pass is so long ago that entries may have been missed."""
    stride: int = field(init=False)
    """One of how many connections is followed from here on; grows when the limit is met."""
    _since: dict[State, Since] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.stride = self.previous.stride

    def followed(self, cookies: Sequence[int]) -> list[bool] | None:
        """Which of these are in the sample; `None` for all of them."""
        return None if self.stride == 1 else _in_sample(cookies, self.stride)

    def moments(self, state: State, cookies: Sequence[int]) -> list[float]:
        """Since when each of these, all followed, has been in `state`."""
        known = self.previous.since.get(state, {})
        found = [*map(known.get, cookies)]
        if None in found:
            found = [*self._first_seen(state, cookies, found)]
        moments = cast("list[float]", found)
        self._since.setdefault(state, {}).update(zip(cookies, moments, strict=True))
        while self._number() > self.limit:
            self._thin()
        return moments

    def _first_seen(
        self, state: State, cookies: Sequence[int], found: Sequence[float | None]
    ) -> Iterator[float]:
        missed = self.previous.missed.get(state, {})
        for cookie, moment in zip(cookies, found, strict=True):
            yield missed.get(cookie, self.now) if moment is None else moment

    def finish(self) -> Generation:
        """The next generation."""
        widened = self.stride > 1 and self._number() <= self.limit * _ROOM
        starts, missed = self.previous.starts, self._missed()
        if self.resumed or self.previous.widened:
            starts |= {self.now}
        return Generation(
            since=self._since,
            missed=missed,
            starts=_in_use(starts, [*self._since.values(), *missed.values()]),
            stride=self.stride // 2 if widened else self.stride,
            widened=widened,
        )

    def _number(self) -> int:
        return sum(map(len, self._since.values()))

    def _thin(self) -> None:
        """Keep the half."""
        self.stride *= 2
        for state, moments in self._since.items():
            self._since[state] = _sampled(moments, self.stride)

    def _missed(self) -> Mapping[State, Since]:
        found = {}
        for state, before in self.previous.since.items():
            after = self._since.get(state, {})
            gone = {cookie: before[cookie] for cookie in filterfalse(after.__contains__, before)}
            found[state] = _sampled(gone, self.stride)
        return {state: gone for state, gone in found.items() if gone}


def _in_sample(cookies: Iterable[int], stride: int) -> list[bool]:
    below = _HASHES // stride
    return [cookie * _GOLDEN % _HASHES < below for cookie in cookies]


def _sampled(moments: Since, stride: int) -> Since:
    return dict(compress(moments.items(), _in_sample(moments, stride)))


def _in_use(starts: frozenset[float], memories: Iterable[Since]) -> frozenset[float]:
    """Those of `starts` that some connection still counts from."""
    return frozenset[float]().union(*(starts.intersection(each.values()) for each in memories))
