"""Connections that have been in a watched state for too long: how many, how old, which.

Built batch by batch while a watch pass reads; nothing here is done per socket in Python that
could be done per column.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import not_
from socket import ntohs
from typing import Final, NamedTuple, TypeVar

from sockwatch.observe.ages import AgePass, Generation
from sockwatch.observe.packed import Packed
from sockwatch.observe.snapshot import Marked
from sockwatch.tcp.batch import Batch, Chosen
from sockwatch.tcp.causes import ALL, BY_STATE, BY_UNREAD, Cause
from sockwatch.tcp.listening import Listening
from sockwatch.tcp.records import ServicePort
from sockwatch.tcp.states import Direction, State
from sockwatch.tcp.tally import TIMER_TIME_WAIT
from sockwatch.tcp.timers import TimerLaws, backoff_age, fin_wait2_age

T = TypeVar("T")

_MOST_UNREAD: Final = len(BY_UNREAD) - 1
_CODES: Final = {cause: code for code, cause in enumerate(ALL)}
_NOT_ACCEPTED: Final = _CODES[Cause.NOT_ACCEPTED]
_DIRECTIONS: Final = (Direction.OUTBOUND, Direction.INBOUND)

_HELD: Final = {State.ESTABLISHED: False, State.FIN_WAIT2: True}
"""Whether a process must hold what is watched: ESTABLISHED only before it is accepted; FIN_WAIT2
only as long as there is somebody to close it, for the kernel ends by itself what it alone holds."""

_MINIS: Final = bytes(timer == TIMER_TIME_WAIT for timer in range(256))
"""A table for bytes.translate: 1 for mini sockets, by their timer."""

_TIMED: Final = frozenset({State.SYN_SENT, State.SYN_RECV})
"""States whose age the retransmission timer tells."""


class StuckPort(NamedTuple):
    """Stuck connections that belong together before their cgroup has a name."""

    service: ServicePort
    cause: Cause


@dataclass(frozen=True, slots=True)
class Ages:
    """What a watch pass says of ages."""

    stuck: Mapping[StuckPort, int]
    oldest: Mapping[ServicePort, float]
    """Seconds in the state, of the connection that is there longest."""
    ages: Mapping[State, Counter[float]]
    """How many connections have each age; seconds."""
    marked: tuple[Marked, ...]
    limits: Mapping[State, float]
    taken: float
    """The moment that ages are as of."""
    generation: Generation
    """What is to be remembered for the next pass."""
    most_followed: int
    stride: int
    """One of how many connections this pass followed."""
    kernel_held: float | None
    """Seconds that the kernel alone has held the oldest FIN_WAIT2, `None` if there is none."""


_Key = tuple[int, int, int, int, float]
"""Inbound flag, raw port, cgroup, code of the cause, moment of entry."""


@dataclass(slots=True)
class StuckTally:
    """Collects the watched connections of one pass, batch by batch."""

    ages: AgePass
    limits: Mapping[State, float]
    """How long is normal in each watched state, in seconds. That of ESTABLISHED is for connections
    that nobody has accepted, and goes for those of them, too, that their peers have closed."""
    laws: TimerLaws
    _listening: Listening | None = None
    _counts: dict[tuple[State, int], Counter[_Key]] = field(default_factory=dict)
    """By state and by the stride of the sample at that time."""
    _marked: list[Marked] = field(default_factory=list)
    _shown: set[int] = field(default_factory=set)
    """Local ports whose established connections this pass sees."""
    _soonest: int | None = None
    """Milliseconds until the kernel ends the oldest FIN_WAIT2 that it alone holds."""

    def begin(self, listening: Listening) -> None:
        """The pass begins; see `Follower`."""
        self._listening = listening

    def add(self, batch: Batch) -> None:
        """Take a batch."""
        state = batch.state
        if state not in self.limits:
            return
        if state is State.ESTABLISHED:
            self._shown.update(batch.local_ports())
        if state is State.FIN_WAIT2 and TIMER_TIME_WAIT in batch.timers():
            self._note_minis(batch)
        if state in _HELD:
            batch = Chosen(batch, [bool(inode) is _HELD[state] for inode in batch.inodes()])
        if self.ages.stride > 1 and (mask := self.ages.followed(batch.cookies())):
            batch = Chosen(batch, mask)
        for part, looked_before in self._parts(batch):
            if part and self._listening is not None:
                self._add(state, part, self._listening.inbound(part), looked_before=looked_before)

    def _note_minis(self, batch: Batch) -> None:
        soonest = min(compress(batch.expires(), batch.timers().translate(_MINIS)))
        self._soonest = soonest if self._soonest is None else min(soonest, self._soonest)

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, bool]]:
        """Connections by whether the previous pass looked at their port, and so at them."""
        before = self.ages.previous.shown
        if batch.state is not State.ESTABLISHED or before.issuperset(batch.local_ports()):
            yield batch, True
            return
        mask = [port in before for port in batch.local_ports()]
        yield Chosen(batch, mask), True
        yield Chosen(batch, [*map(not_, mask)]), False

    def _add(self, state: State, batch: Batch, inbound: bytes, *, looked_before: bool) -> None:
        stride = self.ages.stride
        counts = self._counts.setdefault((state, stride), Counter())
        moments = self._moments(state, batch, looked_before=looked_before)
        cgroups, causes = batch.cgroups(), _causes(batch)
        counts.update(zip(inbound, _ports(batch, inbound), cgroups, causes, moments, strict=True))
        over = self._over(state, moments, causes)
        if any(over):
            mask = None if all(over) else over
            self._marked.append(
                Marked(
                    state,
                    Packed.of(_those(batch.records(), mask)),
                    array("d", _those(moments, mask)),
                    array("Q", [*_those(cgroups, mask)]),  # it takes bytes for its memory
                    bytes(_those(inbound, mask)),
                    bytes(_those(causes, mask)),
                    batch.multipath,
                    stride,
                )
            )

    def _limit(self, state: State, code: int) -> float:
        """How long is normal in a state for that cause."""
        usual = self.limits[state]
        return self.limits.get(State.ESTABLISHED, usual) if code == _NOT_ACCEPTED else usual

    def _over(
        self, state: State, moments: Sequence[float], causes: Sequence[int]
    ) -> Sequence[bool]:
        """Which are over the limit; mostly all of a batch are or none, which is quick to see."""
        now, limit = self.ages.now, self.limits[state]
        if state is State.CLOSE_WAIT and _NOT_ACCEPTED in causes:
            sides = zip(moments, causes, strict=True)
            return [now - moment >= self._limit(state, code) for moment, code in sides]
        if now - max(moments) >= limit:
            return [True] * len(moments)
        if now - min(moments) < limit:
            return ()
        return [now - moment >= limit for moment in moments]

    def _moments(self, state: State, batch: Batch, *, looked_before: bool) -> Sequence[float]:
        """Since when: by the kernel's timer where there is one, else by memory."""
        if state not in _TIMED:
            return self.ages.moments(state, batch.cookies(), looked_before=looked_before)
        self.ages.timed(len(batch))
        linear = self.laws.linear_syn_timeouts if state is State.SYN_SENT else 0
        now, longest = self.ages.now, self.laws.longest_timeout
        timers = zip(batch.retransmits(), batch.expires(), strict=True)
        return [now - backoff_age(times, expires, linear, longest) for times, expires in timers]

    def finish(self) -> Ages | None:
        """All that the pass says, `None` if it never began: its source follows nothing."""
        if self._listening is None:
            return None
        stuck: Counter[StuckPort] = Counter()
        oldest: dict[ServicePort, float] = {}
        ages: dict[State, Counter[float]] = {state: Counter() for state in self.limits}
        for (state, stride), counts in self._counts.items():
            for (inbound, raw_port, cgroup, code, moment), number in counts.items():
                service = ServicePort(_DIRECTIONS[inbound], ntohs(raw_port), cgroup, state)
                age = self.ages.now - moment
                oldest[service] = max(age, oldest.get(service, 0.0))
                ages.setdefault(state, Counter())[age] += number * stride
                over = age >= self._limit(state, code)
                stuck[StuckPort(service, ALL[code])] += number * stride if over else 0
        return Ages(
            stuck,
            oldest,
            ages,
            tuple(self._marked),
            self.limits,
            self.ages.now,
            self.ages.finish(frozenset(self._shown)),
            self.ages.limit,
            self.ages.stride,
            None if self._soonest is None else fin_wait2_age(self._soonest, self.laws),
        )


def _ports(batch: Batch, inbound: bytes) -> Sequence[int]:
    """Of the services: local for inbound connections, remote for outbound ones."""
    number = inbound.count(1)
    if number == len(batch):
        return batch.local_ports()
    if number == 0:
        return batch.remote_ports()
    sides = zip(inbound, batch.local_ports(), batch.remote_ports(), strict=True)
    return [local if flag else remote for flag, local, remote in sides]


def _those(column: Sequence[T], mask: Sequence[bool] | None) -> Sequence[T]:
    """Where the mask is true; all without one."""
    return column if mask is None else [*compress(column, mask)]


def _causes(batch: Batch) -> Sequence[int]:
    """Positions in `causes.ALL`."""
    if batch.state is not State.CLOSE_WAIT:
        return bytes([_CODES[BY_STATE[batch.state]]]) * len(batch)
    unread, inodes = batch.receive_queues(), batch.inodes()
    codes = unread
    if max(unread) > _MOST_UNREAD:
        # A call of min() per socket would take twice as long.
        codes = [queue if queue < _MOST_UNREAD else _MOST_UNREAD for queue in unread]  # noqa: FURB136
    if 0 in inodes:
        return [code if inode else _NOT_ACCEPTED for code, inode in zip(codes, inodes, strict=True)]
    return codes
