"""Since when connections have been in their state, by kernel cookie: a function of passes.

Theory of operation. No record says since when a socket is in its state, so it is remembered when
each cookie was first seen there. A pass builds the next generation of that memory from the
previous one and from what it sees; a pass that fails is dropped and leaves no trace. A cookie
that one pass misses is kept for one more, because a dump may miss a socket that is alive.

All moments are seconds of one monotonic clock. Every socket that a pass sees for the first time
gets the very same moment, the pass's own. What a first pass sees (or the first after a gap) may
have been there for longer, so the moments of such passes are remembered as `starts`: an age that
is counted from one of them is a lower bound. Where a pass looks at something that the one before
left out, only what is new there gets a moment of that kind, the last one before the pass's own.

Over the limit ages are sampled: those cookies are taken whose hash falls into the first half, the
first quarter and so on, which is the same choice in every pass and a part of every larger one.
The cookies themselves would not do: they are given in order, so an application that connects to
two services in turn would have all the even ones on one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from math import inf, nextafter
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
    timed: int = 0
    """Connections that need not be remembered, as the kernel's timers tell their ages."""
    shown: frozenset[int] = frozenset()
    """Local ports, as records have them, whose established connections the newest pass saw."""

    def __len__(self) -> int:
        """How many connections are followed."""
        return self.timed + sum(map(len, self.since.values()))


@dataclass(slots=True)
class _Memory:
    """What is remembered of one state, during a pass.

    What a pass sees is taken out of a copy of what was known, so that in the end it holds those
    that were missed. Mostly nearly all is as before; then nothing is built anew.
    """

    before: Since
    missed: Since
    """Those that the previous pass did not see."""
    unseen: Since = field(init=False)
    """Of those before, the ones not seen until now."""
    new: Since = field(init=False, default_factory=dict)
    """Those seen that were not there before."""

    def __post_init__(self) -> None:
        self.unseen = self.before.copy()

    def __len__(self) -> int:
        """How many were seen."""
        return len(self.before) - len(self.unseen) + len(self.new)

    def moments(self, cookies: Sequence[int], now: float) -> list[float]:
        """Since when each of these is there."""
        found = [*map(self.unseen.pop, cookies, repeat(None))]
        if None in found:
            found = [*self._others(cookies, found, now)]
        return cast("list[float]", found)

    def _others(
        self, cookies: Sequence[int], found: Sequence[float | None], now: float
    ) -> Iterator[float]:
        for cookie, moment in zip(cookies, found, strict=True):
            known = self.before.get(cookie) if moment is None else moment
            if known is None:  # else a dump has told of it twice
                known = self.new.get(cookie, self.missed.get(cookie, now))
                self.new[cookie] = known
            yield known

    def thin(self, stride: int) -> None:
        """Keep a sample."""
        self.before = _sampled(self.before, stride)
        self.unseen = _sampled(self.unseen, stride)
        self.new = _sampled(self.new, stride)

    def finish(self) -> tuple[Since, Since]:
        """Who was seen, and who was missed."""
        # What has been taken out of a dictionary leaves holes in it; a copy has none.
        missed = self.unseen = self.unseen.copy()
        if not missed and not self.new:
            return self.before, missed
        seen = self.before.copy()
        for cookie in missed:
            del seen[cookie]
        seen.update(self.new)
        return seen, missed


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
    _since: dict[State, _Memory] = field(init=False, default_factory=dict)
    _starts: set[float] = field(init=False, default_factory=set)
    _timed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.stride = self.previous.stride
        if self.resumed or self.previous.widened:
            self._starts.add(self.now)

    def followed(self, cookies: Sequence[int]) -> list[bool] | None:
        """Which of these are in the sample; `None` for all of them."""
        return None if self.stride == 1 else _in_sample(cookies, self.stride)

    def moments(
        self, state: State, cookies: Sequence[int], *, looked_before: bool = True
    ) -> list[float]:
        """Since when each of these, all followed, has been in `state`.

        Args:
            state: of them all.
            cookies: whose.
            looked_before: whether the previous pass would have seen them, had they been there.
        """
        now = self.now if looked_before else nextafter(self.now, -inf)
        if not looked_before:
            self._starts.add(now)
        moments = self._memory(state).moments(cookies, now)
        self._fit()
        return moments

    def timed(self, number: int) -> None:
        """Follow so many more, all in the sample, whose ages need not be remembered."""
        self._timed += number
        self._fit()

    def _memory(self, state: State) -> _Memory:
        if state not in self._since:
            since, missed = self.previous.since.get(state, {}), self.previous.missed.get(state, {})
            self._since[state] = _Memory(_sampled(since, self.stride), missed)
        return self._since[state]

    def finish(self, shown: frozenset[int] = frozenset()) -> Generation:
        """The next generation.

        Args:
            shown: see `Generation`.
        """
        widened = self.stride > 1 and self._number() <= self.limit * _ROOM
        for state in self.previous.since:
            self._memory(state)
        found = {state: memory.finish() for state, memory in self._since.items()}
        since = {state: seen for state, (seen, _) in found.items() if seen}
        missed = {state: missed for state, (_, missed) in found.items() if missed}
        starts = self.previous.starts | self._starts
        return Generation(
            since=since,
            missed=missed,
            starts=_in_use(starts, [*since.values(), *missed.values()]) if starts else starts,
            stride=self.stride // 2 if widened else self.stride,
            widened=widened,
            timed=self._timed,
            shown=shown,
        )

    def _number(self) -> int:
        return self._timed + sum(map(len, self._since.values()))

    def _fit(self) -> None:
        """Keep the half of them until they are no more than the limit."""
        while self._number() > self.limit:
            self.stride *= 2
            self._timed //= 2
            for memory in self._since.values():
                memory.thin(self.stride)


def _in_sample(cookies: Iterable[int], stride: int) -> list[bool]:
    below = _HASHES // stride
    return [cookie * _GOLDEN % _HASHES < below for cookie in cookies]


def _sampled(moments: Since, stride: int) -> Since:
    if stride == 1:
        return moments
    return dict(compress(moments.items(), _in_sample(moments, stride)))


def _in_use(starts: frozenset[float], memories: Iterable[Since]) -> frozenset[float]:
    """Those of `starts` that some connection still counts from."""
    return frozenset[float]().union(*(starts.intersection(each.values()) for each in memories))
