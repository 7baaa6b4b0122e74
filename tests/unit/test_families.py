"""Names, types and labels are the public interface; values say no more than is known."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, product
from math import isfinite
from typing import Final

import pytest
from arbitrary_snapshots import SNAPSHOTS
from catalogue import CATALOGUE, METRICS, Shape
from everything import EVERYTHING
from hypothesis import given, settings
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample
from snapshots import (
    PSUTIL,
    TAKEN,
    good_pass,
    namespace,
    of_namespaces,
    outbound,
    service,
    snapshot,
    with_failed_pass,
)

from sockwatch.export.families import FAMILIES, families
from sockwatch.export.own import HttpCounts, Reloads, own_families
from sockwatch.kernel.failures import Cause
from sockwatch.observe.snapshot import NamespaceView, PassKind, PassStatus, Snapshot
from sockwatch.poll.records import PassRecord
from sockwatch.tcp.model import phase_of
from sockwatch.tcp.states import Family, State, Unowned

LOADED: Final = Reloads(successful=True, success_time=TAKEN)
QUIET: Final = HttpCounts(in_flight=0, rejected={"connections": 0})


def everything(taken: Snapshot) -> Iterator[Metric]:
    return chain(families(taken), own_families(LOADED, QUIET, 0.02))


def samples(taken: Snapshot, name: str) -> dict[tuple[str, ...], float]:
    """Values of a metric by its label values, in the order in which they are written."""
    found = (sample for family in families(taken) for sample in family.samples)
    return {tuple(one.labels.values()): one.value for one in found if one.name == name}


def labelled(taken: Snapshot, name: str, **labels: str) -> list[Sample]:
    """Samples of a metric that have these labels."""
    found = (sample for family in families(taken) for sample in family.samples)
    return [one for one in found if one.name == name and labels.items() <= one.labels.items()]


def test_names_types_and_labels_are_those_of_the_design() -> None:
    shapes = {}
    for family in everything(EVERYTHING):
        for sample in family.samples:
            shapes[sample.name] = Shape(family.type, frozenset(sample.labels))
    assert shapes == CATALOGUE


def test_rules_and_dashboards_are_held_against_the_same_names() -> None:
    own = {name: shape.labels for name, shape in CATALOGUE.items()}
    assert own == {name: labels for name, labels in METRICS.items() if name != "up"}


def test_every_family_is_explained() -> None:
    for family in everything(snapshot(service(80))):
        assert family.documentation.endswith((".", "2s")) or family.name.startswith("process_")
        assert family.documentation[:1].isupper()
        assert "\n" not in family.documentation


def test_no_two_families_have_the_same_name() -> None:
    names = Counter(family.name for family in everything(snapshot()))
    assert set(names.values()) == {1}
    assert len([*families(snapshot())]) == len(FAMILIES)


def test_every_state_of_both_families_is_there_with_its_phase() -> None:
    assert samples(snapshot(), "sockwatch_tcp_sockets") == {
        (family.label, state.label, phase_of(state).value, ""): 0
        for family, state in product(Family, State)
    }


def test_states_that_were_never_counted_are_absent() -> None:
    view = namespace()
    known = {key: count for key, count in view.sockets.items() if key[1] != State.ESTABLISHED}
    taken = of_namespaces(replace(view, sockets=known))
    assert not labelled(taken, "sockwatch_tcp_sockets", state="established")
    assert len(labelled(taken, "sockwatch_tcp_sockets", state="time_wait")) == len(Family)


def test_before_any_good_pass_nothing_is_said_of_sockets() -> None:
    taken = replace(snapshot(), namespaces=())
    names = {family.name for family in families(taken) if family.samples}
    assert not {name for name in names if name.startswith("sockwatch_tcp")}
    assert "sockwatch_folded_label_sets" not in names
    assert {"sockwatch_build_info", "sockwatch_source_info", "sockwatch_passes"} <= names


def test_kinds_of_unowned_sockets_are_all_there_or_none() -> None:
    name = "sockwatch_tcp_unowned_sockets"
    assert samples(snapshot(unowned={Unowned.ORPHAN: 3}), name) == {
        ("half_open", ""): 0,
        ("not_accepted", ""): 0,
        ("orphan", ""): 3,
        ("mini", ""): 0,
    }
    assert samples(snapshot(unowned=None, source=PSUTIL), name) == {}


def test_connections_are_told_by_service_and_state() -> None:
    taken = snapshot(
        service(8080, "app.service", established=5, close_wait=3),
        outbound(5432, "app.service", syn_sent=2),
    )
    assert samples(taken, "sockwatch_tcp_connections") == {
        ("inbound", "8080", "app.service", "established", "established", ""): 5,
        ("inbound", "8080", "app.service", "close_wait", "closing_passive", ""): 3,
        ("outbound", "5432", "app.service", "established", "established", ""): 0,
        ("outbound", "5432", "app.service", "close_wait", "closing_passive", ""): 0,
        ("outbound", "5432", "app.service", "syn_sent", "opening", ""): 2,
    }


def test_what_alerts_depend_on_is_there_at_zero_for_each_service() -> None:
    taken = snapshot(service(80), service(443), outbound(53), service("other", "other"))
    for state in ("established", "close_wait"):
        found = labelled(taken, "sockwatch_tcp_connections", state=state)
        assert [sample.value for sample in found] == [0] * 4


def test_no_service_has_a_zero_that_nobody_counted() -> None:
    """Before the first census nobody knows how many connections are established."""
    view = namespace(service(80, close_wait=1))
    watched = {key: count for key, count in view.sockets.items() if key[1] != State.ESTABLISHED}
    taken = of_namespaces(replace(view, sockets=watched))
    assert not labelled(taken, "sockwatch_tcp_connections", state="established")
    (close_wait,) = labelled(taken, "sockwatch_tcp_connections", state="close_wait")
    assert close_wait.value == 1


def test_namespaces_are_told_apart_and_their_folded_services_added_up() -> None:
    views = [namespace(service(80), netns=name, folded=3) for name in ("", "blue")]
    taken = of_namespaces(*views)
    for name in ("sockwatch_tcp_sockets", "sockwatch_tcp_connections"):
        assert {one.labels["netns"] for one in labelled(taken, name)} == {"", "blue"}
    assert samples(taken, "sockwatch_folded_label_sets") == {(): 6}


@pytest.mark.parametrize("source", ["netlink", "psutil"])
def test_the_source_in_use_is_named(source: str) -> None:
    taken = snapshot(source=replace(PSUTIL, name=source))
    assert samples(taken, "sockwatch_source_info") == {(source,): 1}


BUSY_WATCH: Final = PassStatus(
    configured_interval=1.0,
    interval=2.5,
    passes=40,
    failures={"busy": 2, "timeout": 0},
    last_failure="busy: for a test",
    last_success=TAKEN - 3.25,
    duration=0.125,
    cpu_seconds=1.5,
)


def test_passes_are_told_by_kind() -> None:
    passes = {PassKind.WATCH: BUSY_WATCH, PassKind.CENSUS: good_pass()}
    taken = replace(snapshot(), passes=passes)
    told = {
        name: samples(taken, f"sockwatch_{name}")[("watch",)]
        for name in (
            "pass_duration_seconds",
            "pass_cpu_seconds_total",
            "pass_interval_seconds",
            "last_pass_timestamp_seconds",
            "passes_total",
            "collector_success",
        )
    }
    assert told == {
        "pass_duration_seconds": 0.125,
        "pass_cpu_seconds_total": 1.5,
        "pass_interval_seconds": 2.5,
        "last_pass_timestamp_seconds": TAKEN - 3.25,
        "passes_total": 40,
        "collector_success": 0,
    }
    assert samples(taken, "sockwatch_collector_success")[("census",)] == 1
    failures = samples(taken, "sockwatch_pass_failures_total")
    assert failures[("watch", "busy")] == 2
    assert failures[("watch", "timeout")] == 0


def test_every_cause_of_failure_is_there_at_zero_before_the_first_pass() -> None:
    fresh = {kind: PassRecord().status(1.0, 1.0) for kind in PassKind}
    taken = replace(snapshot(), passes=fresh)
    assert samples(taken, "sockwatch_pass_failures_total") == {
        (kind.value, cause.value): 0 for kind, cause in product(PassKind, Cause)
    }
    assert samples(taken, "sockwatch_passes_total") == {("watch",): 0, ("census",): 0}


def test_what_a_pass_that_never_ran_would_have_told_is_absent() -> None:
    fresh = {kind: PassRecord().status(1.0, 1.0) for kind in PassKind}
    taken = replace(snapshot(), passes=fresh)
    for name in ("pass_duration_seconds", "last_pass_timestamp_seconds", "collector_success"):
        assert samples(taken, f"sockwatch_{name}") == {}


def test_a_failed_pass_shows_and_its_last_good_time_stays() -> None:
    taken = with_failed_pass(snapshot(service(80, close_wait=3)), "busy: for a test")
    assert samples(taken, "sockwatch_collector_success") == {("census",): 0}
    assert samples(taken, "sockwatch_last_pass_timestamp_seconds") == {("census",): TAKEN}
    (close_wait,) = labelled(taken, "sockwatch_tcp_connections", state="close_wait")
    assert close_wait.value == 3


def test_a_label_set_that_is_gone_is_gone() -> None:
    name = "sockwatch_tcp_connections"
    before = {key[1] for key in samples(snapshot(service(80), service(81)), name)}
    after = {key[1] for key in samples(snapshot(service(80)), name)}
    assert (before, after) == ({"80", "81"}, {"80"})


def distinct(views: Iterable[NamespaceView]) -> Iterator[NamespaceView]:
    """Namespaces as a host has them: of different names, the host's figures in the first."""
    seen: set[str] = set()
    for view in views:
        if view.netns not in seen:
            known = view.figures and replace(view.figures, host=None if seen else view.figures.host)
            yield replace(view, figures=known)
        seen.add(view.netns)


@settings(max_examples=50)
@given(SNAPSHOTS)
def test_whatever_was_seen_each_series_is_there_once_with_a_number(taken: Snapshot) -> None:
    taken = replace(taken, namespaces=tuple(distinct(taken.namespaces)))
    seen: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
    for sample in (sample for family in families(taken) for sample in family.samples):
        seen[sample.name, frozenset(sample.labels.items())] += 1
        assert isfinite(sample.value)
        assert sample.value >= 0
        assert set(sample.labels) == CATALOGUE[sample.name].labels
    assert set(seen.values()) == {1}


def test_what_the_server_and_the_configuration_tell() -> None:
    http = HttpCounts(in_flight=3, rejected={"connections": 2, "malformed": 0})
    own = {
        (sample.name, *sample.labels.values()): sample.value
        for family in own_families(Reloads(successful=False, success_time=TAKEN), http, 0.05)
        for sample in family.samples
    }
    assert {key: value for key, value in own.items() if key[0].startswith("sockwatch")} == {
        ("sockwatch_cpu_budget_ratio",): 0.05,
        ("sockwatch_config_last_reload_successful",): 0,
        ("sockwatch_config_last_reload_success_timestamp_seconds",): TAKEN,
        ("sockwatch_http_requests_in_flight",): 3,
        ("sockwatch_http_requests_rejected_total", "connections"): 2,
        ("sockwatch_http_requests_rejected_total", "malformed"): 0,
    }
    assert own[("process_resident_memory_bytes",)] > 1e6


def test_without_a_limit_there_is_no_budget_to_tell() -> None:
    names = {family.name for family in own_families(LOADED, QUIET, 0)}
    assert "sockwatch_cpu_budget_ratio" not in names
    assert "sockwatch_config_last_reload_successful" in names
