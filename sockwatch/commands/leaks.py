"""`sockwatch leaks`: the stuck connections themselves, whose they are and who has to act."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sockwatch.config import KEYS
from sockwatch.config.flags import FILE_HELP, options

if TYPE_CHECKING:
    from sockwatch.config import Config
    from sockwatch.export.leaks.answer import Answer
    from sockwatch.observe.leaks import Filter

ROWS: Final = 20
"""Connections that text shows one by one unless asked otherwise."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program."""
    parser = subparsers.add_parser(
        "leaks",
        help="show connections that are stuck, since when, why, and whose they are",
        description="Shows connections that have been in a state for longer than is normal: "
        "since when, why, whose they are and who has to act. Asks the running daemon; without "
        "one it looks itself, but then ages are lower bounds. "
        "Exits with 1 if something is stuck.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    _add_filters(parser)
    parser.add_argument(
        "--url",
        type=_url,
        metavar="URL",
        help="ask this daemon and no other: http://host:port or https://host:port; a password "
        "that it asks for is taken from ~/.netrc, or the file that NETRC names",
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="certificates that https trusts (default: those of the system)",
    )
    address = KEYS["web.listen_address"]
    meaning = "where the daemon listens, if not where the configuration has it"
    parser.add_argument(*address.flags, dest=address.name, **options(address) | {"help": meaning})
    parser.add_argument(
        "--config.file",
        dest="config.file",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help=FILE_HELP,
    )
    parser.set_defaults(run=run)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    flags = (
        ("--state", "state", "STATE", "only those in this state, such as close_wait"),
        ("--port", "port", "PORT", "only those of this service port, listened on here or there"),
        ("--unit", "unit", "UNIT", 'only those of this systemd unit or container; "" = unknown'),
        ("--older-than", "older_than", "TIME", "only those in their state for so long, as in 5m"),
        ("--limit", "limit", "N", f"connections shown (default: {ROWS}; 1000 in JSON)"),
    )
    for flag, name, metavar, text in flags:
        parser.add_argument(flag, type=_parser_of(name), metavar=metavar, help=text)


def _parser_of(name: str) -> Callable[[str], Any]:
    """What reads a flag as the parameter of the same name of the API is read."""

    def parse(text: str) -> Any:  # noqa: ANN401  of whatever type the field is
        from sockwatch.commands.explain import state_named
        from sockwatch.export.leaks.query import PARAMETERS

        state = state_named(text) if name == "state" else None
        try:
            return PARAMETERS[name](state.label if state else text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return parse


def _url(text: str) -> str:
    from urllib.parse import urlsplit

    from sockwatch.config.addresses import is_host

    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").removesuffix(".")
        named = host and (is_host(None, host) if ":" in host else is_host(host, None))
        whole = parts.scheme in {"http", "https"} and named and parts.port != 0
        more = "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment
        right = bool(whole and not more)
    except ValueError:  # an unclosed bracket, or no number for a port
        right = False
    if not right:
        raise argparse.ArgumentTypeError(f"{text!r} must be http(s)://host:port")
    return text.rstrip("/")


def run(args: argparse.Namespace) -> int:
    """Ask or look, and tell; 0 if nothing is stuck, 1 if something is or if that is not known."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may not fit the locale
    from sockwatch.config import ConfigError, load
    from sockwatch.web.client import Unanswered

    try:
        answer = _answer(load(args, os.environ).config, args)
    except ConfigError as error:
        for problem in error.problems:
            print(f"sockwatch leaks: {problem}", file=sys.stderr)
        return 2
    except (Unanswered, _Blind) as error:
        print(f"sockwatch leaks: {_on_one_line(error)}", file=sys.stderr)
        return 1
    _show(answer, as_json=args.json)
    return 0 if answer.leaks is not None and not answer.leaks.groups else 1


class _Blind(Exception):
    """Neither a daemon nor the kernel tells anything."""


def _on_one_line(error: Exception) -> str:
    from sockwatch.export.terminal import printable

    return printable(str(error))


def _answer(config: Config, args: argparse.Namespace) -> Answer:
    """Of the first daemon that answers, else of a look of our own.

    Raises:
        Unanswered: the one daemon that was to be asked does not answer.
        _Blind: nothing can be read here either.
    """
    from sockwatch.web.client import Unanswered, urls

    wanted, refusals = _filter(args), list[str]()
    if args.url:
        return _ask(args.url, wanted, args.ca_file)
    for url in urls(config.web.listen_address):
        try:
            return _ask(url, wanted)
        except Unanswered as error:
            refusals.append(str(error))
    return _look(config, wanted, "; ".join(refusals) or "no daemon has a known address")


def _filter(args: argparse.Namespace) -> Filter:
    from sockwatch.observe.leaks import SHOWN, Filter

    return Filter(
        state=args.state,
        port=args.port,
        unit=args.unit,
        older_than=args.older_than or 0.0,
        limit=args.limit or (SHOWN if args.json else ROWS),
    )


def _ask(url: str, wanted: Filter, ca_file: str | None = None) -> Answer:
    from sockwatch.export.leaks.query import LEAKS_PATH, query_of
    from sockwatch.export.leaks.reading import NotAnAnswer, read_answer
    from sockwatch.web.client import Unanswered, ask

    try:
        return read_answer(ask(url, f"{LEAKS_PATH}?{query_of(wanted)}", ca_file))
    except NotAnAnswer as error:
        raise Unanswered(f"what answers at {url} is not sockwatch ({error})") from error


def _look(config: Config, wanted: Filter, why: str) -> Answer:
    from sockwatch.export.host import Host
    from sockwatch.export.leaks.answer import Look
    from sockwatch.export.leaks.answering import answer
    from sockwatch.poll import NoSource
    from sockwatch.poll.look import LOOKS, PAUSE, look_closely

    try:
        snapshot = look_closely(config)
    except NoSource as error:
        raise _Blind(f"{why}; cannot read the sockets of this host: {error}") from error
    uname = os.uname()
    look = Look((LOOKS - 1) * PAUSE, why)
    return answer(snapshot, wanted, Host(uname.nodename, uname.release), look)


def _show(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        from sockwatch.export.leaks.document import leaks_document

        print(json.dumps(leaks_document(answer), indent=2))
        return
    from sockwatch.export.leaks.text import leaks_text
    from sockwatch.export.report.page import Page
    from sockwatch.export.terminal import Style, width_of

    print(leaks_text(answer, Page(Style.of(sys.stdout), width_of(sys.stdout))))
