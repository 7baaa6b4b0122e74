"""Network namespaces that live by a descriptor and end with the block that made them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import IO, Final, Self, TypeAlias, TypeVar

from lab.processes import LabError, call, command_line, end, eventually, fork, libc_call

T = TypeVar("T")
Output: TypeAlias = IO[str] | int | None
"""As subprocess takes it: a file, a descriptor, PIPE, DEVNULL; None for that of the test."""

# include/uapi/linux/sched.h
CLONE_NEWNET: Final = 0x40000000

_TERMINATE_SECONDS: Final = 2.0


_DESTROY_WITHIN: Final = 300.0
"""Seconds; a million sockets take their time."""


class Namespace:
    """A network namespace with `lo` up, for a `with` block; see the package for its use."""

    def __init__(self, sysctls: Mapping[str, int | str] | None = None) -> None:
        self._cleanup = ExitStack()
        self._handle = self._cleanup.enter_context(_new_namespace())
        self._cleanup.callback(self.destroy_sockets)
        self._cleanup.callback(self._kill_processes)
        with self._closed_on_error():
            self.run("ip", "link", "set", "lo", "up")
            self.set_sysctls(sysctls or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what was started inside, destroy the sockets, let go of the namespace."""
        self._cleanup.close()

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The descriptor that keeps the namespace, for setns() or rtnetlink."""
        return self._handle.fileno()

    @property
    def path(self) -> str:
        """A path to the namespace, for `nsenter --net=` and open(), while the test runs."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace, and back where it was afterwards."""
        with _back_to_this_namespace():
            libc_call("setns", self.fd, CLONE_NEWNET)
            yield

    def socket(
        self, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A socket of the namespace, usable from outside it as well."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def read(self, name: str) -> str:
        """The text of a file of `/proc/net`, such as `tcp6` or `sockstat`."""
        with self.entered():
            return Path("/proc/thread-self/net", name).read_text()

    def sysctl(self, name: str) -> str:
        """The value of a sysctl, such as `net.ipv4.tcp_fin_timeout`."""
        with self.entered():
            return _sysctl_path(name).read_text().strip()

    def set_sysctls(self, values: Mapping[str, int | str]) -> None:
        with self.entered():
            for name, value in values.items():
                _sysctl_path(name).write_text(f"{value}")

    def filter(self, *rules: str) -> None:
        """Add nftables rules to what arrives at the namespace, IPv4 and IPv6 alike.

        A packet dropped there has been sent as far as its sender can tell.
        """
        chain = "add chain inet lab arriving { type filter hook input priority 0; }"
        added = [f"add rule inet lab arriving {rule}" for rule in rules]
        self.run("nft", "-f", "-", text="\n".join(["add table inet lab", chain, *added, ""]))

    def run(
        self, *command: str, text: str = "", uid: int | None = None, timeout: float = 10.0
    ) -> str:
        """The output of a command that runs inside, fed with `text`; LabError if it fails."""
        try:
            with self.entered():
                return _output(command_line(command, uid), text, timeout)
        except subprocess.CalledProcessError as error:
            raise LabError(f"{command} exits with {error.returncode}: {error.stderr}") from None
        except subprocess.TimeoutExpired:
            raise LabError(f"{command} takes longer than {timeout} s") from None

    def start(
        self,
        *command: str,
        uid: int | None = None,
        stdout: Output = None,
        stderr: Output = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """A command that runs inside until it ends, or the namespace."""
        line = command_line(command, uid)
        with self.entered():
            process = subprocess.Popen(line, stdout=stdout, stderr=stderr, env=env, text=True)
        self._cleanup.callback(_terminate, process)
        return process

    def fork(
        self, function: Callable[..., object], *arguments: object, uid: int | None = None
    ) -> ForkProcess:
        """A function that runs inside in a forked child until it returns, or the namespace ends."""
        with self.entered():
            child = fork(function, arguments, uid)
        self._cleanup.callback(end, child)
        return child

    def call(
        self,
        function: Callable[..., T],
        *arguments: object,
        uid: int | None = None,
        timeout: float = 10.0,
    ) -> T:
        """The value of a function that runs inside in a forked child; LabError if it raises."""
        with self.entered():
            return call(function, arguments, uid, timeout)

    def destroy_sockets(self) -> None:
        """Abort every TCP socket of the namespace, those that no process holds as well."""
        self.run("ss", "--kill", "--tcp", "--all", timeout=_DESTROY_WITHIN)

    def processes(self) -> list[int]:
        """The ids of the processes inside, whoever started them; never this one's."""
        inode = os.fstat(self.fd).st_ino
        found = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal())
        return [pid for pid in found if pid != os.getpid() and _namespace_of(pid) == inode]

    def _kill_processes(self) -> None:
        """What a process started in its turn is not ours to wait for, but ours to end."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: not self.processes(), f"no process left in {self.path}")


def _namespace_of(pid: int) -> int | None:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:  # it has ended
        return None


def _new_namespace() -> FileIO:
    with _back_to_this_namespace():
        libc_call("unshare", CLONE_NEWNET)
        return _this_namespace()


def _this_namespace() -> FileIO:
    return FileIO("/proc/thread-self/ns/net")


@contextmanager
def _back_to_this_namespace() -> Iterator[None]:
    with _this_namespace() as origin:
        try:
            yield
        finally:
            libc_call("setns", origin.fileno(), CLONE_NEWNET)


def _sysctl_path(name: str) -> Path:
    path = Path("/proc/sys", *name.split("."))
    if not path.exists():
        raise LabError(f"{name} does not exist in a network namespace: unknown, or the host's")
    return path


def _output(command: list[str], text: str, timeout: float) -> str:
    finished = subprocess.run(
        command, input=text, capture_output=True, text=True, check=True, timeout=timeout
    )
    return finished.stdout


def _terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
