"""`sockwatch explain [STATE]`: the handshake model, with what bounds it on this host."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from sockwatch.export.terminal import Style, duration, heading, paragraph, table, width_of
from sockwatch.kernel.sysctls import read_all
from sockwatch.tcp.bounds import BOUNDS, RTO_MAX, Sysctls, seconds
from sockwatch.tcp.model import CLOSING, MODEL, OPENING, Standing, Step
from sockwatch.tcp.states import State

_OTHER_SPELLINGS: Final = {
    "bound": State.UNKNOWN,
    "boundinactive": State.UNKNOWN,
    "closed": State.CLOSE,
    "estab": State.ESTABLISHED,
    "listening": State.LISTEN,
    "newsynrecv": State.SYN_RECV,
    "synrcvd": State.SYN_RECV,
    "synreceived": State.SYN_RECV,
    "unconn": State.CLOSE,
}
"""How RFC 9293, ss, netstat and the kernel write states where they differ from our labels."""


_READABLE: Final = 100
"""Columns beyond which prose is hard to read."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the program's parser."""
    parser = subparsers.add_parser(
        "explain",
        help="explain a TCP state, or all of them, with this host's limits",
        description="What each TCP state means: the step of the handshake, who has to act next, "
        "and what ends it at the latest with the sysctls of this host.",
    )
    parser.add_argument(
        "state", metavar="STATE", nargs="?", help="in any spelling: close_wait, CLOSE-WAIT, estab"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the model; 2 if there is no such state."""
    state = None if args.state is None else state_named(args.state)
    if state is None and args.state is not None:
        print(f"sockwatch explain: {_unknown(args.state)}", file=sys.stderr)
        return 2
    standings = [one for one in MODEL if state in {None, one.state}]
    values = read_all(sorted({*BOUNDS, RTO_MAX}))
    if args.json:
        print(json.dumps(document(standings, values), indent=2))
        return 0
    style, width = Style.of(sys.stdout), width_of(sys.stdout)
    show = _overview if state is None else _details
    print(show(standings, values, style, width))
    return 0


def state_named(name: str) -> State | None:
    """The state of that name in any common spelling, `None` if there is none."""
    return _BY_NAME.get(_normal(name))


def _normal(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


_BY_NAME: Final = {_normal(state.label): state for state in State} | _OTHER_SPELLINGS
_ALL_LABELS: Final = ", ".join(state.label for state in State)


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(_normal(name), _BY_NAME, n=1)
    hint = f"did you mean {_BY_NAME[near[0]].label}?" if near else f"there are {_ALL_LABELS}"
    return f"no TCP state is called {name!r}; {hint}"


def document(standings: Iterable[Standing], values: Sysctls) -> dict[str, object]:
    """The model as JSON; unreadable sysctls and times that do not exist are null."""
    return {"states": [_entry(standing, values) for standing in standings]}


def _entry(standing: Standing, values: Sysctls) -> dict[str, object]:
    entry = standing._asdict() | {"state": standing.state.label}
    entry["sysctls"] = {
        name: {"value": values.get(name), "seconds": seconds(name, values)}
        for name in standing.sysctls
    }
    return entry


def _overview(standings: Sequence[Standing], values: Sysctls, style: Style, width: int) -> str:
    states = heading(style, "STATE", "PHASE", "STEP", "WAITS ON", "BOUNDED BY")
    steps = heading(style, "STEP", "FIRST SIDE", "SECOND SIDE", "WHAT HAPPENS")
    names = dict.fromkeys(name for standing in standings for name in standing.sysctls)
    return "\n\n".join(
        [
            table([states, *(_row(one, values) for one in standings)], width=width, most={3: 22}),
            table([steps, *map(_step, (*OPENING, *CLOSING))], width=width),
            _limits(names, values, style, width),
        ]
    )


def _row(standing: Standing, values: Sysctls) -> list[str]:
    step, bound = _short(standing.step), _bound(standing, values)
    cells = (_name(standing), standing.phase, step, standing.waits_on, bound)
    return [cell or "-" for cell in cells]


def _step(step: Step) -> list[str]:
    return [_short(step.label), step.first.label, step.second.label, step.text]


def _short(step: str) -> str:
    return step.replace(" of ", "/")


def _name(standing: Standing) -> str:
    held = {None: "", True: " kernel", False: " owned"}[standing.kernel_held]
    return standing.state.label + held


def _bound(standing: Standing, values: Sysctls) -> str:
    """The times where the kernel sets one and its sysctls can be read, else the words."""
    times = {seconds(name, values) for name in standing.sysctls} if standing.bounded else set()
    known = sorted(time for time in times if time is not None)
    return " or ".join(map(duration, known)) or standing.bounded_by


def _details(standings: Sequence[Standing], values: Sysctls, style: Style, width: int) -> str:
    return "\n\n".join(_paragraphs(one, values, style, width) for one in standings)


def _paragraphs(standing: Standing, values: Sysctls, style: Style, width: int) -> str:
    width = min(width, _READABLE)
    facts = (
        ("phase", standing.phase),
        ("step", standing.step),
        ("this side", standing.side),
        ("waits on", standing.waits_on),
        ("bounded by", standing.bounded_by),
    )
    blocks = [
        style.bold(_name(standing)),
        table([(name, fact) for name, fact in facts if fact], width=width, indent="  "),
        paragraph(standing.meaning, width, indent="  "),
    ]
    if standing.sysctls:
        blocks.append(_limits(standing.sysctls, values, style, width))
    return "\n\n".join(blocks)


def _limits(names: Iterable[str], values: Sysctls, style: Style, width: int) -> str:
    rows = [(name, _value(values.get(name)), _says(name, values)) for name in names]
    limits = table(rows, right={1}, width=width, indent="  ")
    return style.bold("Limits of this host") + "\n" + limits


def _value(value: int | None) -> str:
    return "-" if value is None else str(value)


def _says(name: str, values: Sysctls) -> str:
    if values.get(name) is None:
        return "not known on this host"
    time = seconds(name, values)
    return BOUNDS[name].says.format("?" if time is None else duration(time))
