"""Prints the completion of the program for a shell: `python deploy/debian/completion.py bash`."""

from __future__ import annotations

import argparse
import sys

import shtab

from sockwatch.__main__ import parser


def annotated(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let completion know what a command's metavars say: alternatives, or a file."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action.choices.values():
                annotated(subcommand)
        elif action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # as shtab wants it
        elif isinstance(action.metavar, str) and "|" in action.metavar:
            action.choices = action.metavar.split("|")
    return command


def main() -> int:
    """Print the completion; return the exit code."""
    arguments = argparse.ArgumentParser(description="Print the completion for a shell.")
    arguments.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    print(shtab.complete(annotated(parser()), shell=arguments.parse_args().shell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
