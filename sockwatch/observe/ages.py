"""Since when connections have been in their state, by kernel cookie: a function of passes.

Theory of operation. No record says since when a socket is in its state, so it is remembered when
each cookie was first seen there. A pass builds the next generation of that memory from the
previous one and from what it sees; a pass that fails is dropped and leaves no trace. A cookie
that one pass misses is kept for one more, because a dump may miss a socket that is alive.

All moments are seconds of one monotonic clock. Every socket that a pass sees for the first time
gets the very same moment, the pass's own. What a first pass sees (or the first after a gap) may
have been there for longer, so the moments of such passes are remembered as `starts`: an age that
is counted from one of them is a lower bound.

Over the limit ages are sampled: cookies are taken by a power of two that divides them, which is
the same choice in every pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from sockwatch.tcp.states import State

Since = dict[int, float]
"""Moment of entry by cookie."""

_ROOM: Final = 0.5
"""Share of the limit that all connections must fit into before the sample is widened."""


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
    _since: dict[State, Since] = field(default_factory=dict)

    def followed(self, cookies: Sequence[int]) -> list[bool] | None:
        """Which of these are in the sample; `None` for all of them."""
        stride = self.previous.stride
        return None if stride == 1 else [cookie % stride == 0 for cookie in cookies]

    def moments(self, state: State, cookies: Sequence[int]) -> list[float]:
        """Since when each of these, all followed, has been in `state`."""
        known = self.previous.since.get(state, {})
        found = [*map(known.get, cookies)]
        if None in found:
            found = [*self._first_seen(state, cookies, found)]
        moments = cast("list[float]", found)
        self._since.setdefault(state, {}).update(zip(cookies, moments, strict=True))
        return moments

    def _first_seen(
        self, state: State, cookies: Sequence[int], found: Sequence[float | None]
    ) -> Iterator[float]:
        missed = self.previous.missed.get(state, {})
        for cookie, moment in zip(cookies, found, strict=True):
            yield missed.get(cookie, self.now) if moment is None else moment

    def finish(self) -> Generation:
        """The next generation."""
        stride = self.previous.stride
        followed = sum(map(len, self._since.values()))
        while followed > self.limit:
            stride *= 2
            followed = self._thin(stride)
        widened = stride > 1 and followed * stride <= self.limit * _ROOM
        starts = self.previous.starts
        if self.resumed or self.previous.widened:
            starts |= {self.now}
        return Generation(
            since=self._since,
            missed=self._missed(stride),
            starts=starts & self._moments_in_use(starts),
            stride=stride // 2 if widened else stride,
            widened=widened,
        )

    def _thin(self, stride: int) -> int:
        """Keep the sample of a longer stride; how many stay."""
        for state, moments in self._since.items():
            self._since[state] = {
                cookie: moment for cookie, moment in moments.items() if cookie % stride == 0
            }
        return sum(map(len, self._since.values()))

    def _missed(self, stride: int) -> Mapping[State, Since]:
        return {
            state: gone
            for state, before in self.previous.since.items()
            if (gone := _without(before, self._since.get(state, {}), stride))
        }

    def _moments_in_use(self, starts: frozenset[float]) -> set[float]:
        """Those of `starts` that some connection still counts from."""
        return {
            moment
            for moments in self._since.values()
            for moment in starts.intersection(moments.values())
        }


def _without(before: Since, after: Since, stride: int) -> Since:
    return {
        cookie: moment
        for cookie, moment in before.items()
        if cookie not in after and cookie % stride == 0
    }
