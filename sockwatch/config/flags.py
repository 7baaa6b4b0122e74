"""Command-line flags, one for each key."""

import argparse
from typing import Any

from sockwatch.config.kinds import Form
from sockwatch.config.layers import FILE_KEY
from sockwatch.config.loading import DEFAULT_FILE
from sockwatch.config.problems import literal
from sockwatch.config.schema import KEYS, Key

GROUP_HELP = "Each is a key of the file, too, and a variable such as SOCKWATCH_WATCH_INTERVAL."
FILE_HELP = f"configuration file (default: {DEFAULT_FILE}, if there is one)"
ACTIONS: dict[Form, Any] = {
    Form.ONE: "store",
    Form.MANY: "append",
    Form.SWITCH: argparse.BooleanOptionalAction,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for the file and for every key, whose texts `load` checks.

    What is not given is not in the namespace. Attributes are the dotted keys, for `vars()`.
    """
    group = parser.add_argument_group("configuration", GROUP_HELP)
    group.add_argument(
        "--config.file", dest=FILE_KEY, metavar="FILE", default=argparse.SUPPRESS, help=FILE_HELP
    )
    for key in KEYS.values():
        group.add_argument(*key.flags, dest=key.name, **options(key))


def options(key: Key) -> dict[str, Any]:
    """Return what argparse should know of a key."""
    again = "; may be repeated" if key.kind.form is Form.MANY else ""
    text = f"{key.meaning}{again} (default: {literal(key.default)})"
    named = {} if key.kind.form is Form.SWITCH else {"metavar": key.kind.metavar}
    return named | {
        "action": ACTIONS[key.kind.form],
        "default": argparse.SUPPRESS,
        "help": text,
    }
