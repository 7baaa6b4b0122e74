"""Many hosts below a Prometheus, and what the one above it gets of them, in both ways."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import pytest
import yaml
from alerting import fleet, rules, shorten
from alerting.rules import FLEET, RECORDS
from alerting.servers import Json, Prometheus
from guards import need_command
from lab import eventually

pytestmark = [pytest.mark.stack, pytest.mark.slow]

HOSTS = 20
FACTOR = 15
"""A scrape and an evaluation a second."""
INTERVAL = 15 / FACTOR
DETAIL = {"port", "unit", "address", "destination", "netns", "cause"}
BY_SERVICE = "job_service_state:"
LEAK = f'{BY_SERVICE}sockwatch_tcp_stuck_connections:sum{{port="{fleet.LEAKING}"}}'
MOST_A_HOST = 25
"""Series of a host that the global server may have; below there are some 450."""
EVERYTHING = '{__name__=~".+", __name__!="ALERTS"}'
RECORDED = {rule["record"] for rule in FLEET}
ALL_UP = 'job:up:sum{job="sockwatch"}'
OF_A_SCRAPE = '{__name__=~"up|scrape_.+", job="federate"}'

each_leaf_file = pytest.mark.parametrize("file", ["fleet.leaf.yml", "fleet.global.yml"])


class Servers(NamedTuple):
    """A Prometheus below, and two above it."""

    leaf: Prometheus
    federating: Prometheus
    written_to: Prometheus


def shipped(name: str) -> Json:
    config: Json = yaml.safe_load((rules.FOLDER / name).read_text())
    return shorten.durations(config, FACTOR)  # type: ignore[no-any-return]


def leaf_config(hosts: str, writes_to: str) -> Json:
    config = shipped("fleet.leaf.yml")
    del config["alerting"]
    config["scrape_configs"][0]["static_configs"] = fleet.targets(hosts, HOSTS)
    config["remote_write"][0]["url"] = f"http://{writes_to}/api/v1/write"
    return config


def global_config(leaf: str) -> Json:
    config = shipped("fleet.global.yml")
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [leaf]
    return config


def names(of: Prometheus) -> set[str]:
    """Return the names of all series but alerts and what a scrape of the global server adds."""
    found = of.query(f"count by (__name__) ({EVERYTHING} unless {OF_A_SCRAPE})")
    return {series["metric"]["__name__"] for series in found}


def has_all(above: Prometheus) -> bool:
    return above.value(ALL_UP) == HOSTS and names(above) >= RECORDED and bool(above.query(LEAK))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    program = need_command("prometheus", "prometheus")
    leaf_folder, above, written = (
        tmp_path_factory.mktemp(name) for name in ("leaf", "federating", "written")
    )
    for file in (rules.RULES, rules.FLEET_RULES):
        short = shorten.rules(rules.load(file), FACTOR)
        (leaf_folder / file.name).write_text(yaml.safe_dump(short))
    with ExitStack() as stack:
        hosts = stack.enter_context(fleet.answering())
        written_to = stack.enter_context(
            Prometheus(written, program, {}, **{"web.enable-remote-write-receiver": True})
        )
        leaf = stack.enter_context(
            Prometheus(leaf_folder, program, leaf_config(hosts, written_to.address))
        )
        federating = stack.enter_context(Prometheus(above, program, global_config(leaf.address)))
        for one in (federating, written_to):
            eventually(partial(has_all, one), "all is known above", 60.0)
        yield Servers(leaf, federating, written_to)


@pytest.fixture(params=["federating", "written_to"])
def above(servers: Servers, request: pytest.FixtureRequest) -> Prometheus:
    found: Prometheus = getattr(servers, request.param)
    return found


@each_leaf_file
def test_promtool_accepts_the_configuration(file: str) -> None:
    promtool = need_command("promtool", "prometheus")
    done = subprocess.run(
        [promtool, "check", "config", file],
        cwd=rules.FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_ways_choose_the_same_series() -> None:
    (write,) = shipped("fleet.leaf.yml")["remote_write"]
    (keep,) = write["write_relabel_configs"]
    (match,) = shipped("fleet.global.yml")["scrape_configs"][0]["params"]["match[]"]
    job, names = keep["regex"].split(";")
    names = names.removeprefix("(").removesuffix(")")
    assert match == f'{{job="{job}", __name__=~"{names}"}}'


def test_the_rules_evaluate_within_their_interval(servers: Servers) -> None:
    assert servers.leaf.unhealthy() == {}
    groups = servers.leaf.ask("rules")["data"]["groups"]
    assert {group["name"] for group in groups if group["evaluationTime"] >= INTERVAL} == set()


def test_above_there_are_only_recorded_series_and_alerts(above: Prometheus) -> None:
    of_hosts = {rule["record"] for rule in RECORDS if rule["record"].startswith("instance:")}
    assert names(above) <= RECORDED | of_hosts


def test_above_there_is_nothing_of_a_single_service_of_a_host(above: Prometheus) -> None:
    assert above.query('{instance!="", __name__!="ALERTS", job="sockwatch"}') != []
    for label in DETAIL:
        detail = f'{{{label}!="", __name__!~"ALERTS|{BY_SERVICE}.+"}}'
        assert above.query(detail) == [], label
    assert above.query(f'{{instance!="", __name__=~"{BY_SERVICE}.+"}}') == []


def test_above_a_host_is_few_series(servers: Servers, above: Prometheus) -> None:
    of_a_host = 'count({instance="host0003"})'
    assert servers.leaf.value(of_a_host) > 15 * MOST_A_HOST
    assert 0 < above.value(of_a_host) <= MOST_A_HOST


def test_above_the_sums_are_those_of_all_hosts(above: Prometheus) -> None:
    assert above.value(ALL_UP) == HOSTS
    assert above.value('job:up:count{job="sockwatch"}') == HOSTS
    sockets = "sockwatch_tcp_sockets:sum"
    total = f'job_state:{sockets}{{state="listen"}}'
    assert above.value(total) == HOSTS * above.value(
        f'instance_state:{sockets}{{state="listen", instance="host0003"}}'
    )


def test_above_a_leak_is_named_by_service_and_by_host(above: Prometheus) -> None:
    assert above.value(LEAK) > 0
    assert above.value(LEAK.replace(":sum{", ":count{")) == 1
    leaking = above.query(
        'instance_state:sockwatch_tcp_stuck_connections:sum{state="close_wait"}>0'
    )
    assert [series["metric"]["instance"] for series in leaking] == [fleet.LEAKING_HOST]


def test_above_series_tell_their_cluster(above: Prometheus) -> None:
    assert above.query('{job="sockwatch", cluster!="one"}') == []
