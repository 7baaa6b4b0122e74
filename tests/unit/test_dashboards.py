"""The dashboard is what its generator writes, and keeps the rules of Grafana's dashboard-linter."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import boards
import promql
import pytest
import yaml
from alerting.labels import KNOWN, labels_of
from boards import Json
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard
from promql_parser import Call, MatrixSelector, VectorSelector

GRAFANA = Path(__file__).parents[2] / "grafana"
# Odd durations, so that one written by hand is told from one put in by Grafana.
DURATIONS = {"__rate_interval": "277s", "__range": "3541s"}
RATE_INTERVAL = 277
UNITS = {value for value in vars(units).values() if isinstance(value, str)}
COLUMNS = 24
Rule = Callable[[Json], Iterator[str]]


@pytest.fixture
def board() -> Json:
    return boards.load()


def expressions(board: Json) -> Iterator[str]:
    return (boards.interpolate(query.expression, DURATIONS) for query in boards.queries(board))


def selectors(board: Json) -> Iterator[VectorSelector]:
    return (found for text in expressions(board) for found in promql.selectors(text))


# What is committed


def build(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(folder / "build.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_committed_dashboard_is_what_the_generator_writes() -> None:
    assert build(GRAFANA, "--check") == (0, "")


def test_a_dashboard_edited_by_hand_is_told_and_mended(tmp_path: Path) -> None:
    folder = tmp_path / "grafana"
    shutil.copytree(GRAFANA, folder)
    edited = folder / "dashboards" / boards.FILE.name
    edited.write_text(edited.read_text() + "\n")
    code, said = build(folder, "--check")
    assert code == 1
    assert "run python grafana/build.py" in said
    assert build(folder) == (0, "")
    assert edited.read_bytes() == boards.FILE.read_bytes()


def test_every_field_is_one_that_grafana_knows(board: Json) -> None:
    """The SDK drops a field that it does not know, so a misspelt one would be missing."""
    again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    assert again == board


def test_the_provisioned_folder_and_data_source_agree_with_the_dashboard(board: Json) -> None:
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())
    assert sources["datasources"][0]["type"] == boards.variable(board, "datasource")["query"]
    providers = yaml.safe_load((GRAFANA / "provisioning/dashboards/sockwatch.yaml").read_text())
    (provider,) = providers["providers"]
    assert provider["disableDeletion"]
    assert not provider["allowUiUpdates"]


# Layout


def test_panels_stay_within_the_grid_and_do_not_overlap(board: Json) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in board["panels"]]
    assert [title for title, at in places if at["x"] + at["w"] > COLUMNS] == []
    overlapping = [
        (one, other)
        for (one, a), (other, b) in combinations(places, 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
    assert overlapping == []


def test_ids_and_titles_are_unique(board: Json) -> None:
    for key in ("id", "title"):
        values = [panel[key] for panel in board["panels"]]
        assert len(set(values)) == len(values)


# Queries


def test_queries_use_metrics_and_labels_that_exist(board: Json) -> None:
    assert {name for text in expressions(board) for name in promql.unknown(text)} == set()


def test_legends_name_labels_that_the_query_keeps(board: Json) -> None:
    for query in boards.queries(board):
        text = boards.interpolate(query.expression, DURATIONS)
        named = set(re.findall(r"{{(\w+)}}", query.legend))
        assert named <= labels_of(promql.nodes(text)[0], KNOWN), query


# The rules of dashboard-linter (lint/rules.go), those for Loki left out


def uneditable(board: Json) -> Iterator[str]:
    if board["editable"] or not board["uid"]:
        yield "editable, or without a uid"


def template_datasource(board: Json) -> Iterator[str]:
    found = boards.variable(board, "datasource")
    wanted = {"type": "datasource", "query": "prometheus", "label": "Data source"}
    if not wanted.items() <= found.items():
        yield f"datasource: {found}"


def template_targets(board: Json) -> Iterator[str]:
    wanted = {"type": "query", "multi": True, "includeAll": True, "allValue": ".+"}
    for name in ("job", "instance"):
        found = boards.variable(board, name)
        source = found.get("datasource", {}).get("uid")
        if not {**wanted, "label": name.title()}.items() <= found.items():
            yield f"{name}: {found}"
        if source != "${datasource}":
            yield f"{name}: data source {source}"


def template_promql(board: Json) -> Iterator[str]:
    for name in ("job", "instance"):
        query = boards.variable(board, name).get("query", "")
        match = re.fullmatch(r"label_values\((.+), \w+\)", query)
        if match is None or promql.unknown(match[1]):
            yield f"{name}: {query}"


def template_reload(board: Json) -> Iterator[str]:
    for found in board["templating"]["list"]:
        if found["type"] == "query" and found.get("refresh") != 2:
            yield f"{found['name']} is not loaded anew when the time changes"


def panel_datasource(board: Json) -> Iterator[str]:
    for panel in boards.panels(board):
        if panel.get("datasource", {}).get("uid") != "${datasource}":
            yield panel["title"]


def panel_title_description(board: Json) -> Iterator[str]:
    for panel in boards.panels(board):
        if not panel.get("title") or not panel.get("description", "").endswith("."):
            yield f"panel {panel['id']}"


def panel_units(board: Json) -> Iterator[str]:
    for panel in boards.panels(board):
        unit = panel["fieldConfig"]["defaults"].get("unit")
        if unit not in UNITS:
            yield f"{panel['title']}: {unit}"


def panel_targets(board: Json) -> Iterator[str]:
    return (panel["title"] for panel in boards.panels(board) if not panel.get("targets"))


def target_promql(board: Json) -> Iterator[str]:
    for text in expressions(board):
        try:
            promql.nodes(text)
        except ValueError as error:
            yield f"{text}: {error}"


def target_rate_interval(board: Json) -> Iterator[str]:
    for call in rates(board):
        (series,) = call.args
        if isinstance(series, MatrixSelector) and series.range.total_seconds() != RATE_INTERVAL:
            yield str(call.prettify())


def rates(board: Json) -> Iterator[Call]:
    for text in expressions(board):
        for node in promql.nodes(text):
            if isinstance(node, Call) and node.func.name in {"rate", "irate", "increase"}:
                yield node


def target_job_instance(board: Json) -> Iterator[str]:
    wanted = {"job": '=~"$job"', "instance": '=~"$instance"'}
    for selector in selectors(board):
        if not wanted.items() <= promql.matched(selector).items():
            yield str(selector)


def target_counters(board: Json) -> Iterator[str]:
    """A counter may only be looked at as a rate."""
    rated = {str(call.args[0].vector_selector) for call in rates(board)}
    for selector in selectors(board):
        if str(selector.name).endswith("_total") and str(selector) not in rated:
            yield str(selector)


def first_target(board: Json) -> Json:
    target: Json = next(boards.panels(board))["targets"][0]
    return target


# Each rule with a change that it must find.
RULES: dict[Rule, Callable[[Json], object]] = {
    uneditable: lambda board: board.update(editable=True),
    template_datasource: lambda board: boards.variable(board, "datasource").update(label="DS"),
    template_targets: lambda board: boards.variable(board, "instance").update(allValue=".*"),
    template_promql: lambda board: boards.variable(board, "job").update(
        query="label_values(sockwatch_build_inf, job)"
    ),
    template_reload: lambda board: boards.variable(board, "job").update(refresh=1),
    panel_datasource: lambda board: next(boards.panels(board))["datasource"].update(uid="mine"),
    panel_title_description: lambda board: next(boards.panels(board)).update(description=""),
    panel_units: lambda board: next(boards.panels(board))["fieldConfig"]["defaults"].update(
        unit="sockets"
    ),
    panel_targets: lambda board: next(boards.panels(board)).update(targets=[]),
    target_promql: lambda board: first_target(board).update(expr="sum(("),
    target_rate_interval: lambda board: first_target(board).update(
        expr="rate(sockwatch_passes_total[5m])"
    ),
    target_job_instance: lambda board: first_target(board).update(expr='up{job=~"$job"}'),
    target_counters: lambda board: first_target(board).update(expr="sum(sockwatch_passes_total)"),
}

each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)


@each_rule
def test_the_dashboard_keeps_the_linters_rule(board: Json, rule: Rule) -> None:
    assert list(rule(board)) == []


@each_rule
def test_the_rule_finds_what_breaks_it(board: Json, rule: Rule) -> None:
    broken = copy.deepcopy(board)
    RULES[rule](broken)
    assert list(rule(broken)) != []
