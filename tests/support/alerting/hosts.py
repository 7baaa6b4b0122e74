"""Hosts: a network namespace each, with the real daemon in it, scraped from outside of it.

The daemon listens on a socket that the test has made outside and passes on as systemd would, so
that Prometheus reaches it, and so that the scrapes are no connections of the host itself. As in the
shipped unit it has no capability and sees no other process, hence cannot tell hidden sockets: they
are those of the whole machine, on which other tests may run.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Final, Self

from daemon import ROOT, environment
from lab import Namespace
from lab.processes import command_line, end
from own_cgroups import enter

from alerting.servers import get

_BOOT: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "sockwatch", "run", *sys.argv[2:]])
"""
_HIDE: Final = 'mount -t proc -o hidepid=invisible proc /proc && exec "$@"'
_ALONE: Final = ("unshare", "--mount", "sh", "-c", _HIDE, "sh")


class Host:
    """A network namespace that is watched, for a `with` block."""

    def __init__(
        self, name: str, folder: Path, *flags: str, sysctls: Mapping[str, int | str] | None = None
    ) -> None:
        self.name = name
        self.scenes: dict[str, ForkProcess] = {}
        self.log = folder / f"{name}.log"
        self._flags = flags
        self._sysctls = sysctls
        self._cleanup = ExitStack()
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            self.namespace = stack.enter_context(Namespace(self._sysctls))
            stack.callback(self.stop)
            self.start()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self, *flags: str) -> None:
        """Start the daemon, with further flags; what it says is added to the log."""
        number = self._listener.fileno()
        flags = ("--web.systemd-socket", *self._flags, *flags)
        python = (sys.executable, "-c", _BOOT, f"{number}", *flags)
        with self.log.open("ab") as log, self.namespace.entered():
            self._daemon = subprocess.Popen(
                [*_ALONE, *command_line(python, uid=0)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[number],
                env=environment(),
                cwd=ROOT,
            )

    def restart(self, number: signal.Signals, *flags: str) -> None:
        """End the daemon with a signal, and start it with further flags."""
        self.stop(number)
        self.start(*flags)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon, if it runs."""
        if self._daemon is not None:
            self._daemon.send_signal(number)
            self._daemon.wait(15)
            self._daemon = None

    def reload(self) -> None:
        """Tell the daemon to load its configuration again."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGHUP)

    def metrics(self) -> str:
        return get(f"http://{self.address}/metrics").decode()

    def play(
        self, scene: Callable[..., None], *arguments: object, unit: Path | None = None
    ) -> None:
        """Let a scene go on in a process inside, as one of the unit's cgroup if given."""
        self.scenes[scene.__name__] = self.namespace.fork(_in_unit, unit, scene, *arguments)

    def finish(self) -> None:
        """End all scenes, as if their services were restarted."""
        for child in self.scenes.values():
            end(child)


def _in_unit(unit: Path | None, scene: Callable[..., None], *arguments: object) -> None:
    if unit is not None:
        enter(unit)
    scene(*arguments)
