"""What is remembered between passes makes each pass a complete view."""

from functools import partial
from pathlib import Path

import pytest
from readings import connected, listening, reading

from sockwatch.config import Config
from sockwatch.kernel.cgroups import REFRESH_AFTER, UnitResolver
from sockwatch.observe.snapshot import ServiceKey
from sockwatch.poll import host as host_module
from sockwatch.poll.figures import REFRESH
from sockwatch.poll.host import Host, timer_laws
from sockwatch.tcp.states import Direction, Family, State
from sockwatch.tcp.timers import TimerLaws

NOW = 100.0
ESTABLISHED = (Family.INET, State.ESTABLISHED)


def outbound(port: int) -> ServiceKey:
    return ServiceKey(Direction.OUTBOUND, str(port), "")


def test_the_newest_census_stays_until_the_next() -> None:
    host = Host()
    one, two = (reading(*[connected(State.ESTABLISHED, 80, 1)] * count) for count in (1, 2))
    watch = reading(census=False)
    taken = [host.take(each, NOW, 1000) for each in (watch, one, watch, watch, two, watch)]
    counts = [view.sockets.get(ESTABLISHED) for view in taken]
    assert counts == [None, 1, 1, 1, 2, 2]


def test_an_empty_census_is_a_census() -> None:
    host = Host()
    host.take(reading(connected(State.ESTABLISHED, 80, 1)), NOW, 1000)
    assert host.take(reading(), NOW, 1000).sockets[ESTABLISHED] == 0
    assert host.take(reading(census=False), NOW, 1000).sockets[ESTABLISHED] == 0


def test_a_view_does_not_change_when_the_next_is_taken() -> None:
    host = Host()
    first = host.take(reading(listening(80), connected(State.ESTABLISHED, 80, 1)), NOW, 1000)
    before = (dict(first.sockets), {key: dict(states) for key, states in first.services.items()})
    host.take(reading(listening(80), *[connected(State.CLOSE_WAIT, 80, 1)] * 9), NOW, 1000)
    after = (dict(first.sockets), {key: dict(states) for key, states in first.services.items()})
    assert after == before


def test_services_that_are_shown_stay_shown_at_the_limit() -> None:
    host = Host()
    ports = range(1, 11)
    equal = reading(*(connected(State.ESTABLISHED, 50000, port) for port in ports))
    shown = set(host.take(equal, NOW, 5).services)
    for grown in ports:
        more = [*ports, grown]
        found = host.take(
            reading(*(connected(State.ESTABLISHED, 50000, port) for port in more)), NOW, 5
        )
        assert set(found.services) == shown


def test_another_limit_holds_from_the_next_pass_on() -> None:
    host = Host()
    ten = reading(*(connected(State.ESTABLISHED, 50000, port) for port in range(1, 11)))
    assert [host.take(ten, NOW, limit).folded for limit in (20, 3, 20)] == [0, 7, 0]
    assert set(host.take(ten, NOW, 20).services) == {*map(outbound, range(1, 11))}


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the cgroup2 mount."""
    folder, mountinfo = tmp_path / "cgroup", tmp_path / "mountinfo"
    folder.mkdir()
    mountinfo.write_text(f"41 31 0:38 / {folder} rw - cgroup2 cgroup2 rw\n")
    monkeypatch.setattr(host_module, "UnitResolver", partial(UnitResolver, mountinfo))
    return folder


def test_units_are_named_and_new_ones_looked_for_as_time_goes_by(mount: Path) -> None:
    (mount / "web.service").mkdir()
    host = Host()
    web = (mount / "web.service").stat().st_ino
    (first,) = host.take(reading(listening(80, cgroup=web)), NOW, 1000).listeners
    assert first.unit == "web.service"
    (mount / "late.service").mkdir()
    late = (mount / "late.service").stat().st_ino
    units = [
        host.take(reading(listening(81, cgroup=late)), now, 1000).listeners[0].unit
        for now in (NOW + 1, NOW + REFRESH_AFTER)
    ]
    assert units == ["", "late.service"]


@pytest.mark.parametrize(
    ("sysctls", "laws"),
    [
        ({"tcp_syn_retries": "6", "tcp_syn_linear_timeouts": "2"}, TimerLaws(2)),
        ({"tcp_syn_retries": "6", "tcp_syn_linear_timeouts": "0"}, TimerLaws(0)),
        ({"tcp_syn_retries": "6"}, TimerLaws(0)),
        ({}, TimerLaws(4)),
        ({"tcp_syn_retries": "6", "tcp_fin_timeout": "30"}, TimerLaws(0, 30.0)),
        ({"tcp_syn_retries": "6", "tcp_rto_max_ms": "5000"}, TimerLaws(0, 60.0, 5.0)),
    ],
    ids=["6.5, set", "6.5, none", "before 6.5", "hidden", "fin_timeout", "rto_max"],
)
def test_what_sysctls_make_of_timers(
    sysctls: dict[str, str], laws: TimerLaws, tmp_path: Path
) -> None:
    """Where all are hidden nobody knows the kernel: an age may be too low, but not too high."""
    folder = tmp_path / "net/ipv4"
    folder.mkdir(parents=True)
    for name, value in sysctls.items():
        (folder / name).write_text(f"{value}\n")
    assert timer_laws(tmp_path) == laws


def test_sysctls_may_change_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = TimerLaws(fin_timeout=60.0), TimerLaws(fin_timeout=30.0)
    laws = before
    monkeypatch.setattr(host_module, "timer_laws", lambda: laws)
    host = Host()
    assert host.follower(NOW, 1.0, Config()).laws == before
    laws = after
    assert host.follower(NOW + REFRESH - 1, 1.0, Config()).laws == before
    assert host.follower(NOW + REFRESH, 1.0, Config()).laws == after
