"""Stuck connections as text for people: the verdict first, then groups, then connections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Final

from sockwatch.export.leaks.answer import Answer, Look
from sockwatch.export.leaks.groups import group_section
from sockwatch.export.leaks.sockets import socket_section
from sockwatch.export.leaks.words import verdict
from sockwatch.export.report.page import INDENT, Page
from sockwatch.export.terminal import duration, paragraph, printable
from sockwatch.observe.leaks import Filter, Leaks

VERDICTS: Final = 3
"""Groups of which is said who has to act."""


def leaks_text(answer: Answer, page: Page, zone: tzinfo | None = None) -> str:
    """An answer as text, without a newline at the end.

    Args:
        answer: what to tell.
        page: for which terminal.
        zone: in which times are told, `None` for that of this host.
    """
    blocks = [_header(answer, page, zone), *_findings(answer, page), _unknown(answer, page)]
    return "\n\n".join(filter(None, blocks))


def _header(answer: Answer, page: Page, zone: tzinfo | None) -> str:
    taken = datetime.fromtimestamp(answer.taken, zone).astimezone(zone)
    facts = (answer.host.name, f"{taken:%Y-%m-%d %H:%M:%S %Z}", *_wishes(answer.wanted))
    lines = paragraph(", ".join(map(printable, facts)), page.prose).splitlines()
    look = answer.look and paragraph(_look(answer.look, answer.leaks), page.prose)
    dim = map(page.style.dim, look.splitlines() if look else ())
    return "\n".join([*map(page.style.bold, lines), *dim])


def _look(look: Look, leaks: Leaks | None) -> str:
    """How a look of our own was taken, and what it can tell if it tells anything."""
    taken = f"Looked for {duration(look.seconds)}, as {look.why}."
    if leaks is None:
        return taken
    return (
        f"{taken} What has not moved in that time is told, whatever its age limit. A running "
        "daemon knows since when, and knows of connections in fin_wait1, last_ack and closing, too."
    )


def _wishes(wanted: Filter) -> Iterator[str]:
    """What the filter asks for, if anything."""
    if wanted.state is not None:
        yield f"only {wanted.state.label}"
    if wanted.port is not None:
        yield f"only port {wanted.port}"
    if wanted.unit is not None:
        yield f"only {wanted.unit or 'without unit'}"
    if wanted.older_than:
        yield f"only older than {duration(wanted.older_than)}"


def _findings(answer: Answer, page: Page) -> Iterator[str]:
    if answer.leaks is None:
        yield page.style.yellow("It is not known which connections are stuck.")
    elif not answer.leaks.groups:
        yield page.style.green("Nothing is stuck.")
    else:
        yield _verdicts(answer.leaks, page, sure=answer.look is None)
        yield group_section(answer.leaks, page)
        if answer.leaks.sockets:
            yield socket_section(answer.leaks, page)


def _verdicts(leaks: Leaks, page: Page, *, sure: bool) -> str:
    lines: list[str] = []
    for group in leaks.groups[:VERDICTS]:
        said = verdict(group, sure=sure)
        paint = page.style.red if group.leaking else page.style.yellow
        lines += map(paint, paragraph(said.headline, page.prose).splitlines())
        lines.append(paragraph(said.meaning, page.prose, INDENT))
    return "\n".join(lines)


def _unknown(answer: Answer, page: Page) -> str:
    texts = list(answer.missing)
    if answer.hidden:
        texts.append(
            f"{answer.hidden:,} sockets of this host are in no table, hence not in this list: dead "
            "ones that their process has not closed, or only made or bound; if their number "
            "grows, look for them in /proc/PID/fd"
        )
    return page.section("Not told here", *map(page.aside, texts)) if texts else ""
