"""The poll thread: runs passes when they are due and publishes a Snapshot after each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from sockwatch.config import Config
from sockwatch.kernel.failures import UNUSABLE, PassFailure
from sockwatch.observe.snapshot import NamespaceView, PassKind, Snapshot, SourceStatus
from sockwatch.poll.bell import Bell
from sockwatch.poll.host import Host
from sockwatch.poll.records import PassRecord
from sockwatch.poll.schedule import Schedule
from sockwatch.poll.sources import Makers, NoSource, SourceChoice, makers
from sockwatch.poll.state_file import AgeFile, Remembered

log = logging.getLogger(__name__)

_PATIENCE: Final = 3
"""Failures in a row after which another source is tried, whatever their cause."""
SECOND_LOOK: Final = 1.0
"""Seconds after which a queue that is full is looked at again."""
NAP: Final = 5.0
"""Longest time in seconds that the poll thread waits without a sign of life."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds: monotonic for intervals, wall for time stamps, CPU of the calling thread."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    cpu: Callable[[], float] = time.thread_time


def _intervals(config: Config) -> dict[PassKind, float]:
    return {PassKind.WATCH: config.watch.interval, PassKind.CENSUS: config.census.interval}


class Poller:
    """Reads the kernel on a schedule; everything in it belongs to the poll thread.

    Only `reconfigure` and `save_ages` may be called from another thread.
    """

    def __init__(
        self,
        config: Config,
        *,
        candidates: Makers | None = None,
        clocks: Clocks | None = None,
        ages: AgeFile | None = None,
    ) -> None:
        """Choose a source.

        Args:
            config: intervals, budget, limits.
            candidates: sources to choose from, by default those that `config` prefers.
            clocks: by default the system's.
            ages: where ages are kept beyond the life of this process, if they are.

        Raises:
            NoSource: nothing can be read here.
        """
        self._config = self._next_config = config
        self._clocks = clocks or Clocks()
        self._sources = SourceChoice(candidates or makers(config.source.prefer))
        self._source_since = self._clocks.wall()
        self._rechecked = self._clocks.monotonic()
        self._failures_in_a_row = 0
        self._schedule = Schedule(_intervals(config), config.cpu.budget)
        self._records = {kind: PassRecord() for kind in PassKind}
        self._ages = ages
        self._host = Host(self._recalled())
        self._view: NamespaceView | None = None

    def _recalled(self) -> Remembered | None:
        if self._ages is None:
            return None
        return self._ages.load(self._clocks.monotonic(), self._config.tracking.limit)

    def reconfigure(self, config: Config) -> None:
        """Use another configuration once the poll thread looks up: after the pass under way."""
        self._next_config = config

    def run(
        self,
        bell: Bell,
        publish: Callable[[Snapshot], None],
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Poll until told to stop, then close the source.

        Args:
            bell: ends the loop, or has it adopt a new configuration; at once while it waits, else
                after the pass under way.
            publish: given the new Snapshot after every pass.
            alive: called after every pass and every `NAP` seconds between passes: never while
                a pass hangs.
        """
        with closing(self):
            while not bell.stopped:
                self._adopt_config()
                kind, delay = self._schedule.next(self._clocks.monotonic())
                if delay:
                    bell.wait(min(delay, NAP))
                else:
                    self.step(kind)
                    publish(self.snapshot())
                alive()

    def close(self) -> None:
        """Let go of the source, and save ages; another pass opens it again."""
        self._sources.current.close()
        self._host.close()
        self.save_ages()

    def save_ages(self) -> None:
        """Save what the last good pass has left, whatever the one under way is doing."""
        remembered = self._host.remembered
        if self._ages is not None and remembered is not None:
            self._ages.save(remembered)

    def step(self, kind: PassKind) -> bool:
        """Run one pass now; True if it succeeded."""
        self._adopt_config()
        self._recheck()
        return self._pass(kind) or (self._give_up_source(kind) and self._pass(kind))

    def _adopt_config(self) -> None:
        config, old = self._next_config, self._config
        if config == old:  # else a storm of SIGHUP would be one of passes, beyond the budget
            return
        self._config = config
        self._schedule.reconfigure(_intervals(config), config.cpu.budget)
        if config.source.prefer != old.source.prefer:
            self._note_change(self._sources.prefer(makers(config.source.prefer)))

    def _recheck(self) -> None:
        """Ask the preferred source from time to time whether it works again."""
        now = self._clocks.monotonic()
        if now - self._rechecked >= self._config.source.recheck:
            self._rechecked = now
            self._note_change(self._sources.improve())

    def _pass(self, kind: PassKind) -> bool:
        began, cpu = self._clocks.monotonic(), self._clocks.cpu()
        source, record = self._sources.current, self._records[kind]
        interval = self._schedule.interval(PassKind.WATCH)
        follower = self._host.follower(began, interval, self._config)
        read = source.watch if kind is PassKind.WATCH else source.census
        try:
            reading = read(follower)
            limit = self._config.labels.series_limit
            self._view = self._host.take(reading, began, limit, follower.finish())
            if self._ages is not None and self._host.remembered is not None:
                self._ages.keep(self._host.remembered)
        except PassFailure as failure:
            self._failed(kind, failure, self._clocks.cpu() - cpu)
            return False
        now, cost = self._clocks.monotonic(), self._clocks.cpu() - cpu
        record.succeeded(self._clocks.wall(), now - began, cost)
        if kind is PassKind.CENSUS:
            self._records[PassKind.WATCH].included(self._clocks.wall())
        self._schedule.finished(kind, now, cost)
        self._failures_in_a_row = 0
        return True

    def _failed(self, kind: PassKind, failure: PassFailure, cost: float) -> None:
        record = self._records[kind]
        if record.last_failure is None:  # the first in a row; the metric counts them all
            log.warning("%s pass failed, the last good values stay: %s", kind, failure)
        record.failed(failure, cost)
        self._schedule.finished(kind, self._clocks.monotonic(), cost)
        self._failures_in_a_row += _PATIENCE if failure.cause in UNUSABLE else 1

    def _give_up_source(self, kind: PassKind) -> bool:
        """After failures that a new try will not mend, take another; True if there is one."""
        why = self._records[kind].last_failure or ""
        hopeless = self._failures_in_a_row >= _PATIENCE
        return hopeless and self._note_change(self._sources.replace(why))

    def _note_change(self, changed: bool) -> bool:  # noqa: FBT001  handed through
        if changed:
            self._source_since, self._failures_in_a_row = self._clocks.wall(), 0
        return changed

    def snapshot(self) -> Snapshot:
        """All that is known now."""
        return Snapshot(
            taken=self._clocks.wall(),
            source=SourceStatus(
                self._sources.current.name, self._sources.reason, self._source_since
            ),
            passes={
                kind: record.status(_intervals(self._config)[kind], self._schedule.interval(kind))
                for kind, record in self._records.items()
            },
            namespaces=(self._view,) if self._view else (),
        )


def look_once(config: Config, sleep: Callable[[float], None] = time.sleep) -> Snapshot:
    """Take one census now, and look again a second later if a queue is full.

    Who answers within that second, and what the kernel has counted meanwhile, tells why it is.

    Raises:
        NoSource: nothing can be read here.
    """
    with closing(Poller(config)) as poller:
        good, snapshot = poller.step(PassKind.CENSUS), poller.snapshot()
        if good and any(map(_has_full_queue, snapshot.namespaces)):
            sleep(SECOND_LOOK)
            if poller.step(PassKind.WATCH):
                snapshot = poller.snapshot()
    if not good:
        raise NoSource(f"the census failed ({snapshot.passes[PassKind.CENSUS].last_failure})")
    return snapshot


def _has_full_queue(view: NamespaceView) -> bool:
    return any(
        one.full or (one.limit is not None and (one.half_open or 0) >= max(one.limit, 1))
        for one in view.listeners
    )
