"""What is remembered of the host between passes, so that each pass yields a complete view."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Final

from sockwatch.config import AgesConfig, Config
from sockwatch.kernel.cgroups import UnitResolver
from sockwatch.kernel.sysctls import PROC_SYS, read_integer
from sockwatch.observe.ages import AgePass, Generation
from sockwatch.observe.destinations import destinations, unanswered
from sockwatch.observe.listeners import ListenerMemory
from sockwatch.observe.queues import Peaks, QueueMemory
from sockwatch.observe.services import ServiceMemory
from sockwatch.observe.snapshot import Destinations, NamespaceView, Stuck
from sockwatch.observe.stuck import Ages, StuckTally
from sockwatch.observe.stuck_view import stuck_view
from sockwatch.observe.view import view
from sockwatch.poll.figures import REFRESH, FigureReader
from sockwatch.poll.owners import OwnerWatch
from sockwatch.poll.state_file import Remembered
from sockwatch.tcp.records import Counts, Reading, Row
from sockwatch.tcp.states import State
from sockwatch.tcp.timers import TimerLaws

_GAP_INTERVALS: Final = 3
"""Intervals without a good pass after which a newcomer's age is only a lower bound."""
_LINEAR_SYN_TIMEOUTS: Final = 4
"""Of `tcp_syn_linear_timeouts` what the kernel begins with, since 6.5 has it."""


class Host:
    """sockwatch's own network namespace across passes."""

    def __init__(self, remembered: Remembered | None = None) -> None:
        """Begin, with what is known of the time before if anything."""
        self._units = UnitResolver()
        self._listeners = ListenerMemory()
        self._services = ServiceMemory()
        self._queues = QueueMemory()
        self._peaks = Peaks()
        self._figures = FigureReader()
        self._owners = OwnerWatch()
        self._laws = TimerLaws()
        self._laws_due = -inf
        self._remembered = remembered
        self._bulk: Counts | None = None
        self._destinations: Destinations | None = None

    @property
    def remembered(self) -> Remembered | None:
        """What is known of the ages of connections; `None` if no pass could know them."""
        return self._remembered

    def follower(self, now: float, interval: float, config: Config) -> StuckTally:
        """What follows the sockets of a pass at monotonic time `now`.

        Args:
            now: seconds.
            interval: seconds between passes; what came up in a much longer gap may be older.
            config: limits of ages and of their number.
        """
        self._owners.switch(on=config.owners.processes)
        if now >= self._laws_due:  # an administrator may change them
            self._laws, self._laws_due = timer_laws(), now + REFRESH
        generation, taken = self._remembered or (Generation(), -inf)
        resumed = now - taken > _GAP_INTERVALS * interval
        age_pass = AgePass(generation, now, config.tracking.limit, resumed)
        return StuckTally(age_pass, age_limits(config.ages), self._laws)

    def take(
        self, reading: Reading, now: float, series_limit: int, ages: Ages | None = None
    ) -> NamespaceView:
        """The view after a good pass at monotonic time `now` (seconds)."""
        if reading.bulk is not None:
            self._bulk = reading.bulk

        @cache
        def unit_of(cgroup: int) -> str:
            return self._units.unit(cgroup, now)

        adopted = self._owners.adopted(reading.listeners, unit_of, ages.marked if ages else ())
        result = view(
            reading,
            self._bulk,
            unit_of,
            series_limit,
            group=partial(self._listeners, adopted=adopted),
            tell=self._services,
        )
        stuck = None
        if ages is not None:
            self._remembered = Remembered(ages.generation, now)
            found = stuck_view(ages, result, unit_of)
            stuck = self._owners.named(found, now, _inodes(reading.listeners))
        figures = self._figures.take(now, census=reading.bulk is not None)
        if reading.bulk is not None:
            ports = figures.ephemeral_ports
            self._destinations = destinations(reading.watched, reading.bulk, ports)
        return replace(
            result,
            listeners=self._queues.complete(
                result.listeners, reading.watched.half_open, reading.watched.resent, now
            ),
            figures=figures,
            stuck=stuck,
            owners=self._owners.holders(_inodes(reading.listeners)),
            destinations=self._reached(stuck),
            peaks=self._state_peaks(result, now),
        )

    def _reached(self, stuck: Stuck | None) -> Destinations | None:
        """Ports as of the last census, and who does not answer now."""
        if self._destinations is None or stuck is None:
            return self._destinations
        return replace(self._destinations, unanswered=unanswered(stuck))

    def close(self) -> None:
        """Look for nobody's processes any more."""
        self._owners.switch(on=False)

    def _state_peaks(self, view: NamespaceView, now: float) -> Mapping[State, int]:
        totals: Counter[State] = Counter()
        for (_, state), number in view.sockets.items():
            totals[state] += number
        self._peaks.note(now, totals.items())
        return {state: self._peaks.of(state) for state in totals if state is not State.LISTEN}


def _inodes(rows: Iterable[Row]) -> Iterator[int]:
    return (row.inode for row in rows if row.inode)


def age_limits(ages: AgesConfig) -> Mapping[State, float]:
    """How long is normal in each watched state, in seconds."""
    return {
        State.SYN_SENT: ages.syn_sent,
        State.SYN_RECV: ages.syn_recv,
        State.ESTABLISHED: ages.not_accepted,
        State.FIN_WAIT1: ages.fin_wait1,
        State.FIN_WAIT2: ages.fin_wait2,
        State.CLOSE_WAIT: ages.close_wait,
        State.LAST_ACK: ages.last_ack,
        State.CLOSING: ages.closing,
    }


def timer_laws(root: Path = PROC_SYS) -> TimerLaws:
    """What this host's sysctls make of the kernel's timers."""
    usual = TimerLaws()
    longest = read_integer("net.ipv4.tcp_rto_max_ms", root)
    return TimerLaws(
        linear_syn_timeouts=_linear_syn_timeouts(root),
        fin_timeout=float(read_integer("net.ipv4.tcp_fin_timeout", root) or usual.fin_timeout),
        longest_timeout=longest / 1000 if longest else usual.longest_timeout,
    )


def _linear_syn_timeouts(root: Path) -> int:
    """None on a kernel without them; the usual where a sandbox hides what this kernel has.

    With too many of them an age is too low, with too few it is many times too high.
    """
    known = read_integer("net.ipv4.tcp_syn_linear_timeouts", root)
    if known is not None:
        return known
    is_hidden = read_integer("net.ipv4.tcp_syn_retries", root) is None
    return _LINEAR_SYN_TIMEOUTS if is_hidden else 0
