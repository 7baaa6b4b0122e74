"""Real trouble, seen by the real daemon, reaches a receiver through Prometheus and Alertmanager.

Everything shipped runs thirty times as fast (see `alerting.shorten`); the play is `alerting.drama`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import seccomp
from alerting import drama, playbill
from alerting.drama import FACTOR, Told
from alerting.playbill import BESIDE, DOWN, ENDING, SCENES, STAYING, Scene
from alerting.servers import PROMETHEUS_3, Alert, of_version_3
from guards import need, need_command, need_kernel_diag, need_namespaces
from own_cgroups import Cgroups, writable

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]

DEBIAN, NEWER = "of Debian", "3"
LATE = 15.0
"""Seconds that a notification may come later than planned; the machine is shared."""
GROUP_INTERVAL = 10.0
"""Seconds for which Alertmanager, shortened, waits with news of a group it has told of."""
MOST_FAILED = 0.005
"""Share of scrapes; Alertmanager and the daemons then do not get their time either."""
JUMP = 20
"""Hidden sockets that do not go by themselves; the scene only makes more."""
TIMES = "ALERT_TIMES"
"""Environment variable: a file for the table of times, one for each Prometheus."""

HIDDEN = "HiddenSocketsGrowing"
SHARED = pytest.mark.may_skip_in_ci(
    "hidden sockets are those of the whole machine: what tests before this one left in network "
    "namespaces may end meanwhile, and the growth cannot be told"
)


def each(scenes: Iterable[Scene]) -> pytest.MarkDecorator:
    marks = {HIDDEN: [SHARED]}
    return pytest.mark.parametrize(
        "scene",
        [pytest.param(one, id=one.label, marks=marks.get(one.alert, [])) for one in scenes],
    )


each_scene = each(SCENES)
each_ending = each(ENDING)


@pytest.fixture(scope="module")
def unit() -> Iterator[Path]:
    """A cgroup as systemd makes one for a service."""
    need(writable(), "needs a writable cgroup2 mount")
    cgroups = Cgroups()
    yield cgroups.make(f"sockwatch-test-{os.getpid()}.slice/leaky.service")
    cgroups.remove()


@pytest.fixture(scope="module")
def everything(unit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """What each Prometheus made of the play; there is one performance for all."""
    need_namespaces()
    need_kernel_diag()
    need_command("nft", "nftables")
    need(seccomp.is_known(), "needs a seccomp filter for this machine")
    programs = {DEBIAN: need_command("prometheus", "prometheus")}
    if newer := of_version_3("prometheus"):
        programs[NEWER] = newer
    alertmanager = need_command("prometheus-alertmanager", "prometheus-alertmanager")
    found = drama.play(tmp_path_factory.mktemp("drama"), programs, alertmanager, unit)
    if file := os.environ.get(TIMES):
        tables = (f"{name}\n\n{playbill.table(told)}" for name, told in found.items())
        Path(file).write_text("\n".join(tables))
    return found


@pytest.fixture(
    params=[
        DEBIAN,
        pytest.param(
            NEWER, marks=pytest.mark.may_skip_in_ci("Debian 12 has no Prometheus 3; it is extra")
        ),
    ]
)
def told(everything: dict[str, Told], request: pytest.FixtureRequest) -> Told:
    need(
        request.param in everything,
        f"needs Prometheus 3 on PATH or a folder with it in {PROMETHEUS_3}",
    )
    told = everything[request.param]
    need(
        told.failed < MOST_FAILED,
        f"needs a machine with time for it: {told.failed:.1%} of scrapes fail",
    )
    return told


def first(told: Told, status: str, scene: Scene) -> Alert:
    if scene.alert == HIDDEN:
        need(told.hidden != [], "needs to see all processes of the machine")
        falls = (before - after for before, after in pairwise(told.hidden))
        need(max(falls) < JUMP, "needs a machine on which nobody else opens very many sockets")
    found = told.about(status, **scene.selector)
    assert found, f"nobody was told: {status} {scene.selector}"
    return found[0]


def test_all_rules_evaluate(told: Told) -> None:
    assert told.unhealthy == {}


@each_scene
def test_the_alert_reaches_the_receiver_with_its_labels(told: Told, scene: Scene) -> None:
    alert = first(told, "firing", scene)
    assert alert.receiver == ("pager" if scene.severity == "critical" else "tickets")
    assert scene.command in alert.annotations["description"]
    assert alert.annotations["runbook_url"].endswith(f"/Sockwatch{scene.alert}")


@each_scene
def test_it_comes_when_its_rule_says(told: Told, scene: Scene) -> None:
    earliest = 60 * scene.held / FACTOR
    latest = 60 * scene.after / FACTOR + GROUP_INTERVAL + LATE
    assert earliest < first(told, "firing", scene).at - told.moments[scene.since] < latest


@each_ending
def test_it_is_resolved_after_the_cause_has_ended(told: Told, scene: Scene) -> None:
    assert first(told, "resolved", scene).at > told.ended


@each_ending
def test_nothing_else_ends_it(told: Told, scene: Scene) -> None:
    """On the host that leaks the daemon is killed meanwhile, and has forgotten all ages."""
    ends = [alert.at for alert in told.about("resolved", **scene.selector)]
    assert [at for at in ends if at < told.ended] == []


def test_nothing_else_fires(told: Told) -> None:
    wanted = {(f"Sockwatch{scene.alert}", scene.host) for scene in SCENES}
    fired = {(labels["alertname"], labels["instance"]) for labels in told.fired}
    assert fired - wanted - BESIDE == set()


def test_over_healthy_hosts_nothing_fires(told: Told) -> None:
    """Idle pools (I21), late closing under load (I22), load, short connections, two restarts."""
    assert [labels for labels in told.fired if labels["instance"] == "healthy"] == []
    assert [alert for alert in told.alerts if alert.labels["instance"] == "healthy"] == []


def test_a_daemon_that_is_gone_holds_back_what_it_can_no_longer_know(told: Told) -> None:
    assert told.about("firing", **DOWN.selector)
    assert told.about("resolved", **STAYING.selector) == []


@pytest.mark.parametrize("alert", ["SockwatchCloseWaitLevel", "SockwatchPassesFailing"])
def test_a_stale_pass_holds_back_what_it_can_no_longer_know(told: Told, alert: str) -> None:
    assert any(alert == one["alertname"] for one in told.fired if one["instance"] == "blinded")
    held_back = told.about("firing", alertname=alert, instance="blinded")
    assert [one for one in held_back if one.at < told.ended] == []


def test_critical_holds_the_warning_of_the_same_service_back(told: Told) -> None:
    leak = {"instance": "leaky", "alertname": "SockwatchCloseWaitLeak"}
    both = {labels["severity"] for labels in told.fired if leak.items() <= labels.items()}
    assert both == {"critical", "warning"}
    before = [alert for alert in told.about("firing", **leak) if alert.at < told.ended]
    assert {alert.labels["severity"] for alert in before} == {"critical"}


def test_a_notification_is_about_one_service_or_destination(told: Told) -> None:
    by = ("alertname", "port", "unit", "destination")
    for alert in told.alerts:
        own = {name: alert.labels.get(name) for name in by}
        assert alert.group == {name: value for name, value in own.items() if value is not None}
