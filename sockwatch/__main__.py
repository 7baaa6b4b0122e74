"""The `sockwatch` program: finds the subcommand and runs it.

Exit codes: 0 fine, 1 found something or failed, 2 wrong use.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, NoReturn, Protocol

from sockwatch import __version__
from sockwatch.config.problems import nearest

COMMANDS: Final = ("run", "report", "leaks", "explain", "check-config")
"""Each is a module of `sockwatch.commands`."""
_WRONG_USE: Final = 2
_FAILED: Final = 1
_BROKEN_PIPE: Final = 128 + 13
"""What a shell reports for a program ended by SIGPIPE."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a file says that takes no more of the output."""


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, by name, and what was probably meant."""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  as inherited
        """Parse; what is not known is refused by the command whose flags it resembles."""
        namespace, unknown = super().parse_known_args(*args, **kwargs)
        if unknown:
            name = unknown[0].partition("=")[0]
            meant = nearest(name, self._option_string_actions)
            self.error(f"there is no {name}" + (f"; did you mean {meant}?" if meant else ""))
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Exit; the usage of a command with many flags would hide the message."""
        self.exit(_WRONG_USE, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _print_message(self, message: str, file: SupportsWrite | None = None) -> None:
        """Write; newer versions of argparse would hide that nobody reads it."""
        (file or sys.stderr).write(message)


class SupportsWrite(Protocol):
    """What help and errors are written to."""

    def write(self, text: str, /) -> object:
        """Write a text."""
        ...


def parser(*commands: str) -> argparse.ArgumentParser:
    """The command line, complete or with these commands only."""
    top = _Parser(
        prog="sockwatch",
        description="Which TCP connections are stuck in which step of the handshake, and whose.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"sockwatch {__version__}")
    top.set_defaults(run=None)
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND")
    for command in commands or COMMANDS:
        import_module(f"sockwatch.commands.{command.replace('-', '_')}").register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the result is its exit code."""
    _open_missing_streams()
    if argv is None:  # else the process is somebody else's
        _end_when_interrupted()
    try:
        try:
            return _run(argv)
        finally:  # also after --help and --version, which exit
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        status = _BROKEN_PIPE
    except OSError as error:
        if error.errno not in _NO_ROOM and not _is_read_only(sys.stdout.fileno()):
            raise
        status = _FAILED
        with suppress(OSError):  # both may go to the same file
            print(f"sockwatch: the output cannot be written: {error.strerror}", file=sys.stderr)
    # Keep the interpreter from complaining at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    top = parser(*(word for word in words[:1] if word in COMMANDS))
    args = top.parse_args(words)
    if args.run is None:
        top.error("a command is missing")
    status: int = args.run(args)
    return status


def _is_read_only(descriptor: int) -> bool:
    try:
        os.write(descriptor, b"")
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def _open_missing_streams() -> None:
    """Let programs be started with their output closed, as some supervisors do."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  for good


def _end_when_interrupted() -> None:
    """Let Ctrl-C end the program at once and without a traceback; the daemon handles it itself.

    What Python raises for it can also get lost, as in an import.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may be ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
