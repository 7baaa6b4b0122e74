"""The `sockwatch` program: finds the subcommand and runs it.

Exit codes: 0 fine, 1 found something or failed, 2 wrong use.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from sockwatch import __version__
from sockwatch.commands import check_config, explain, report, run

COMMANDS: Final = (run, report, explain, check_config)
_BROKEN_PIPE: Final = 128 + 13
"""What a shell reports for a program ended by SIGPIPE."""


def parser() -> argparse.ArgumentParser:
    """The command line, complete."""
    top = argparse.ArgumentParser(
        prog="sockwatch",
        description="Which TCP connections are stuck in which step of the handshake, and whose.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"sockwatch {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the result is its exit code."""
    args = parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return status


if __name__ == "__main__":
    sys.exit(main())
