"""Sources that do as a script says, clocks that only tests move, and a Poller between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Final

from sockwatch.config import Config, CpuConfig
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.observe.snapshot import NamespaceView, PassKind, PassStatus
from sockwatch.poll import Clocks, Poller
from sockwatch.poll.sources import Makers
from sockwatch.tcp.records import Counts, Reading, Row, ServicePort
from sockwatch.tcp.states import Direction, Family, State, Unowned

REFUSED: Final = PassFailure(Cause.REFUSED, "opening a sock_diag socket: EPERM")
UNAVAILABLE: Final = PassFailure(Cause.UNAVAILABLE, "asking for a socket dump: ENOENT")
UNREADABLE: Final = PassFailure(Cause.UNREADABLE, "reading /proc/net through psutil: EACCES")
BUSY: Final = PassFailure(Cause.BUSY, "receiving a socket dump: EBUSY")

WALL: Final = 1_767_225_600.0
"""2026-01-01 00:00:00 UTC, when all scripts begin."""

BULK: Final = frozenset({State.ESTABLISHED, State.TIME_WAIT})
WATCHED: Final = frozenset(State) - BULK


@dataclass
class Time:
    """Stands still unless a test or a pass moves it."""

    monotonic: float = 5000.0
    wall: float = WALL
    cpu: float = 0.0

    def move(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.monotonic, lambda: self.wall, lambda: self.cpu)


@dataclass
class Script:
    """What the sources of one name do, and what was asked of them."""

    time: Time = field(default_factory=Time)
    refusal: PassFailure | None = None
    """Raised by probes."""
    failure: Exception | None = None
    """Raised by passes."""
    failing: Collection[str] = ("watch", "census")
    """The passes that raise it."""
    ports: Sequence[int] = (80,)
    """What is listened on."""
    counts: Mapping[State, int] = field(default_factory=dict)
    """IPv4 connections of the first port."""
    knows_owners: bool = True
    duration: float = 0.0
    cost: float = 0.0
    """Seconds of wall and of CPU time that a pass takes."""
    asked: Counter[str] = field(default_factory=Counter)
    """Calls by method."""
    left_open: int = 0
    """Sources that were used and are not closed."""

    def works_again(self) -> None:
        self.refusal = self.failure = None

    def listeners(self) -> tuple[Row, ...]:
        any_address = bytes(4)
        return tuple(
            Row(Family.INET, State.LISTEN, any_address, port, any_address, 0) for port in self.ports
        )

    def counted(self, states: Collection[State]) -> Counts:
        """What a reading holds of these states."""
        found = {state: self.counts[state] for state in states if state in self.counts}
        key = partial(ServicePort, Direction.INBOUND, self.ports[0], 0)
        return Counts(
            sockets=Counter({(Family.INET, state): count for state, count in found.items()}),
            services=Counter({key(state): count for state, count in found.items()}),
            unowned=Counter[Unowned]() if self.knows_owners else None,
        )


class FakeNetlink:
    """A source that does as its script says."""

    name: ClassVar[str] = "netlink"

    def __init__(self, script: Script) -> None:
        self._script = script
        self._is_open = False

    def probe(self) -> None:
        self._use("probe")
        if self._script.refusal is not None:
            raise self._script.refusal

    def watch(self, _follower: object = None) -> Reading:
        self._pass("watch")
        return Reading(self._script.listeners(), self._script.counted(WATCHED))

    def census(self, _follower: object = None) -> Reading:
        self._pass("census")
        script = self._script
        return Reading(script.listeners(), script.counted(WATCHED), script.counted(BULK))

    def close(self) -> None:
        self._script.left_open -= self._is_open
        self._is_open = False

    def _use(self, method: str) -> None:
        self._script.asked[method] += 1
        self._script.left_open += not self._is_open
        self._is_open = True

    def _pass(self, method: str) -> None:
        script = self._script
        self._use(method)
        script.time.move(script.duration)
        script.time.cpu += script.cost
        if script.failure is not None and method in script.failing:
            raise script.failure


class FakePsutil(FakeNetlink):
    """The other source, which knows less."""

    name: ClassVar[str] = "psutil"


def candidates(netlink: Script, psutil: Script) -> Makers:
    """Makes both sources, netlink's first."""
    return [partial(FakeNetlink, netlink), partial(FakePsutil, psutil)]


UNLIMITED: Final = replace(Config(), cpu=CpuConfig(budget=0))
HEALTHY: Final = {State.ESTABLISHED: 7, State.TIME_WAIT: 5}
SICK: Final = {State.CLOSE_WAIT: 3}


class Bench:
    """A Poller between two scripts, whose clock stands still unless told otherwise."""

    def __init__(self, config: Config = UNLIMITED) -> None:
        self.time = Time()
        self.netlink = Script(self.time, counts={**HEALTHY, **SICK})
        self.psutil = Script(self.time, counts={**HEALTHY, **SICK}, knows_owners=False)
        self.config = config

    def poller(self) -> Poller:
        return Poller(self.config, candidates=self.candidates(), clocks=self.time.clocks())

    def candidates(self) -> Makers:
        return candidates(self.netlink, self.psutil)

    def after(self, *kinds: PassKind) -> Poller:
        """A Poller that has run these passes, all of them well."""
        made = self.poller()
        for kind in kinds:
            assert made.step(kind)
        return made


def view_of(poller: Poller) -> NamespaceView:
    """What the passes have seen; there is one namespace."""
    (found,) = poller.snapshot().namespaces
    return found


def count(poller: Poller, state: State) -> int | None:
    """IPv4 sockets in that state; None if it is absent."""
    return view_of(poller).sockets.get((Family.INET, state))


def status(poller: Poller, kind: PassKind) -> PassStatus:
    return poller.snapshot().passes[kind]


def failures(poller: Poller, kind: PassKind) -> dict[str, int]:
    """How often each cause was counted that was."""
    return {cause: number for cause, number in status(poller, kind).failures.items() if number}
