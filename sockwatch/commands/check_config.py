"""`sockwatch check-config FILE`: whether a configuration file is right, and what it changes."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sockwatch.config import Loaded, Problem


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program."""
    text = "check a configuration file by itself, without environment and flags"
    parser = subparsers.add_parser("check-config", help=text, description=text)
    parser.add_argument("file", metavar="FILE", help="configuration file, in TOML")
    parser.add_argument("--json", action="store_true", help="print JSON, the problems included")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the file; 0 if it is valid, else 2."""
    from sockwatch.commands.protection import protection_of
    from sockwatch.config import ConfigError, load

    loaded: Loaded | None = None
    problems: tuple[Problem, ...] = ()
    try:
        loaded = load({"config.file": args.file}, {})
        protection_of(loaded.config)
    except ConfigError as error:
        loaded, problems = None, error.problems
    show = show_json if args.json else show_text
    show(args.file, loaded, problems)
    return 0 if loaded else 2


def show_text(file: str, loaded: "Loaded | None", problems: "tuple[Problem, ...]") -> None:
    """Print what the file changes, or its problems to stderr."""
    for problem in problems:
        print(problem, file=sys.stderr)
    if loaded:
        print(f"{file}: configuration is valid")
        for line in changes(loaded):
            print(f"  {line}")


def changes(loaded: "Loaded") -> list[str]:
    """List the values that are not the defaults, aligned."""
    from sockwatch.config import KEYS, Config, value_of
    from sockwatch.config.problems import literal

    default = Config()
    rows = [
        (key.name, literal(value_of(loaded.config, key)), literal(key.default))
        for key in KEYS.values()
        if value_of(loaded.config, key) != value_of(default, key)
    ]
    names, values = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [f"{name:{names}} = {new:{values}}  (default {old})" for name, new, old in rows]


def show_json(file: str, loaded: "Loaded | None", problems: "tuple[Problem, ...]") -> None:
    """Print the problems and the effective values, as they would stand in a file."""
    from sockwatch.config import to_toml

    report = {
        "file": file,
        "valid": loaded is not None,
        "problems": [
            {
                "file": problem.origin.name,
                "line": problem.origin.line,
                "key": problem.key or None,
                "message": str(problem),
            }
            for problem in problems
        ],
        "config": to_toml(loaded.config) if loaded else None,
    }
    print(json.dumps(report, indent=2))
