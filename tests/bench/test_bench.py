"""What the benchmark makes of what it has measured."""

from __future__ import annotations

import bench
import pytest
from bench import JUDGED_FROM, LIMITS, Limit, missed
from table import Line


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
    small = line(LIMITS[0], 2.0)._replace(sockets=JUDGED_FROM - 1)
    assert not [*missed([small])]
    assert len([*missed([small], judged_from=small.sockets)]) == 1


@pytest.mark.parametrize("share", [0.9, 1.1])
@pytest.mark.parametrize("problems", [[], ["scrapes are slow"]])
def test_the_benchmark_fails_when_anything_is_missed(
    share: float,
    problems: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["bench.py"])
    monkeypatch.setattr(bench, "look_at_passes", lambda *_, **__: [line(LIMITS[0], share)])
    monkeypatch.setattr(bench, "look_at_daemon", lambda _: problems)
    failed = share > 1 or bool(problems)
    assert bench.main() == failed
    assert ("every bound is met" in capsys.readouterr().out) is not failed
