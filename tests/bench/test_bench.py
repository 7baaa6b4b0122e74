"""What the benchmark makes of what it has measured."""

from __future__ import annotations

from pathlib import Path

import bench
import pytest
from bench import JUDGED_FROM, LIMITS, Limit, look_at_daemon, missed
from served import Latency, Load, Memory
from table import Bound, Line, markdown, markdown_of_bounds

ESTABLISHED = LIMITS[0]


def line(limit: Limit, share: float) -> Line:
    """A look that takes such a share of what it may."""
    ratio = limit.ratio * share
    return Line(limit.population, JUDGED_FROM, limit.look, 0.1, 0.1, peak_rss=None, ratio=ratio)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_ratio_that_is_missed_is_told(limit: Limit) -> None:
    met, over = line(limit, 0.99), line(limit, 1.01)
    (sentence,) = missed([met, over])
    assert f"{over.ratio:.2f} x" in sentence
    assert not [*missed([over], slack=1.1)]
    assert not [*missed([over._replace(look="ss -tan")])]


def test_small_populations_are_only_judged_where_that_is_asked() -> None:
    small = line(ESTABLISHED, 2.0)._replace(sockets=JUDGED_FROM - 1)
    assert not [*missed([small])]
    assert len([*missed([small], judged_from=small.sockets)]) == 1


SCRAPES = Bound("scrapes", 49.0, "ms", 50)


@pytest.mark.parametrize("share", [0.9, 1.1])
@pytest.mark.parametrize("bounds", [[SCRAPES], [SCRAPES, SCRAPES._replace(value=51.0)]])
def test_the_benchmark_fails_when_anything_is_missed(
    share: float,
    bounds: list[Bound],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["bench.py"])
    monkeypatch.setattr(bench, "look_at_passes", lambda *_, **__: [line(ESTABLISHED, share)])
    monkeypatch.setattr(bench, "look_at_daemon", lambda _: bounds)
    failed = share > 1 or len(bounds) > 1
    assert bench.main() == failed
    assert ("every bound is met" in capsys.readouterr().out) is not failed


def test_what_was_measured_is_written_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [line(ESTABLISHED, 0.9)]
    monkeypatch.setattr(bench, "DOCUMENTATION", tmp_path)
    monkeypatch.setattr(bench, "look_at_passes", lambda *_, **__: looks)
    monkeypatch.setattr(bench, "look_at_daemon", lambda _: [SCRAPES])
    monkeypatch.setattr("sys.argv", ["bench.py"])
    bench.main()
    assert not [*tmp_path.iterdir()]
    monkeypatch.setattr("sys.argv", ["bench.py", "--write"])
    bench.main()
    assert (tmp_path / "table.md").read_text() == markdown(looks)
    assert (tmp_path / "daemon.md").read_text() == markdown_of_bounds([SCRAPES])
    assert "100,000 established sockets" in (tmp_path / "cost.svg").read_text()


def daemon_measures(
    monkeypatch: pytest.MonkeyPatch,
    *,
    rendering: float = 0.020,
    median: float = 0.002,
    p99: float = 0.050,
    growth: float = 10e6,
    rate: float = 500.0,
    loaded: float = 1.1,
) -> None:
    """Have the daemon take just what it may, or more of one thing."""
    memory, latency = Memory(0, int(growth)), Latency(median, p99)
    monkeypatch.setattr(bench, "rendering", lambda _: {"new": rendering})
    monkeypatch.setattr(bench, "under", lambda *_: (memory, latency))
    monkeypatch.setattr(bench, "load", lambda *_: Load(rate, 1.0, loaded))


def test_a_daemon_within_all_bounds_has_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon_measures(monkeypatch)
    assert all(bound.met for bound in look_at_daemon([100_000]))


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"rendering": 0.021}, "rendering 2,000 series, new: 21.0 ms"),
        ({"median": 0.003}, "scrape, median: 3.0 ms"),
        ({"p99": 0.051}, "scrape, 99th percentile: 51.0 ms"),
        ({"growth": 11e6}, "RSS above idle: 11.0 MB"),
        ({"growth": 81e6}, "200,000 stuck: RSS above idle: 81.0 MB"),
        ({"rate": 450.0}, "500 requests per second on 32 connections: not answered: 10.0 %"),
        ({"loaded": 1.2}, "CPU of a watch pass, as a multiple: 1.2 x"),
    ],
    ids=str,
)
def test_what_the_daemon_misses_is_told(
    over: dict[str, float], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon_measures(monkeypatch, **over)
    missed = [f"{bound}" for bound in look_at_daemon([100_000]) if not bound.met]
    assert any(told in sentence for sentence in missed)
