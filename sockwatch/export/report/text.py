"""The whole report: what looks wrong first, then what there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Final

from sockwatch.export.document import Host
from sockwatch.export.findings import Finding
from sockwatch.export.report.destinations import destination_section
from sockwatch.export.report.limits import limit_section
from sockwatch.export.report.listeners import listener_section
from sockwatch.export.report.page import INDENT, Page
from sockwatch.export.report.services import service_section
from sockwatch.export.report.states import state_section
from sockwatch.export.terminal import Cell, paragraph, printable, table
from sockwatch.observe.snapshot import NamespaceView, Snapshot

FINDINGS: Final = 20
"""Findings shown unless asked otherwise."""


def report(
    snapshot: Snapshot,
    findings: Sequence[Finding],
    host: Host,
    page: Page,
    zone: tzinfo | None = None,
) -> str:
    """One look as text, without a newline at the end.

    Args:
        snapshot: what to tell.
        findings: what looks wrong in it.
        host: where it was taken.
        page: for which terminal.
        zone: in which times are told, `None` for that of this host.
    """
    blocks = [_header(snapshot, host, page, zone), _findings(findings, page)]
    for view in snapshot.namespaces:
        blocks += _sections(view, findings, page)
    return "\n\n".join(blocks)


def _header(snapshot: Snapshot, host: Host, page: Page, zone: tzinfo | None) -> str:
    taken = datetime.fromtimestamp(snapshot.taken, zone).astimezone(zone)
    source = f"read from {snapshot.source.name}"
    facts = (host.name, f"Linux {host.kernel}", f"{taken:%Y-%m-%d %H:%M:%S %Z}", source)
    lines = paragraph(", ".join(map(printable, facts)), page.prose).splitlines()
    return "\n".join(map(page.style.bold, lines))


def _findings(findings: Sequence[Finding], page: Page) -> str:
    if not findings:
        return page.style.green("Nothing looks wrong.")
    shown = page.first(findings, FINDINGS)
    rest = len(findings) - len(shown)
    lines = table(list(_lines(shown, page)), width=page.prose, indent=INDENT)
    return page.section("Looks wrong", lines, page.aside(f"and {rest:,} more") if rest else "")


def _lines(findings: Sequence[Finding], page: Page) -> Iterator[tuple[Cell, Cell]]:
    for finding in findings:
        where = f" (netns {printable(finding.netns)})" if finding.netns else ""
        yield Cell("!", page.style.red), Cell(finding.message + where, page.style.red)
        yield Cell(""), Cell(finding.meaning)


def _sections(view: NamespaceView, findings: Sequence[Finding], page: Page) -> Iterator[str]:
    suspects = [finding for finding in findings if finding.netns == view.netns]
    where = f" in netns {printable(view.netns)}" if view.netns else ""
    yield state_section(view, page, f"Sockets{where}")
    if text := service_section(view, suspects, page, f"Services{where}"):
        yield text
    if text := listener_section(view, suspects, page, f"Listeners{where}, fullest first"):
        yield text
    if text := destination_section(view, suspects, page, f"Destinations{where}, fullest first"):
        yield text
    if text := limit_section(view, page, f"Limits{where}, nearest first"):
        yield text
