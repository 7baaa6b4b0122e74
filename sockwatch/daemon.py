"""The daemon: one thread polls, the event loop serves, and they share one reference.

Whatever goes wrong in the poll thread ends the daemon: a watcher that no longer looks must not
go on answering.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import Metric

from sockwatch.config import Config, ConfigError
from sockwatch.export.exposition import Exposition
from sockwatch.export.formats import Format
from sockwatch.export.own import HttpCounts, Reloads, own_families
from sockwatch.observe.snapshot import PassKind, Snapshot, SourceStatus
from sockwatch.poll import Bell, Poller
from sockwatch.poll.state_file import AgeFile
from sockwatch.service import Notifier, setup_logging
from sockwatch.web.app import App
from sockwatch.web.guard import Limits
from sockwatch.web.server import Application, Server

if TYPE_CHECKING:
    from sockwatch.web.protection import Protection

log = logging.getLogger(__name__)

_STALE_AFTER: Final = 3
"""Effective intervals without a good watch after which the figures are stale."""
_STALE_SLACK: Final = 5.0
"""Seconds on top of that: a busy host may delay a pass."""
_STOP_WITHIN: Final = 0.4
"""Seconds that requests in flight, and then the poll thread, get to finish."""
_YIELD_AFTER: Final = 0.001
"""Seconds after which the poll thread lets a request go first that waits for the interpreter. A
request asks several times, and with the usual 5 ms each time a long pass would be felt."""
_ONE_NAMESPACE: Final = (
    "netns.include has no effect yet: only the daemon's own network namespace is watched"
)

Reload = Callable[[], Config]
"""Loads the configuration anew; raises ConfigError."""


class Board:
    """Where the poll thread posts its Snapshot and everybody else reads it; see `web.Content`."""

    def __init__(self, first: Snapshot, exposition: Exposition) -> None:
        self._exposition = exposition
        self._snapshot = first
        self._good_at: float | None = None

    def post(self, snapshot: Snapshot) -> None:
        """Replace the Snapshot; called by the poll thread only."""
        newest, before = (one.passes[PassKind.WATCH] for one in (snapshot, self._snapshot))
        if newest.last_success != before.last_success:
            self._good_at = time.monotonic()
        self._snapshot = snapshot

    def snapshot(self) -> Snapshot:
        """The current Snapshot."""
        return self._snapshot

    def render(self, fmt: Format) -> bytes:
        """The metrics of the current Snapshot."""
        return self._exposition.render(self._snapshot, fmt)

    def ready(self) -> tuple[bool, str]:
        """Whether a watch has succeeded lately, and a sentence about it."""
        status, good_at = self._snapshot.passes[PassKind.WATCH], self._good_at
        if good_at is None:
            return False, "No pass over the kernel has succeeded yet."
        age = time.monotonic() - good_at
        if age > _STALE_AFTER * status.interval + _STALE_SLACK:
            why = status.last_failure or "the one under way does not end"
            return False, f"The last good pass ended {age:.0f} s ago ({why})."
        return True, "Ready."


class Daemon:
    """Poll thread, HTTP server, signals and systemd, wired together.

    Args:
        config: how to start.
        listeners: sockets to serve on, already listening.
        reload: loads the configuration anew, for SIGHUP.
        protection: what the web configuration file asks for, if there is one.

    Raises:
        NoSource: nothing can be read here.
    """

    def __init__(
        self,
        config: Config,
        listeners: Sequence[socket.socket],
        reload: Reload,
        protection: Protection | None = None,
    ) -> None:
        self._config = config
        self._protection = protection
        self._listeners = listeners
        self._reload = reload
        self._notifier = Notifier()
        self._started_up = False
        self._ended = asyncio.Event()
        self._status = 0
        self._reloads = Reloads(successful=True, success_time=time.time())
        self._bell = Bell()
        self._poller = Poller(config, ages=AgeFile.of_service(os.environ))
        self._board = Board(self._poller.snapshot(), Exposition(self._own_families))
        app: Application = App(
            self._board,
            telemetry_path=config.web.telemetry_path,
            preferred=lambda: self._config.source.prefer,
        )
        self._server = Server(
            protection.guard(app) if protection else app,
            limits=Limits(connections=config.web.max_connections),
            tls=protection.tls if protection and protection.has_tls else None,
        )

    def _own_families(self) -> Iterable[Metric]:
        rejected = {reason.value: number for reason, number in self._server.rejected.items()}
        http = HttpCounts(self._server.requests_in_flight, rejected)
        return own_families(self._all_reloads(), http, self._config.cpu.budget)

    def _all_reloads(self) -> Reloads:
        """Good if both the configuration and the web configuration file were last loaded well."""
        web = self._protection
        if web is None:
            return self._reloads
        newest = max(self._reloads.success_time, web.success_time)
        return Reloads(self._reloads.successful and web.successful, newest)

    async def run(self) -> int:
        """Serve and poll until SIGTERM or SIGINT, or until nobody could be answered any longer.

        Returns:
            The exit code: 1 if a listener was lost.

        Raises:
            Exception: whatever ended the poll thread.
        """
        loop, ended = asyncio.get_running_loop(), self._ended
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        loop.add_signal_handler(signal.SIGINT, ended.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])  # one may wait since the start
        sys.setswitchinterval(_YIELD_AFTER)
        await self._server.start(self._listeners, self._on_lost)
        for listener in self._listeners:
            log.info("listening", extra={"fields": {"address": address_of(listener)}})
        if self._protection:
            self._protection.log()
        self._log_source(self._board.snapshot().source)
        if self._config.netns.include:
            log.warning(_ONE_NAMESPACE)
        polling = _PollThread(
            partial(
                self._poller.run, self._bell, publish=self._on_pass, alive=self._notifier.watchdog
            ),
            finished=lambda: loop.call_soon_threadsafe(ended.set),
        )
        polling.start()
        await ended.wait()
        self._notifier.stopping()
        self._bell.stop()
        await self._server.stop(_STOP_WITHIN)
        polling.join(_STOP_WITHIN)
        if polling.is_alive():  # in a long pass, for which nobody waits
            self._poller.save_ages()
        if polling.crash is not None:
            raise polling.crash
        return self._status

    def _on_lost(self, listener: socket.socket) -> None:
        """End, so that the service manager starts anew what can be asked again."""
        address = address_of(listener)
        log.error("the socket that listened at %s was ended by somebody (as ss -K does)", address)
        self._status = 1
        self._ended.set()

    def _log_source(self, source: SourceStatus) -> None:
        """Say once what is read and why; the choices that follow are logged by who makes them."""
        level = logging.INFO if source.name == self._config.source.prefer else logging.WARNING
        log.log(level, "reading sockets through %s: %s", source.name, source.reason)

    def _on_pass(self, snapshot: Snapshot) -> None:
        first = not self._board.ready()[0]
        self._board.post(snapshot)
        ready, sentence = self._board.ready()
        if ready and first:
            self._started_up = True
            self._notifier.ready(f"reading sockets through {snapshot.source.name}")
        elif not ready:
            self._notifier.status(sentence)

    def _on_hangup(self) -> None:
        """Load the configuration anew: all of it, or on any error nothing."""
        if not self._started_up:  # to say that we are ready again would be early
            self._load_anew()
            return
        self._notifier.reloading()
        self._load_anew()
        self._notifier.ready()

    def _load_anew(self) -> None:
        try:
            config = self._reload()
            if self._protection:
                self._protection.reload()
        except ConfigError as error:
            log.error(  # noqa: TRY400  the problems say it all
                "configuration not reloaded, the old one stays: %s", error
            )
            self._reloads = self._reloads._replace(successful=False)
        else:
            self._apply(config)
            self._reloads = Reloads(successful=True, success_time=time.time())
            log.info("configuration reloaded")

    def _apply(self, config: Config) -> None:
        self._poller.reconfigure(config)
        self._bell.ring()
        if config.log != self._config.log:
            setup_logging(config.log.level, config.log.format)
        if config.web != self._config.web:
            log.warning("[web] has changed, which takes effect at the next start")
        if config.netns.include and config.netns != self._config.netns:
            log.warning(_ONE_NAMESPACE)
        self._config = config


def address_of(listener: socket.socket) -> str:
    """Where a socket listens, as it is written in a URL; a path for an AF_UNIX socket."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    host, port, *_ = name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _PollThread(threading.Thread):
    """Runs the poller to its end; an exception in it is kept for the main thread."""

    def __init__(self, poll: Callable[[], None], finished: Callable[[], object]) -> None:
        super().__init__(name="poll", daemon=True)
        self.crash: BaseException | None = None
        self._poll = poll
        self._finished = finished

    def run(self) -> None:
        """Poll; see `Poller.run`."""
        try:
            self._poll()
        except BaseException as error:  # noqa: BLE001  raised again by Daemon.run
            self.crash = error
        finally:
            self._finished()
