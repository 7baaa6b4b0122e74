"""Writes the manual pages: `python deploy/debian/manual.py DIRECTORY`.

What they say of commands, flags and keys is what the program itself says, so it cannot drift.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from sockwatch import __version__
from sockwatch.__main__ import parser
from sockwatch.config import SECTIONS
from sockwatch.config.flags import GROUP_HELP
from sockwatch.config.problems import literal
from sockwatch.config.schema import Key

_SPECIAL: Final = {
    "\\": "\\e",
    "-": "\\-",
    "'": "\\(aq",
    '"': "\\(dq",
    "`": "\\(ga",
    "^": "\\(ha",
    "~": "\\(ti",
}
_STATUSES: Final = {
    "0": "Everything is fine.",
    "1": "Something was found to be wrong with the host (report), or the command failed.",
    "2": "Wrong use: a flag or the configuration. Nothing was opened.",
}
_SIGNALS: Final = {
    "SIGHUP": "Read the configuration anew: all of it, or on any error nothing. "
    "A metric and the log say which.",
    "SIGTERM, SIGINT": "Stop, within a second.",
    "SIGABRT": "Write the stack of every thread to the log and stop; what a watchdog sends.",
}
_FILES: Final = {
    "/etc/sockwatch/sockwatch.toml": "The configuration, if there is one; see sockwatch.toml(5).",
    "/etc/default/sockwatch": "Flags for the service, in ARGS.",
    "/usr/share/sockwatch/*.conf": "Drop-ins for the service, each for a privilege more or less; "
    "the first lines of each say for what.",
}


def text(plain: str) -> str:
    """Escape a line for roff; names of other pages become bold."""
    escaped = "".join(_SPECIAL.get(char, char) for char in " ".join(plain.split()))
    escaped = re.sub(r"\b(sockwatch(?:\.toml)?)\(([0-9])\)", r"\\fB\1\\fR(\2)", escaped)
    return "\\&" + escaped if escaped.startswith(".") else escaped


def head(name: str, section: int, what: str) -> str:
    """Begin a page."""
    title = f'.TH "{name.upper()}" {section} "" "sockwatch {__version__}"'
    return "\n".join([title, ".SH NAME", f"{text(name)} \\- {text(what)}"])


def definitions(pairs: Mapping[str, str] | Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield terms in bold and what they mean."""
    for term, meaning in pairs.items() if isinstance(pairs, Mapping) else pairs:
        yield f".TP\n.B {text(term)}\n{text(meaning)}"


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the subcommands by name."""
    (choice,) = (one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(choice.choices)


def flags(command: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yield the arguments and flags of a command as its help writes them."""
    formatter = command._get_formatter()
    for action in command._actions:
        name = formatter._format_action_invocation(action)
        yield name, formatter._expand_help(action)


def command(name: str, parts: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the section of one command."""
    _, _, usage = parts.format_usage().partition(f"sockwatch {name} ")
    long = name == "run"
    yield f".SS {text(name)}"
    yield f".B sockwatch {text(name)}\n{'[FLAG]...' if long else text(usage)}"
    yield f".PP\n{text(parts.description or '')}"
    if long:
        yield f".PP\n{text(GROUP_HELP)}"
    yield from definitions(flags(parts))


def program() -> str:
    """Return sockwatch(1)."""
    subparsers = commands()
    return "\n".join(
        [
            head("sockwatch", 1, "tell which TCP connections are stuck, since when, and whose"),
            ".SH SYNOPSIS",
            *(f".B sockwatch {text(name)}\n[...]\n.br" for name in subparsers),
            ".SH DESCRIPTION",
            text(str(parser().description)),
            text(
                "The daemon reads the sockets from the kernel, without privilege, and serves what "
                "it sees as Prometheus metrics; the other commands answer a person."
            ),
            ".SH COMMANDS",
            *(line for name, parts in subparsers.items() for line in command(name, parts)),
            ".SH SIGNALS\nTo the daemon:",
            *definitions(_SIGNALS),
            ".SH EXIT STATUS",
            *definitions(_STATUSES),
            ".SH FILES",
            *definitions(_FILES),
            ".SH SEE ALSO",
            text("sockwatch.toml(5)") + ",\n.BR ss (8),\n.BR tcp (7),\n.BR sock_diag (7)",
            "",
        ]
    )


def key(one: Key) -> tuple[str, str]:
    """Return a key as a file has it, and all that there is to say about it."""
    variants = f"flag {one.flags[0]}, variable {one.variable}"
    return f"{one.leaf} = {literal(one.default)}", f"{one.meaning} ({variants})"


def configuration() -> str:
    """Return sockwatch.toml(5)."""
    return "\n".join(
        [
            head("sockwatch.toml", 5, "configuration of sockwatch"),
            ".SH SYNOPSIS\n.I /etc/sockwatch/sockwatch.toml",
            ".SH DESCRIPTION",
            text(
                "A TOML file of sections and keys, all of them optional. Environment variables win "
                "over it, flags over both. An unknown key or an impossible value is an error that "
                "names the key and its line; sockwatch check-config finds it beforehand."
            ),
            ".PP\n"
            + text(
                "Durations are strings of whole numbers with units, the largest first: "
                '"500ms", "15s", "1h30m", "2d". Each key stands here with its default.'
            ),
            *(
                line
                for section, keys in SECTIONS.items()
                for line in (f".SH [{text(section)}]", *definitions(map(key, keys.values())))
            ),
            ".SH SEE ALSO",
            text("sockwatch(1)"),
            "",
        ]
    )


def main() -> int:
    """Write both pages; return the exit code."""
    arguments = argparse.ArgumentParser(description="Write the manual pages.")
    arguments.add_argument("directory", type=Path, help="where to")
    directory: Path = arguments.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sockwatch.1").write_text(program())
    (directory / "sockwatch.toml.5").write_text(configuration())
    return 0


if __name__ == "__main__":
    sys.exit(main())
