"""`sockwatch report`: one look at this host now, for people or as JSON."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sockwatch.config import Config


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program."""
    parser = subparsers.add_parser(
        "report",
        help="look at this host now: what looks wrong, states, services, listeners",
        description="Looks once at every TCP socket of this host: what looks wrong, sockets by "
        "phase and state, services, listeners with their accept queues, destinations, limits of "
        "the kernel. If a queue is full it looks again a second later, to tell why. "
        "Exits with 1 if something looks wrong.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, always complete")
    parser.add_argument(
        "--limit",
        type=row_limit,
        metavar="N",
        help="rows of each list in the text; 0 = all (default: 20, 10 of listeners)",
    )
    parser.add_argument(
        "--config.file",
        dest="config.file",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="configuration file (default: that of the daemon, if there is one)",
    )
    parser.set_defaults(run=run)


def row_limit(text: str) -> int:
    """Parse a number of rows."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows; 0 = all")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Look and tell; 0 if nothing looks wrong, 1 if something does or nothing can be read."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may not fit the locale
    from sockwatch.config import ConfigError, load
    from sockwatch.poll import NoSource

    try:
        return show(load(args, os.environ).config, args)
    except ConfigError as error:
        for problem in error.problems:
            print(f"sockwatch report: {problem}", file=sys.stderr)
        return 2
    except NoSource as error:
        print(f"sockwatch report: cannot read the sockets of this host: {error}", file=sys.stderr)
        return 1


def show(config: Config, args: argparse.Namespace) -> int:
    """Take one census and print it."""
    from sockwatch.export.document import Host, document
    from sockwatch.export.findings import find
    from sockwatch.export.report.page import Page
    from sockwatch.export.report.text import report
    from sockwatch.export.terminal import Style, width_of
    from sockwatch.poll import look_once

    snapshot = look_once(config)
    findings = find(snapshot, now=snapshot.taken, preferred=config.source.prefer)
    host = Host(os.uname().nodename, os.uname().release)
    if args.json:
        print(json.dumps(document(snapshot, findings, host), indent=2))
    else:
        page = Page(Style.of(sys.stdout), width_of(sys.stdout), args.limit)
        print(report(snapshot, findings, host, page))
    return 1 if findings else 0
