"""The table of metrics: complete, true to what is exported, and true to where it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import boards
import pytest
from alerting.rules import ALERTS, FOLDER, RECORDS, RULES
from catalogue import CATALOGUE, DESIGN
from everything import EVERYTHING
from prometheus_client.parser import text_string_to_metric_families as plain

from sockwatch.export.exposition import Exposition
from sockwatch.export.formats import Format
from sockwatch.export.own import HttpCounts, Reloads, own_families

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "metrics.md"
GOLDEN: Final = Path(__file__).with_name("golden") / "metrics.txt"
PARTS: Final = "(_bucket|_gcount|_gsum)"
"""What a gauge histogram is exported as; it is one metric of the table."""
UNTOLD: Final = "none: "


class Row(NamedTuple):
    """A line of the table."""

    kind: str
    labels: frozenset[str]
    meaning: str
    used_by: str


def rows(text: str) -> dict[str, Row]:
    found = re.findall(
        r"^\| `(\w+)` \| ([\w ]+) \| ([\w, ]*) \| (.+) \| (.+) \|$", text, re.MULTILINE
    )
    return {
        name: Row(kind, frozenset(re.findall(r"\w+", labels)), meaning, used)
        for name, kind, labels, meaning, used in found
    }


ROWS: Final = rows(PAGE.read_text())


def whole(name: str) -> str:
    """The metric that a series is part of."""
    return re.sub(f"{PARTS}$", "", name)


def exposed(text: str) -> set[str]:
    return {whole(sample.name) for family in plain(text) for sample in family.samples}


def build(*options: str, root: Path = ROOT) -> tuple[int, str]:
    command = [sys.executable, str(root / "docs/build.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_the_committed_page_is_what_the_generator_writes() -> None:
    assert build("--check") == (0, "")


def test_a_page_edited_by_hand_is_told_and_mended(tmp_path: Path) -> None:
    for name in ("sockwatch", "tests", "deploy", "grafana"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/build.py").write_text((ROOT / "docs/build.py").read_text())
    copy = tmp_path / "docs/metrics.md"
    copy.write_text(PAGE.read_text().replace("gauge", "counter", 1))
    code, said = build("--check", root=tmp_path)
    assert code == 1
    assert "run make metrics" in said
    assert build(root=tmp_path) == (0, "")
    assert copy.read_bytes() == PAGE.read_bytes()


@pytest.mark.parametrize("name", sorted({*map(whole, DESIGN)}))
def test_a_metric_of_the_design_is_exported_golden_told_and_used(name: str) -> None:
    own = own_families(
        Reloads(successful=True, success_time=1.0), HttpCounts(0, {"limit": 0}), 0.02
    )
    page = Exposition(lambda: own).render(EVERYTHING, Format.TEXT_0_0_4).decode()
    assert name in exposed(page)
    # What a process uses is another number every time.
    assert name in exposed(GOLDEN.read_text()) or name.startswith("process_")
    assert ROWS[name].meaning
    assert ROWS[name].used_by.removeprefix(UNTOLD)


def test_the_table_has_what_is_exported_and_nothing_else() -> None:
    assert ROWS.keys() == {*map(whole, CATALOGUE)}


@pytest.mark.parametrize("name", CATALOGUE)
def test_type_and_labels_are_those_that_are_exported(name: str) -> None:
    shape, row = CATALOGUE[name], ROWS[whole(name)]
    assert row.kind.replace(" ", "") == shape.kind
    assert row.labels == shape.labels - {"le"}


def mentions(name: str, text: str) -> bool:
    return re.search(rf"\b{name}{PARTS}?\b", text) is not None


def unfolded(expression: str) -> str:
    """An alert's expression with those of the recorded series in it, and of those in these."""
    texts = [expression]
    for text in texts:
        texts += [
            other
            for rule in RECORDS
            if (other := str(rule["expr"])) not in texts and rule["record"] in text
        ]
    return "\n".join(texts)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_told_to_use_a_metric_does(name: str) -> None:
    used = ROWS[name].used_by
    if used.startswith(UNTOLD):
        assert not mentions(name, boards.FILE.read_text())
        assert not mentions(name, RULES.read_text())
        return
    alerts = re.findall(r"\[(\w+)\]\(\.\./deploy/prometheus/runbooks/(\w+)\.md\)", used)
    for alert, runbook in alerts:
        assert (FOLDER / "runbooks" / f"{runbook}.md").exists()
        expressions = [str(rule["expr"]) for rule in ALERTS if rule["alert"] == alert == runbook]
        assert mentions(name, "\n".join(map(unfolded, expressions)))
    panels = re.findall(r"\*([^*]+)\*", used)
    asked = {one.panel for one in boards.queries(boards.load()) if mentions(name, one.expression)}
    assert {*panels} == asked
    assert alerts or panels


def test_the_readme_leads_to_the_table() -> None:
    assert "docs/metrics.md" in (ROOT / "README.md").read_text()
