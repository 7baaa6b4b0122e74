"""What Prometheus reads: all formats agree, nothing breaks them, little is written twice."""

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from arbitrary_snapshots import SNAPSHOTS
from everything import EVERYTHING, passes
from guards import need_command
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from prometheus_client.registry import Collector
from snapshots import (
    TAKEN,
    service,
    snapshot,
)

from sockwatch.export import exposition, families
from sockwatch.export.exposition import Exposition
from sockwatch.export.formats import Format
from sockwatch.export.own import HttpCounts, Reloads, own_families
from sockwatch.observe.snapshot import PassKind, Snapshot
from sockwatch.tcp.states import Unowned

GOLDEN: Final = Path(__file__).with_name("golden") / "metrics.txt"
TEXT: Final = (Format.TEXT_0_0_4, Format.TEXT_1_0_0)
OM: Final = Format.OPENMETRICS_1_0_0


def own() -> list[Metric]:
    """What a daemon adds, but for the figures of its process."""
    added = own_families(
        Reloads(successful=True, success_time=TAKEN - 3600),
        HttpCounts(in_flight=1, rejected={"connections": 4, "malformed": 0}),
        budget=0.02,
    )
    return [family for family in added if not family.name.startswith("process_")]


def shown(taken: Snapshot) -> list[Metric]:
    """The families of which something is known."""
    return [family for family in families.families(taken) if family.samples]


def rendered(taken: Snapshot, fmt: Format) -> str:
    return Exposition().render(taken, fmt).decode()


class Series(NamedTuple):
    """A sample as any format has it."""

    name: str
    labels: frozenset[tuple[str, str]]
    value: float


def parsed(text: str, fmt: Format) -> list[Series]:
    read = openmetrics if fmt is OM else plain
    return [
        Series(sample.name, frozenset(sample.labels.items()), sample.value)
        for family in read(text)
        for sample in family.samples
    ]


def units(text: str, fmt: Format) -> set[str]:
    """The values of the label `unit`."""
    return {value for one in parsed(text, fmt) for key, value in one.labels if key == "unit"}


@pytest.fixture
def fixed_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "__version__", "1.2.3")
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.2")


@pytest.mark.usefixtures("fixed_build")
def test_the_exposition_of_a_known_host_is_the_golden_one() -> None:
    """UPDATE_GOLDEN=1 writes what is rendered now, to be judged by its difference."""
    text = Exposition(own).render(EVERYTHING, Format.TEXT_0_0_4)
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_bytes(text)
    assert text.decode() == GOLDEN.read_text()


@pytest.mark.stack
@pytest.mark.parametrize("fmt", TEXT)
def test_promtool_finds_nothing_to_blame(fmt: Format) -> None:
    promtool = need_command("promtool", "prometheus")
    text = Exposition(lambda: own_families(Reloads(True, TAKEN), HttpCounts(0, {"limit": 0}), 0))
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=text.render(EVERYTHING, fmt),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_all_formats_tell_the_same() -> None:
    told = {fmt: parsed(rendered(EVERYTHING, fmt), fmt) for fmt in Format}
    assert sorted(told[OM]) == sorted(told[Format.TEXT_0_0_4]) == sorted(told[Format.TEXT_1_0_0])
    assert len(told[OM]) > 60


def test_every_family_has_its_type_and_help_once() -> None:
    """The plain format has no gauge histograms: buckets are a histogram, sum and count gauges."""
    text = rendered(EVERYTHING, Format.TEXT_0_0_4)
    types = {family.name: family.type for family in shown(EVERYTHING)}
    for name, kind in types.items():
        full = f"{name}_total" if kind == "counter" else name
        assert text.count(f"# HELP {full} ") == 1
        assert text.count(f"# TYPE {full} {kind.removeprefix('gauge') or kind}\n") == 1
    histograms = [*types.values()].count("gaugehistogram")
    assert text.count("# TYPE ") == text.count("# HELP ") == len(types) + 2 * histograms


def test_no_time_of_creation_and_no_time_stamp_is_written() -> None:
    """Prometheus would store `_created` as a series; a time stamp would switch off staleness."""
    for fmt in Format:
        text = rendered(EVERYTHING, fmt)
        assert "_created" not in text
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(len(line.rsplit("} ", 1)[-1].split()) in {1, 2} for line in lines)
        assert not [line for line in lines if len(line.rsplit("}", 1)[-1].split()) > 2]


def test_openmetrics_ends_once_and_text_not_at_all() -> None:
    page = Exposition(own)
    assert page.render(EVERYTHING, OM).count(b"# EOF") == 1
    assert page.render(EVERYTHING, OM).endswith(b"\n# EOF\n")
    for fmt in TEXT:
        assert b"EOF" not in page.render(EVERYTHING, fmt)
        assert page.render(EVERYTHING, fmt).endswith(b"\n")


def test_a_family_without_samples_is_left_out() -> None:
    text = rendered(snapshot(unowned=None), Format.TEXT_0_0_4)
    assert "sockwatch_tcp_unowned_sockets" not in text


HOSTILE: Final = [
    'a"b.service',
    "a\\b.service",
    "a\\x2db.service",
    "a\nb.service",
    "a\r\nb",
    'x"} 1\nsockwatch_tcp_connections{port="1"} 99',
    "\\",
    '\\"',
    "\\n",
    "{}",
    "a,b=c",
    " ",
    "\t",
    "# EOF",
    "\u2028\x85\x0b\x0c",
    "einheit-\u00fc.service",
    "\U0001f600",
    "\x00",
]


@pytest.mark.parametrize("fmt", Format)
@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_unit_name_stays_within_its_label(unit: str, fmt: Format) -> None:
    text = rendered(snapshot(service(80, unit, close_wait=3)), fmt)
    assert units(text, fmt) == {unit}
    assert len(parsed(text, fmt)) == len(parsed(rendered(snapshot(service(80)), fmt), fmt))


@given(st.text(min_size=1, max_size=60))
def test_any_unit_name_is_read_as_it_was_written(unit: str) -> None:
    taken = snapshot(service(80, unit))
    for fmt in (OM, Format.TEXT_0_0_4):
        assert units(rendered(taken, fmt), fmt) == {unit}


@settings(max_examples=30)
@given(SNAPSHOTS)
def test_any_snapshot_is_told_alike_in_all_formats(taken: Snapshot) -> None:
    taken = replace(taken, namespaces=taken.namespaces[:1])
    text, other = rendered(taken, Format.TEXT_0_0_4), rendered(taken, OM)
    assert sorted(parsed(text, Format.TEXT_0_0_4)) == sorted(parsed(other, OM))
    assert "NaN" not in [line.rsplit(" ", 1)[-1] for line in text.split("\n")]


def by_prometheus_client(found: Iterable[Metric], fmt: Format) -> bytes:
    """The same page from its own registry."""
    registry = CollectorRegistry()
    registry.register(Families([family for family in found if family.samples]))
    write: Callable[[CollectorRegistry], bytes]
    write = generate_openmetrics if fmt is OM else generate_latest
    return write(registry)


class Families(Collector):
    """Collects what it is given."""

    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


@settings(max_examples=30, deadline=None)
@given(st.lists(SNAPSHOTS, min_size=1, max_size=3))
def test_every_page_is_what_prometheus_client_writes(seen: list[Snapshot]) -> None:
    """Also where it is put together from what earlier pages had."""
    page = Exposition(own)
    for taken, fmt in product([*seen, EVERYTHING], (OM, Format.TEXT_0_0_4)):
        expected = by_prometheus_client([*families.families(taken), *own()], fmt)
        assert page.render(taken, fmt) == expected


NAMES: Final = ("first", "b", "_a")
SAMPLES: Final = st.lists(
    st.tuples(
        st.tuples(*[st.text(max_size=3) | st.sampled_from(HOSTILE)] * len(NAMES)),
        st.integers(-(1 << 63), 1 << 63) | st.floats(),
    ),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(SAMPLES, min_size=1, max_size=3),
    st.sampled_from([GaugeMetricFamily, CounterMetricFamily]),
    st.sampled_from([OM, Format.TEXT_0_0_4]),
    st.integers(0, len(NAMES)),
)
def test_any_family_is_written_as_prometheus_client_writes_it(
    seen: list[list[tuple[tuple[str, ...], float]]],
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    fmt: Format,
    labels: int,
) -> None:
    extras: list[Metric] = []
    page = Exposition(lambda: extras)
    for samples in seen:
        family = kind("some", 'With "quotes", \\ and\nlines.', labels=NAMES[:labels])
        for values, value in samples:
            family.add_metric(values[:labels], value)
        extras[:] = [family]
        written = by_prometheus_client([*families.families(EVERYTHING), family], fmt)
        assert page.render(EVERYTHING, fmt) == written


def test_what_is_not_part_of_a_snapshot_is_collected_for_each_rendering() -> None:
    number = 0

    def extra() -> Iterable[Metric]:
        nonlocal number
        number += 1
        yield GaugeMetricFamily("extra", "Counts its collections.", value=number)

    page = Exposition(extra)
    for expected in (1, 2, 3):
        text = page.render(EVERYTHING, Format.TEXT_0_0_4)
        assert Series("extra", frozenset(), expected) in parsed(text.decode(), Format.TEXT_0_0_4)


class Writers:
    """Counts what prometheus_client is asked to write, by family."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[str] = []
        for writer in {*exposition._WRITERS.values()}:
            counting = self._counting(writer)
            for fmt in [fmt for fmt, one in exposition._WRITERS.items() if one is writer]:
                monkeypatch.setitem(exposition._WRITERS, fmt, counting)

    def _counting(self, writer: exposition.Writer) -> exposition.Writer:
        def count(registry: exposition._One) -> bytes:
            (family,) = registry.collect()
            self.written.append(family.name)
            return writer(registry)

        return count

    def since(self) -> list[str]:
        """Those written since the last time this was asked."""
        found, self.written = self.written, []
        return found


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Writers:
    return Writers(monkeypatch)


def test_only_families_that_changed_are_written_anew(writers: Writers) -> None:
    page = Exposition()
    page.render(EVERYTHING, Format.TEXT_0_0_4)
    assert len(writers.since()) == len(shown(EVERYTHING))
    later = replace(EVERYTHING, passes={**EVERYTHING.passes, PassKind.WATCH: passes(1801, 2)})
    text = page.render(later, Format.TEXT_0_0_4)
    assert writers.since() == ["sockwatch_passes"]
    assert text.decode() == rendered(later, Format.TEXT_0_0_4)


def test_what_has_not_changed_is_not_written_again(writers: Writers) -> None:
    page = Exposition()
    first = page.render(EVERYTHING, OM)
    writers.since()
    assert page.render(EVERYTHING, OM) == first
    assert writers.since() == []


def test_both_text_formats_share_what_is_written(writers: Writers) -> None:
    page = Exposition()
    texts = [page.render(EVERYTHING, fmt) for fmt in TEXT]
    assert texts[0] == texts[1]
    assert len(writers.since()) == len(shown(EVERYTHING))


def test_a_change_of_a_label_alone_is_a_change() -> None:
    page = Exposition()
    for unit in ("a.service", "b.service"):
        text = page.render(snapshot(service(80, unit)), Format.TEXT_0_0_4).decode()
        assert units(text, Format.TEXT_0_0_4) == {unit}


def test_what_is_gone_and_comes_back_is_written_as_it_is_then() -> None:
    page = Exposition()
    steps = [{Unowned.ORPHAN: 1}, None, {Unowned.ORPHAN: 2}]
    texts = [page.render(snapshot(unowned=step), Format.TEXT_0_0_4).decode() for step in steps]
    assert texts == [rendered(snapshot(unowned=step), Format.TEXT_0_0_4) for step in steps]
    assert len({*texts}) == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(Format)), max_size=12))
def test_memory_never_shows(steps: list[tuple[int, Format]]) -> None:
    """Whatever was rendered before, each page is what a fresh exposition makes."""
    page = Exposition()
    for close_wait, fmt in steps:
        taken = snapshot(service(80, close_wait=close_wait))
        assert page.render(taken, fmt).decode() == rendered(taken, fmt)


def test_threads_that_render_at_the_same_time_do_not_mix() -> None:
    page = Exposition()
    hosts = [snapshot(service(port, close_wait=port)) for port in range(1, 5)]
    jobs = [(host, fmt) for host in hosts for fmt in Format] * 5
    with ThreadPoolExecutor(4) as threads:
        texts = [*threads.map(lambda job: page.render(*job).decode(), jobs)]
    assert texts == [rendered(*job) for job in jobs]


def test_memory_is_bounded_by_families_not_by_label_sets() -> None:
    page = Exposition(own)
    for port in range(1, 200):
        for fmt in Format:
            page.render(snapshot(service(port, f"run-{port}.scope")), fmt)
    assert len(page._blocks) <= 2 * (len(families.FAMILIES) + len(own()))
