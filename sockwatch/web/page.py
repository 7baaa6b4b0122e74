"""The page for people: one HTML text from one snapshot, without script.

Names of units come from other programs: every text that is not ours passes through `_text`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Final, TypeVar

from sockwatch import __version__
from sockwatch.export.leaks.words import words
from sockwatch.export.terminal import duration, printable
from sockwatch.observe.snapshot import (
    NamespaceView,
    PassKind,
    PassStatus,
    ServiceKey,
    Snapshot,
    Stuck,
    StuckKey,
)
from sockwatch.tcp.model import CLOSING, MODEL, OPENING, Step
from sockwatch.tcp.states import State

STYLE_PATH: Final = "/static/style.css"
REFRESH: Final = 5
"""Seconds after which the page loads itself again."""
MOST_SERVICES: Final = 20

_WHAT: Final = "TCP connections of this host, by step of the handshake and by who has to act next."
_NOT_MEASURED: Final = "not measured"
_NO_COUNTS: Final = "No pass over the kernel's sockets has succeeded yet, so there are no counts."
_LADDER_HEAD: Final = ("Step", "What happens", "State on this host", "Connections", "Waits on")

_Key = TypeVar("_Key", ServiceKey, StuckKey)


def page(
    snapshot: Snapshot | None,
    now: float,
    *,
    ready: tuple[bool, str],
    host: str,
    telemetry_path: str,
) -> str:
    """The page as of Unix time `now` in seconds.

    Args:
        snapshot: what to show; `None` before the first pass has ended.
        now: what ages are counted to.
        ready: whether figures are there and not stale, and why.
        host: name of this host.
        telemetry_path: where the metrics are.
    """
    parts = (
        f"<header>\n<h1>sockwatch</h1>\n<p>{_text(_WHAT)}</p>\n</header>\n<main>",
        _about(snapshot, now, ready, host),
        *_figures(snapshot),
        f"</main>\n{_footer(telemetry_path)}",
    )
    refresh = f'<meta http-equiv="refresh" content="{REFRESH}">\n'
    return _document(f"sockwatch on {host}", "\n".join(parts), refresh)


def refusal_page(telemetry_path: str) -> str:
    """What a client elsewhere gets instead of the page."""
    body = (
        "<main>\n<h1>sockwatch</h1>\n<p>This page shows details of connections, so it answers only "
        "browsers on the host itself, for example through <code>ssh -L</code>, or that "
        "authenticate.</p>\n"
        f"<p>The metrics are at {_link(telemetry_path)}.</p>\n</main>"
    )
    return _document("sockwatch", body)


def _document(title: str, body: str, head: str = "") -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'{head}<title>{_text(title)}</title>\n<link rel="stylesheet" href="{STYLE_PATH}">\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _about(snapshot: Snapshot | None, now: float, ready: tuple[bool, str], host: str) -> str:
    facts = [
        ("Host", host),
        ("Version", __version__),
        ("State", ready[1] if ready[0] else f"Not ready. {ready[1]}"),
    ]
    if snapshot is not None:
        facts.append(("Source", f"{snapshot.source.name}: {snapshot.source.reason}"))
        facts += [(f"Last {kind}", _last(snapshot, kind, now)) for kind in snapshot.passes]
    rows = "\n".join(f"<dt>{_text(term)}</dt><dd>{_text(fact)}</dd>" for term, fact in facts)
    return f'<dl class="about">\n{rows}\n</dl>'


def _last(snapshot: Snapshot, kind: PassKind, now: float) -> str:
    status = snapshot.passes[kind]
    age = "none good yet" if status.last_success is None else _age(now - status.last_success)
    return age + _failure(status)


def _age(seconds: float) -> str:
    """How long ago, never less than nothing: the clock may have been set back."""
    return f"{max(0.0, seconds):.1f} s ago"


def _failure(status: PassStatus) -> str:
    return "" if status.last_failure is None else f"; the newest failed: {status.last_failure}"


def _figures(snapshot: Snapshot | None) -> Iterator[str]:
    view = None if snapshot is None else _host_view(snapshot)
    if view is None:
        yield f"<p>{_text(_NO_COUNTS)}</p>"
        return
    counts = _counts(view)
    yield f"<section>\n<h2>Handshake</h2>\n{_ladder('Opening, three steps', OPENING, counts)}"
    yield f"{_ladder('Closing, four steps', CLOSING, counts)}\n{_others(counts)}\n</section>"
    yield f"<section>\n<h2>Stuck connections</h2>\n{_stuck(view)}\n</section>"
    yield f"<section>\n<h2>Who holds CLOSE_WAIT</h2>\n{_leaks(view)}\n</section>"


def _host_view(snapshot: Snapshot) -> NamespaceView | None:
    return next((view for view in snapshot.namespaces if view.netns == ""), None)


def _counts(view: NamespaceView) -> dict[State, int]:
    """Both families together; a state that was never measured is absent."""
    counts: Counter[State] = Counter()
    for (_, state), count in view.sockets.items():
        counts[state] += count
    return counts


def _ladder(caption: str, steps: Sequence[Step], counts: dict[State, int]) -> str:
    rows = (row for step in steps for row in _rungs(step, counts))
    return _table(caption, _LADDER_HEAD, rows)


def _rungs(step: Step, counts: dict[State, int]) -> Iterator[str]:
    """One row for each state that this step leads to on this host."""
    waits: dict[State, str] = {
        standing.state: standing.waits_on for standing in MODEL if standing.step == step.label
    }
    span = f' rowspan="{len(waits)}"' if len(waits) > 1 else ""
    first = f'<th scope="row"{span}>{_text(step.label)}</th><td{span}>{_text(step.text)}</td>'
    for state, waits_on in waits.items():
        yield f"{first}<td>{state.name}</td>{_count(state, counts)}<td>{_text(waits_on)}</td>"
        first = ""


def _others(counts: dict[State, int]) -> str:
    states = dict.fromkeys(standing.state for standing in MODEL if not standing.step)
    rows = (f'<th scope="row">{state.name}</th>{_count(state, counts)}' for state in states)
    return _table("Outside the handshakes", ("State on this host", "Sockets"), rows)


def _count(state: State, counts: dict[State, int]) -> str:
    count = f"{counts[state]:,}" if state in counts else _NOT_MEASURED
    return f'<td class="number">{count}</td>'


def _stuck(view: NamespaceView) -> str:
    stuck = view.stuck
    if stuck is None:
        return "<p>Ages are not known from this source.</p>"
    groups = {key: number for key, number in stuck.connections.items() if number}
    if not groups:
        return "<p>No connection has been in its state for longer than its age limit.</p>"
    most, left_out = _most(groups, "groups")
    caption = f"Longer in their state than its age limit{left_out}"
    rows = (_group(key, groups[key], stuck) for key in most)
    head = ("Port", "Direction", "Unit", "State", "Why", "Connections", "Oldest of the state")
    command = "<p><code>sockwatch leaks</code> shows them one by one.</p>"
    return f"{_table(caption, head, rows)}\n{command}"


def _group(key: StuckKey, number: int, stuck: Stuck) -> str:
    age = stuck.oldest.get((key.service, key.state))
    why = words(key.cause, key.state).short
    return (
        f"{_named(key.service)}<td>{key.state.name}</td><td>{_text(why)}</td>"
        f'<td class="number">{number:,}</td>'
        f'<td class="number">{"unknown" if age is None else duration(age)}</td>'
    )


def _leaks(view: NamespaceView) -> str:
    held = {
        key: count
        for key, states in view.services.items()
        if (count := states.get(State.CLOSE_WAIT, 0))
    }
    if not held:
        return "<p>No service does.</p>"
    most, left_out = _most(held, "services")
    caption = f"The peer has closed, the local application has not{left_out}"
    rows = (_service(key, held[key]) for key in most)
    return _table(caption, ("Port", "Direction", "Unit", "Connections"), rows)


def _service(key: ServiceKey, count: int) -> str:
    return f'{_named(key)}<td class="number">{count:,}</td>'


def _named(key: ServiceKey) -> str:
    return (
        f'<th scope="row">{_text(key.port)}</th><td>{_text(key.direction)}</td>'
        f"<td>{_text(key.unit or 'unknown')}</td>"
    )


def _most(counts: Mapping[_Key, int], what: str) -> tuple[list[_Key], str]:
    """Those with the most connections, and what a caption says if there are others."""
    most = sorted(counts, key=lambda key: (-counts[key], key))[:MOST_SERVICES]
    left_out = len(counts) > len(most)
    return most, f"; the first {len(most)} of {len(counts)} {what}" if left_out else ""


def _table(caption: str, head: Iterable[str], rows: Iterable[str]) -> str:
    columns = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    lines = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="wide" role="region" aria-label="{_text(caption)}" tabindex="0">\n'
        f"<table>\n<caption>{_text(caption)}</caption>\n<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{lines}\n</tbody>\n</table>\n</div>"
    )


def _footer(telemetry_path: str) -> str:
    links = (
        f"{_link(telemetry_path)} for Prometheus",
        f"{_link('/-/healthy')} whether it runs",
        f"{_link('/-/ready')} whether its figures are fresh",
    )
    items = "\n".join(f"<li>{link}</li>" for link in links)
    return f"<footer>\n<ul>\n{items}\n</ul>\n</footer>"


def _link(path: str) -> str:
    return f'<a href="{_text(path)}">{_text(path)}</a>'


def _text(text: str) -> str:
    """Text as HTML; what could reorder or hide it is shown as an escape."""
    return escape(printable(text))
