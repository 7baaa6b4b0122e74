"""Kernel counters and limits as metrics: names, labels, absence; host-wide ones once."""

import re
import subprocess
from collections import Counter
from dataclasses import replace

import pytest
from guards import need_command
from kernel_figures import FIGURES, HOST_FIGURES, MIB, UNKNOWN, with_figures
from snapshots import namespace, of_namespaces, snapshot

from sockwatch.export.exposition import Exposition
from sockwatch.export.families import FAMILIES
from sockwatch.export.figure_families import FIGURE_FAMILIES
from sockwatch.export.formats import Format
from sockwatch.observe.figures import ABORTS, COUNTERS, Figures
from sockwatch.observe.snapshot import Snapshot

HOST_WIDE = {"sockwatch_tcp_orphan_sockets", "sockwatch_tcp_memory_bytes"}


def told(taken: Snapshot) -> dict[str, float]:
    """All samples by name and label values."""
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for make in FIGURE_FAMILIES
        for sample in make(taken).samples
    }


def only(figures: Figures | None) -> dict[str, float]:
    return told(with_figures(snapshot(), figures))


def test_they_are_exported() -> None:
    assert {*FIGURE_FAMILIES} <= {*FAMILIES}
    assert len({*FAMILIES}) == len(FAMILIES)


def test_every_figure_is_told_as_it_is() -> None:
    expected = {
        **{f"sockwatch_tcp_{name}_total/": FIGURES.counters[name] for name in COUNTERS},
        **{f"sockwatch_tcp_aborts_total/{why}/": FIGURES.aborts[why] for why in ABORTS},
        "sockwatch_ephemeral_ports/": 28_232,
        "sockwatch_tcp_time_wait_sockets/": 117_965,
        "sockwatch_tcp_time_wait_sockets_limit/": 131_072,
        "sockwatch_tcp_orphan_sockets": 1_311,
        "sockwatch_tcp_orphan_sockets_limit": 65_536,
        "sockwatch_tcp_memory_bytes": 39 * MIB,
        "sockwatch_tcp_memory_limit_bytes/low": 736 * MIB,
        "sockwatch_tcp_memory_limit_bytes/pressure": 981 * MIB,
        "sockwatch_tcp_memory_limit_bytes/high": 1_472 * MIB,
        "sockwatch_somaxconn/": 4_096,
        "sockwatch_tcp_max_syn_backlog/": 1_024,
        "sockwatch_tcp_hidden_sockets": 3,
    }
    assert only(FIGURES) == expected


def test_a_counter_exists_at_zero() -> None:
    assert only(FIGURES)["sockwatch_tcp_active_opens_total/"] == 0


@pytest.mark.parametrize("figures", [None, UNKNOWN, replace(UNKNOWN, host=None)])
def test_what_is_not_known_has_no_sample(figures: Figures | None) -> None:
    assert only(figures) == {}


def test_before_the_first_pass_there_is_no_sample() -> None:
    assert told(of_namespaces()) == {}


def test_one_unknown_figure_is_absent_alone() -> None:
    counters = {name: 1 for name in COUNTERS if name != "listen_drops"}
    host = replace(HOST_FIGURES, hidden=None)
    known = only(replace(FIGURES, counters=counters, time_wait=None, host=host))
    assert only(FIGURES).keys() - known.keys() == {
        "sockwatch_tcp_listen_drops_total/",
        "sockwatch_tcp_time_wait_sockets/",
        "sockwatch_tcp_hidden_sockets",
    }


def test_each_namespace_has_its_own_and_the_host_is_told_once() -> None:
    views = (namespace(), namespace(netns="blue"))
    inside = replace(FIGURES, host=None, somaxconn=8)
    samples = told(with_figures(of_namespaces(*views), FIGURES, inside))
    assert samples["sockwatch_somaxconn/"] == 4_096
    assert samples["sockwatch_somaxconn/blue"] == 8
    series = Counter(key.partition("/")[0] for key in samples)
    assert {name for name, count in series.items() if count == 1} >= HOST_WIDE
    assert series["sockwatch_tcp_listen_drops_total"] == 2
    assert series["sockwatch_tcp_aborts_total"] == 2 * len(ABORTS)


def test_the_host_is_told_once_even_if_two_namespaces_have_its_figures() -> None:
    other = replace(FIGURES, host=replace(HOST_FIGURES, orphans=7))
    views = of_namespaces(namespace(), namespace(netns="blue"))
    [sample] = [
        one
        for make in FIGURE_FAMILIES
        for one in make(with_figures(views, FIGURES, other)).samples
        if one.name == "sockwatch_tcp_orphan_sockets"
    ]
    assert (sample.labels, sample.value) == ({}, 1_311)


def test_the_help_says_where_a_counter_comes_from() -> None:
    """So that it is found by who knows the kernel's name."""
    helps = {make(snapshot()).name: make(snapshot()).documentation for make in FIGURE_FAMILIES}
    for name, (_, item) in COUNTERS.items():
        assert f"({item})" in helps[f"sockwatch_tcp_{name}"]
    assert all(text.endswith(".") and not re.search(r"\s\s", text) for text in helps.values())


@pytest.mark.stack
def test_promtool_finds_nothing_to_say() -> None:
    promtool = need_command("promtool", "prometheus")
    page = Exposition().render(with_figures(snapshot(), FIGURES), Format.TEXT_0_0_4)
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")
