"""One booted machine."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Final, Self

from guards import need, need_command, need_root

from booted.groups import own_groups, remove_group

_BOOT_SECONDS: Final = 60.0
_SHUTDOWN_SECONDS: Final = 5.0
_STEP: Final = 0.05
_NUMBERS: Final = count(1)
_FINISHED: Final = frozenset({"running", "degraded"})
_NAMESPACES: Final = ("mount", "uts", "ipc", "net", "pid", "cgroup", "root", "wd")
_ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
_JOIN: Final = 'for group in $TO_JOIN; do echo $$ >"$group/cgroup.procs"; done; exec "$@"'
_GET: Final = """
import sys, urllib.request
answer = urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2]))
sys.stdout.write(answer.read().decode())
"""


class MachineError(Exception):
    """A command in the machine failed; says which and what it printed."""


class Machine:
    """A booted machine, for a `with` block; see the package for how it works.

    Args:
        tree: what it is booted from; not written to.
        shared: folders of this host by where the machine sees them, read-only.
    """

    def __init__(self, tree: Path, shared: Mapping[str, Path]) -> None:
        need_root()
        self._cleanup = ExitStack()
        self._name = f"sockwatch-test-{os.getpid()}-{next(_NUMBERS)}"
        self._command = [*_starter(), *_container(tree, self._name, shared)]

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        groups = own_groups(self._name)
        for group in groups:
            self._cleanup.callback(remove_group, group)
        self._console = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by the next line
        self._cleanup.callback(self._console.close)
        variables = {
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "TO_JOIN": " ".join(map(str, groups)),
        }
        self._process = subprocess.Popen(
            ["sh", "-c", _JOIN, "sh", *self._command],
            env=os.environ | variables,
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=subprocess.STDOUT,
        )
        self._cleanup.callback(self._end)
        self._init = self._wait_for(self._find_init, "systemd-nspawn started no systemd")
        self._wait_for(self._is_up, "its systemd did not come up")

    def _end(self) -> None:
        """Let systemd-nspawn clean up; failing that, end the PID namespace that holds it all."""
        with suppress(OSError, IndexError, subprocess.TimeoutExpired):
            os.kill(_children(self._process.pid)[0], signal.SIGTERM)
            self._process.wait(_SHUTDOWN_SECONDS)
        self._process.kill()
        self._process.wait()

    def _wait_for(self, probe: Callable[[], int], failure: str) -> int:
        deadline = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if found := probe():
                return found
            time.sleep(_STEP)
        self._console.seek(0)
        said = self._console.read().strip()[-500:]
        need(condition=False, reason=f"cannot boot a machine here: {failure}: {said}")
        raise AssertionError("unreachable")

    def _find_init(self) -> int:
        """The systemd inside: child of systemd-nspawn, which is a child of what we started."""
        with suppress(OSError, IndexError):
            init = _children(_children(self._process.pid)[0])[0]
            if Path(f"/proc/{init}/comm").read_text() == "systemd\n":
                return init
        return 0

    def _is_up(self) -> bool:
        return self.systemctl("is-system-running", check=False) in _FINISHED

    def run(self, *command: str, text: str = "", check: bool = True, timeout: float = 60) -> str:
        """Run a command as the machine's root; return what it printed, errors as well.

        Args:
            command: the program and its arguments.
            text: what it reads.
            check: raise MachineError if it fails.
            timeout: seconds.
        """
        enter = ["nsenter", f"--target={self._init}", *(f"--{name}" for name in _NAMESPACES), "--"]
        done = subprocess.run(
            [*enter, *command],
            env=_ENVIRONMENT,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode != 0:
            raise MachineError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl; a failure comes with the newest lines of the journal."""
        try:
            return self.run("systemctl", "--no-pager", *arguments, check=check).strip()
        except MachineError as error:
            error.add_note(self.run("journalctl", "--no-pager", "--output=cat", "--lines=15"))
            raise

    def show(self, unit: str, setting: str) -> str:
        """Return a property of a unit as systemd has it in effect."""
        return self.systemctl("show", "--value", f"--property={setting}", unit)

    def journal(self, unit: str, *options: str) -> str:
        """Return the lines of a unit, without their times."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}", *options)

    def start(self, unit: str, program: str) -> None:
        """Start a service that runs a Python program."""
        command = ("systemd-run", "--quiet", f"--unit={unit}", "python3", "-u", "-c", program)
        self.run(*command)

    def write(self, path: str, text: str) -> None:
        """Write a file; its folder is made where it is missing."""
        self.run("mkdir", "--parents", str(Path(path).parent))
        self.run("tee", path, text=text)

    def get(self, url: str, timeout: float = 5) -> str:
        """Return what a URL answers, asked from inside; MachineError if it does not."""
        return self.run("python3", "-I", "-S", "-c", _GET, url, str(timeout))

    def kill(self, unit: str, number: signal.Signals) -> None:
        """Send a signal to the main process of a unit, past systemd's back."""
        self.run("kill", f"-{number.name.removeprefix('SIG')}", self.show(unit, "MainPID"))


def _starter() -> list[str]:
    """What makes everything below it end with this process."""
    setpriv, unshare = (need_command(name, "util-linux") for name in ("setpriv", "unshare"))
    end_with_parent = [setpriv, "--pdeathsig=KILL"]
    return [*end_with_parent, unshare, "--fork", "--pid", "--mount-proc", "--kill-child=KILL"]


def _container(tree: Path, name: str, shared: Mapping[str, Path]) -> list[str]:
    return [
        need_command("systemd-nspawn", "systemd-container"),
        "--boot",
        "--quiet",
        f"--directory={tree}",
        "--volatile=overlay",
        "--read-only",  # the tree, which other machines may use at the same time
        "--settings=no",
        f"--machine={name}",
        "--register=no",
        "--keep-unit",
        "--private-network",
        "--console=pipe",
        "--system-call-filter=bpf",  # without it systemd cannot enforce IPAddressDeny=
        *(f"--bind-ro={folder}:{inside}" for inside, folder in shared.items()),
    ]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
