"""Processes of the lab: bounded in time, without privilege if wanted, ended with their starter."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from typing import Final, TypeVar, cast

T = TypeVar("T")

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

_POLL_SECONDS: Final = 0.005
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_FORK: Final = multiprocessing.get_context("fork")


class LabError(Exception):
    """The laboratory could not do what it was asked; says what and why."""


def libc_call(name: str, *arguments: int) -> None:
    """Call a function of libc that answers 0, raising OSError with its errno otherwise."""
    if getattr(_LIBC, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}{arguments}: {os.strerror(error)}")


def eventually(probe: Callable[[], T], what: str, timeout: float = 5.0) -> T:
    """Return the first true value of the probe; LabError after `timeout` seconds without one."""
    deadline = time.monotonic() + timeout
    while not (value := probe()):
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not so within {timeout} s, last seen {value!r}")
        time.sleep(_POLL_SECONDS)
    return value


def command_line(command: tuple[str, ...], uid: int | None) -> list[str]:
    """The command, to be killed with the thread that starts it, as `uid` without a capability."""
    drop = [] if uid is None else [f"--reuid={uid}", f"--regid={uid}", *_DROP]
    return ["setpriv", "--pdeathsig=KILL", *drop, *command]


_DROP: Final = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def drop_privileges(uid: int) -> None:
    """Make this process one of user and group `uid` with no capability left."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc_call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Else /proc/self would belong to root, which is not so for a program started by this user.
    libc_call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)


def fork(
    function: Callable[..., object], arguments: tuple[object, ...], uid: int | None
) -> ForkProcess:
    """Start a child of this thread that runs the function and ends with it or with the thread."""
    child = _FORK.Process(target=_child, args=(os.getpid(), function, arguments, uid), daemon=True)
    child.start()
    return child


def _child(
    parent: int, function: Callable[..., object], arguments: tuple[object, ...], uid: int | None
) -> None:
    if uid is not None:
        drop_privileges(uid)
    libc_call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() == parent:
        function(*arguments)


def call(
    function: Callable[..., T], arguments: tuple[object, ...], uid: int | None, timeout: float
) -> T:
    """The function's value, computed in a forked child; LabError with its traceback if it raises.

    The child is killed after `timeout` seconds.
    """
    receiver, sender = _FORK.Pipe(duplex=False)
    child = fork(_answer, (sender, function, arguments), uid)
    sender.close()
    try:
        return cast("T", _received(receiver, child, timeout))
    finally:
        receiver.close()
        end(child)


def _answer(
    sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    try:
        answer = (function(*arguments), "")
    except Exception:  # noqa: BLE001 - the caller gets it, whatever it is
        answer = (None, traceback.format_exc())
    sender.send(answer)


def _received(receiver: Connection, child: ForkProcess, timeout: float) -> object:
    if not receiver.poll(timeout):
        raise LabError(f"no answer from process {child.pid} within {timeout} s")
    try:
        value, error = receiver.recv()
    except EOFError:
        child.join(timeout)
        raise LabError(f"process {child.pid} died with exit code {child.exitcode}") from None
    if error:
        raise LabError(f"in process {child.pid}:\n{error}")
    return value


def end(child: ForkProcess) -> None:
    """Kill and reap a forked child; one that has ended already, too."""
    child.kill()
    child.join()
