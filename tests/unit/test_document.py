"""The JSON of one look: keys that stay, null for what is not known, everything as it was read."""

import json
from dataclasses import replace
from typing import Any, Final

import pytest
from arbitrary_snapshots import SNAPSHOTS
from everything import EVERYTHING, STUCK
from hypothesis import given, settings
from kernel_figures import FIGURES, MIB, UNKNOWN, with_figures
from snapshots import (
    NETLINK,
    OWNED,
    PSUTIL,
    TAKEN,
    listener,
    namespace,
    of_namespaces,
    outbound,
    service,
    snapshot,
    with_failed_pass,
)

from sockwatch import __version__
from sockwatch.export import document as module
from sockwatch.export.document import Host, document
from sockwatch.export.findings import find
from sockwatch.kernel.failures import Cause
from sockwatch.observe.figures import ABORTS, COUNTERS, Lately
from sockwatch.observe.snapshot import Destinations, NamespaceView, PassKind, Snapshot
from sockwatch.tcp.model import Phase, phase_of
from sockwatch.tcp.owners import Owners, Process
from sockwatch.tcp.states import Family, State, Unowned

HOST: Final = Host("web-7", "6.18.44")


def document_of(taken: Snapshot) -> dict[str, Any]:
    return document(taken, find(taken, now=taken.taken), HOST)


def only_namespace(taken: Snapshot) -> dict[str, Any]:
    [view] = document_of(taken)["namespaces"]
    assert isinstance(view, dict)
    return view


LEAKING: Final = snapshot(
    service(8080, "app.service", established=120, close_wait=412, time_wait=0),
    outbound(5432, "app.service", established=9),
    replace(listener(8080, "app.service", queue=129, limit=128, sockets=2), full=1),
    ipv6={State.CLOSE_WAIT: 12},
    unowned={Unowned.ORPHAN: 3},
    folded=7,
)


def test_a_leaking_host() -> None:
    told = document_of(LEAKING)
    [queue, leak] = told.pop("findings")
    [view] = told.pop("namespaces")
    assert told == {
        "version": __version__,
        "host": {"name": "web-7", "kernel": "6.18.44"},
        "taken_seconds": TAKEN,
        "source": {"name": "netlink", "reason": NETLINK.reason, "since_seconds": TAKEN},
        "passes": {
            "census": {
                "interval_seconds": 15.0,
                "configured_interval_seconds": 15.0,
                "passes": 1,
                "failures": {"busy": 0},
                "last_failure": None,
                "last_success_seconds": TAKEN,
                "duration_seconds": 0.004,
                "cpu_seconds": 0.003,
            }
        },
    }
    assert leak == {
        "kind": "close_wait",
        "message": "412 connections in close_wait: inbound port 8080, app.service",
        "meaning": leak["meaning"],
        "count": 412,
        "limit": None,
        "netns": "",
        "direction": "inbound",
        "port": "8080",
        "unit": "app.service",
        "address": None,
        "destination": None,
    }
    assert (queue["address"], queue["count"], queue["limit"]) == ("0.0.0.0", 129, 128)
    assert view.pop("sockets")["ipv6"]["close_wait"] == 12
    assert view == {
        "netns": "",
        "mptcp": None,
        "phases": {
            "listen": 2,
            "opening": 0,
            "established": 129,
            "closing_active": 0,
            "closing_passive": 412,
            "closed": 0,
        },
        "unowned": {"half_open": 0, "mini": 0, "not_accepted": 0, "orphan": 3},
        "services": [
            {
                "direction": "inbound",
                "port": "8080",
                "unit": "app.service",
                "states": {"established": 120, "close_wait": 412},
            },
            {
                "direction": "outbound",
                "port": "5432",
                "unit": "app.service",
                "states": {"established": 9},
            },
        ],
        "folded": 7,
        "listeners": [
            {
                "family": "ipv4",
                "address": "0.0.0.0",
                "port": "8080",
                "unit": "app.service",
                "sockets": 2,
                "full": 1,
                "queue": 129,
                "limit": 128,
                "peak": 0,
                "half_open": 0,
                "half_open_resent": 0,
                "drops": 0,
                "processes": [],
            }
        ],
        "destinations": None,
        "peaks": {},
        "stuck": None,
        "figures": None,
    }


def test_destinations_are_told_with_what_is_in_use() -> None:
    assert only_namespace(EVERYTHING)["destinations"] == {
        "ports": 28_232,
        "in_use_max": 9_000,
        "crowded": [
            {
                "source": "192.0.2.1",
                "destination": "198.51.100.7:5432",
                "in_use": 9_000,
                "time_wait": 8_800,
            }
        ],
        "unanswered": [{"destination": "198.51.100.9:443", "connections": 3}],
    }


@pytest.mark.parametrize(("unanswered", "told"), [(None, None), ({}, [])])
def test_that_nobody_is_silent_is_told_from_not_knowing(
    unanswered: dict[str, int] | None, told: list[object] | None
) -> None:
    view = replace(namespace(), destinations=Destinations(None, 0, (), unanswered))
    assert only_namespace(of_namespaces(view))["destinations"] == {
        "ports": None,
        "in_use_max": 0,
        "crowded": [],
        "unanswered": told,
    }


def test_peaks_are_told_by_state() -> None:
    assert only_namespace(EVERYTHING)["peaks"] == {
        "established": 170,
        "syn_recv": 7,
        "close_wait": 500,
    }


def test_a_finding_about_a_destination_names_it() -> None:
    [told] = [one for one in document_of(EVERYTHING)["findings"] if one["kind"] == "unanswered"]
    assert (told["destination"], told["count"]) == ("198.51.100.9:443", 3)


def test_mptcp_connections_are_told_apart() -> None:
    counted = {(Family.INET, State.CLOSE_WAIT): 3, (Family.INET6, State.ESTABLISHED): 4}
    told = only_namespace(of_namespaces(replace(namespace(), multipath=counted)))["mptcp"]
    assert told == {"ipv4": {"close_wait": 3}, "ipv6": {"established": 4}}


def test_who_holds_a_listener_is_told_once_the_oldest_first() -> None:
    """Two sockets that share a port, of which both workers hold the first."""
    parent, worker = Process(70, "app", 5.0), Process(80, "worker", 9.0)
    group = replace(listener(80, sockets=2), inodes=(5, 6, 7))
    owners = {5: Owners((parent, worker), 2), 6: Owners.alone(parent)}
    view = replace(namespace(group), owners=owners)
    (told,) = only_namespace(of_namespaces(view))["listeners"]
    assert told["processes"] == [
        {"pid": 70, "name": "app", "started_seconds": 5.0},
        {"pid": 80, "name": "worker", "started_seconds": 9.0},
    ]


def test_stuck_connections_are_told_by_service_state_and_cause() -> None:
    told = only_namespace(of_namespaces(replace(namespace(), stuck=STUCK)))["stuck"]
    app = {"direction": "inbound", "port": "8080", "unit": "app.service"}
    database = {"direction": "outbound", "port": "5432", "unit": "app.service"}
    assert told == {
        "connections": [
            {**app, "state": "close_wait", "cause": "data_unread", "connections": 3},
            {**app, "state": "close_wait", "cause": "not_closed", "connections": 400},
            {**database, "state": "syn_sent", "cause": "unanswered", "connections": 1},
        ],
        "oldest": [
            {**app, "state": "close_wait", "age_seconds": 5400.5},
            {**database, "state": "syn_sent", "age_seconds": 12.25},
        ],
        "limits": {"close_wait": 60.0, "syn_sent": 10.0, "last_ack": 30.0},
        "followed": 413,
        "followed_limit": 200_000,
        "stride": 1,
    }


def test_what_the_source_cannot_know_is_null() -> None:
    view = only_namespace(
        snapshot(listener(80, queue=None, limit=None), unowned=None, source=PSUTIL)
    )
    assert view["unowned"] is None
    assert [view["listeners"][0][key] for key in ("full", "queue", "limit")] == [None] * 3


def test_what_was_never_measured_is_null_and_not_zero() -> None:
    measured = {(family, State.LISTEN): 0 for family in Family}
    view = only_namespace(of_namespaces(NamespaceView("", measured, OWNED, {}, 0, ())))
    assert view["sockets"]["ipv4"] == {
        state.label: 0 if state is State.LISTEN else None for state in State
    }
    assert view["phases"] == {phase: 0 if phase is Phase.LISTEN else None for phase in Phase}


def test_nothing_in_an_unowned_kind_is_zero_and_not_null() -> None:
    assert only_namespace(snapshot())["unowned"] == dict.fromkeys(sorted(Unowned), 0)


def test_figures_are_told_with_their_limits() -> None:
    told = only_namespace(with_figures(snapshot(), FIGURES))["figures"]
    assert told.pop("counters") == FIGURES.counters
    assert told.pop("aborts") == FIGURES.aborts
    assert told.pop("lately") is None
    assert told == {
        "time_wait": {"sockets": 117_965, "limit": 131_072},
        "ephemeral_ports": 28_232,
        "somaxconn": 4_096,
        "max_syn_backlog": 1_024,
        "host": {
            "orphans": {"sockets": 1_311, "limit": 65_536},
            "memory": {
                "bytes": 39 * MIB,
                "low": 736 * MIB,
                "pressure": 981 * MIB,
                "high": 1_472 * MIB,
            },
            "hidden": 3,
        },
    }


def test_what_was_counted_lately_is_told_with_how_long_that_is() -> None:
    lately = Lately(59.5, {"passive_opens": 7})
    told = only_namespace(with_figures(snapshot(), replace(FIGURES, lately=lately)))["figures"]
    counters = {**dict.fromkeys(COUNTERS), "passive_opens": 7}
    assert told["lately"] == {"seconds": 59.5, "counters": counters}


def test_figures_that_were_not_read_are_null() -> None:
    told = only_namespace(with_figures(snapshot(), UNKNOWN))["figures"]
    assert told.keys() == only_namespace(with_figures(snapshot(), FIGURES))["figures"].keys()
    assert {*told["counters"].values(), *told["aborts"].values()} == {None}
    assert told["time_wait"] == {"sockets": None, "limit": None}
    assert told["host"] is None


def test_a_failed_pass_is_told_with_its_reason() -> None:
    told = document_of(with_failed_pass(snapshot(), "busy: the kernel answers EBUSY"))
    assert told["passes"]["census"]["last_failure"] == "busy: the kernel answers EBUSY"
    assert told["passes"]["census"]["failures"] == {"busy": 1}
    assert [finding["kind"] for finding in told["findings"]] == ["stale"]


def test_services_and_listeners_are_sorted_by_port_as_a_number() -> None:
    ports = (8080, 443, 22, 10_077)
    view = only_namespace(snapshot(*map(service, ports), *map(listener, ports)))
    for rows in view["services"], view["listeners"]:
        assert [row["port"] for row in rows] == ["22", "443", "8080", "10077"]


def test_each_namespace_is_told() -> None:
    views = document_of(of_namespaces(namespace(), namespace(netns="blue")))["namespaces"]
    assert [view["netns"] for view in views] == ["", "blue"]


@pytest.mark.parametrize("unit", ["\x1b[2J\n", "a\udcffb", 'say "hi"', "größe.service"])
def test_strings_come_as_they_were_read_and_the_text_of_the_document_is_plain(unit: str) -> None:
    written = json.dumps(document_of(snapshot(service(1, unit, close_wait=99))))
    assert written.isascii()
    assert written.isprintable()
    read = json.loads(written)
    assert read["namespaces"][0]["services"][0]["unit"] == unit
    assert read["findings"][0]["unit"] == unit


def keys_in(value: object) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    if isinstance(value, dict):
        return set(value).union(*map(keys_in, value.values()))
    return set()


def test_every_key_is_documented() -> None:
    """Labels of states, phases and the like are the metrics' and are documented there."""
    labels = {
        *PassKind,
        *Phase,
        *Unowned,
        *(state.label for state in State),
        *COUNTERS,
        *ABORTS,
        *Cause,
        "ipv4",
        "ipv6",
    }
    documented = module.__doc__ or ""
    told = document_of(EVERYTHING)
    assert [key for key in sorted(keys_in(told) - labels) if key not in documented] == []


@settings(deadline=None)
@given(SNAPSHOTS)
def test_any_snapshot_survives_json(taken: Snapshot) -> None:
    told = document_of(taken)
    assert json.loads(json.dumps(told)) == told


@settings(deadline=None)
@given(SNAPSHOTS)
def test_no_socket_and_no_connection_is_lost_in_the_document(taken: Snapshot) -> None:
    for view, told in zip(taken.namespaces, document_of(taken)["namespaces"], strict=True):
        counts = [count for states in told["sockets"].values() for count in states.values()]
        assert sum(filter(None, counts)) == sum(view.sockets.values())
        assert sum(filter(None, told["phases"].values())) == sum(view.sockets.values())
        assert sum(sum(row["states"].values()) for row in told["services"]) == sum(
            sum(states.values()) for states in view.services.values()
        )
        for phase in Phase:
            known = any(phase_of(state) is phase for _, state in view.sockets)
            assert (told["phases"][phase] is not None) is known


@settings(deadline=None)
@given(SNAPSHOTS)
def test_every_document_of_a_kind_has_the_same_keys(taken: Snapshot) -> None:
    told = document_of(taken)
    assert told.keys() == document_of(LEAKING).keys()
    for part in ("findings", "namespaces"):
        expected = document_of(LEAKING)[part][0].keys()
        assert all(row.keys() == expected for row in told[part])
