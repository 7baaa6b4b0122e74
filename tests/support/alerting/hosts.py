"""Hosts: a network namespace each, with the real daemon in it, scraped from outside of it.

The daemon listens on a socket that the test has made outside and passes on as systemd would, so
that Prometheus reaches it, and so that the scrapes are no connections of the host itself. As in the
shipped unit it has no capability and sees no other process, hence cannot tell hidden sockets: they
are those of the whole machine, on which other tests may run. One host is let see all of it.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Final, Self

from daemon import ROOT, Metrics, environment
from lab import Namespace
from lab.processes import command_line, end
from own_cgroups import enter

from alerting.servers import get
from sockwatch.poll.figures import REFRESH

FREE: Final = "[cpu]\nbudget = 0\n"
"""What a daemon is configured with: passes come much more often than is usual."""
_BOOT: Final = Path(__file__).with_name("boot.py")
_HIDE: Final = 'mount -t proc -o hidepid=invisible,gid=65534 proc /proc && exec "$@"'
_ALONE: Final = ("unshare", "--mount", "sh", "-c", _HIDE, "sh")


class Host:
    """A network namespace that is watched, for a `with` block."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *flags: str,
        sysctls: Mapping[str, int | str] | None = None,
        netlink: bool = True,
        hidden_every: float | None = None,
    ) -> None:
        """Describe it; the block makes it.

        Args:
            name: how Prometheus calls it.
            folder: for the daemon's configuration and log.
            flags: of the daemon.
            sysctls: of the namespace.
            netlink: whether the daemon is let use it.
            hidden_every: seconds after which the daemon, which then may see all of the machine,
                counts hidden sockets anew.
        """
        self.name = name
        self.scenes: dict[str, ForkProcess] = {}
        self.log = folder / f"{name}.log"
        self._nothing = folder / f"{name}.nothing"
        self._config = folder / f"{name}.toml"
        self._config.write_text(FREE)
        self._flags = (*flags, f"--config.file={self._config}")
        self._netlink = netlink
        self._hidden_every = hidden_every
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

    def start(self) -> None:
        """Start the daemon; what it says is added to the log."""
        number = self._listener.fileno()
        with self.log.open("ab") as log, self.namespace.entered():
            self._daemon = subprocess.Popen(
                self._command(number),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[number],
                env=environment(),
                cwd=ROOT,
            )

    def _command(self, descriptor: int) -> list[str]:
        wanted = {
            "descriptor": descriptor,
            "netlink": self._netlink,
            "hidden_every": self._hidden_every or REFRESH,
        }
        python = (sys.executable, f"{_BOOT}", json.dumps(wanted), *self._flags)
        if self._hidden_every is not None:
            return command_line(python, uid=None)
        return [*_ALONE, *command_line(python, uid=0)]

    def restart(self, number: signal.Signals) -> None:
        """End the daemon with a signal, and start it again."""
        self.stop(number)
        self.start()

    def configure(self, text: str) -> None:
        """Give the running daemon another configuration."""
        self._config.write_text(text)
        self.send(signal.SIGHUP)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the daemon, if it runs."""
        if self._daemon is not None:
            self.send(number)
            self.send(signal.SIGCONT)
            self._daemon.wait(15)
            self._daemon = None

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def blind(self) -> None:
        """Take /proc/net from the daemon; without netlink that is all that it has."""
        self._nothing.mkdir(exist_ok=True)
        self._mounts("mount", "--bind", f"{self._nothing}")

    def see_again(self) -> None:
        self._mounts("umount", "--quiet")

    def _mounts(self, *command: str) -> None:
        assert self._daemon is not None
        pid = self._daemon.pid
        inside = ("nsenter", f"--mount=/proc/{pid}/ns/mnt")
        subprocess.run([*inside, *command, f"/proc/{pid}/net"], check=False)

    def flicker(self, blind: float, seeing: float) -> None:
        """Blind the daemon from time to time, for so many seconds."""
        while True:
            self.blind()
            time.sleep(blind)
            self.see_again()
            time.sleep(seeing)

    def metrics(self) -> Metrics:
        return Metrics(get(f"http://{self.address}/metrics").decode())

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
