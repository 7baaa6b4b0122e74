"""Says which groups of tests were skipped and why, and lets none be skipped under CI=true.

Makes certificates for whoever asks, too.
"""

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from authority import Authority

GROUPS = ("kernel", "root", "service", "stack", "browser", "slow")
IN_CI = os.environ.get("CI") == "true"


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Return why a test or module was skipped, or None if it was not (an xfail is no skip)."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def fail_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if reason := skip_reason(report):
        report.outcome = "failed"
        report.longrepr = f"skipped under CI=true, where everything must run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    if IN_CI and item.get_closest_marker("may_skip_in_ci") is None:
        fail_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, pytest.CollectReport]:
    report: pytest.CollectReport = yield
    if IN_CI:
        fail_skip(report)
    return report


def group_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    names = getattr(report, "keywords", {})
    return "+".join(group for group in GROUPS if group in names) or "other"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    skips = Counter((group_of(report), skip_reason(report)) for report in reports)
    if not skips:
        return
    terminalreporter.section("Skipped groups")
    for (group, reason), count in sorted(skips.items()):
        terminalreporter.line(f"{group}: {count} not run: {reason}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificates of a module's tests are."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """Who has issued the certificate `server` in that folder."""
    made = Authority(folder)
    made.issue("server")
    return made
