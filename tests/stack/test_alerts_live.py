"""Real trouble, seen by the real daemon, reaches a receiver through Prometheus and Alertmanager.

Everything shipped runs thirty times as fast (see `alerting.shorten`); the play is `alerting.drama`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from alerting import drama, scenes
from alerting.drama import FACTOR, Told
from alerting.servers import PROMETHEUS_3, Alert, of_version_3
from guards import need, need_command, need_kernel_diag, need_namespaces
from own_cgroups import Cgroups, writable

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]

DEBIAN, NEWER = "of Debian", "3"
LATE = 15.0
"""Seconds that a notification may come later than planned; the machine is shared."""
GROUP_INTERVAL = 10.0
"""Seconds for which Alertmanager, shortened, waits with news of a group it has told of."""


class Scene(NamedTuple):
    """An alert that must come, and where."""

    alert: str
    severity: str
    host: str
    after: float
    """Minutes from the cause to the notification, as shipped."""
    labels: Mapping[str, str] = MappingProxyType({})
    command: str = "sockwatch report"

    @property
    def selector(self) -> dict[str, str]:
        own = {"alertname": f"Sockwatch{self.alert}", "severity": self.severity}
        return {**own, "instance": self.host, **self.labels}


def inbound(port: int, **labels: str) -> dict[str, str]:
    return {"direction": "inbound", "port": f"{port}", **labels}


def listener(port: int) -> dict[str, str]:
    return {"address": scenes.HERE, "port": f"{port}"}


def toward(port: int) -> dict[str, str]:
    return {"destination": f"{scenes.HERE}:{port}"}


LEAKY = inbound(scenes.LEAK, unit="leaky.service", state="close_wait")
UNIT = "--port 8001 --unit 'leaky.service'"
ENDING = (
    Scene("CloseWaitLeak", "critical", "leaky", 13, LEAKY, f"leaks --state close_wait {UNIT}"),
    Scene(
        "FinWait2Leak",
        "warning",
        "clogged",
        16.5,
        inbound(scenes.HALF_CLOSED, state="fin_wait2"),
        "sockwatch leaks --state fin_wait2 --port 8002",
    ),
    Scene(
        "ConnectionsNotAccepted",
        "warning",
        "clogged",
        6.5,
        inbound(scenes.STANDING),
        "sockwatch leaks --port 8005",
    ),
    Scene("AcceptQueueNearLimit", "warning", "clogged", 6.5, listener(scenes.STANDING)),
    Scene("AcceptQueueOverflow", "warning", "clogged", 9, listener(scenes.BURSTY)),
    Scene("AcceptQueueOverflow", "critical", "clogged", 10, listener(scenes.ASLEEP)),
    Scene("SynQueueOverflow", "warning", "small", 7, listener(scenes.SMALL)),
    Scene("SynFlood", "warning", "flooded", 8),
    Scene(
        "DestinationNotAnswering",
        "warning",
        "clogged",
        6.5,
        toward(scenes.BLACK_HOLE),
        "sockwatch leaks --state syn_sent --port 8004",
    ),
    Scene("EphemeralPortsLow", "critical", "crowded", 5, toward(scenes.CROWDED)),
    Scene("EphemeralPortsLow", "warning", "crowded", 27, toward(scenes.FILLING)),
    Scene("EphemeralPortsRunOut", "warning", "crowded", 14, toward(scenes.FILLING)),
    Scene("TimeWaitOverflow", "warning", "clogged", 11),
    Scene(
        "CloseWaitLevel",
        "warning",
        "plain",
        19,
        {"port": f"{scenes.LEAK}"},
        "ss -tnp state close-wait",
    ),
    Scene("SourceFallback", "warning", "plain", 12),
    Scene("IntervalsStretched", "warning", "misfit", 11),
    Scene("LabelSetsFolded", "info", "misfit", 31.5),
    Scene("ConfigReloadFailed", "warning", "misfit", 8, command="sockwatch check-config"),
)
STAYING = Scene("CloseWaitLeak", "warning", "lost", 16.5, LEAKY, f"leaks --state close_wait {UNIT}")
"""The daemon of this host is killed while its leak goes on."""
DOWN = Scene("Down", "warning", "lost", 6, command="systemctl status sockwatch")
BESIDE = {
    ("SockwatchCloseWaitLeak", "leaky"),  # the warning, too
    ("SockwatchConnectionsNotAccepted", "clogged"),  # also on the port whose queue overflows
    ("SockwatchAcceptQueueNearLimit", "clogged"),
    ("SockwatchDestinationNotAnswering", "clogged"),  # nor does that port answer
    ("SockwatchEphemeralPortsLow", "crowded"),
}
"""What is true as well: alert and host."""

each_ending = pytest.mark.parametrize(
    "scene", ENDING, ids=lambda scene: f"{scene.alert}-{scene.severity}"
)


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
    programs = {DEBIAN: need_command("prometheus", "prometheus")}
    if newer := of_version_3("prometheus"):
        programs[NEWER] = newer
    alertmanager = need_command("prometheus-alertmanager", "prometheus-alertmanager")
    return drama.play(tmp_path_factory.mktemp("drama"), programs, alertmanager, unit)


@pytest.fixture(
    params=[
        DEBIAN,
        pytest.param(
            NEWER, marks=pytest.mark.may_skip_in_ci("Debian 12 has no Prometheus 3; it is extra")
        ),
    ]
)
def told(everything: dict[str, Told], request: pytest.FixtureRequest) -> Told:
    need(request.param in everything, f"needs a folder with a Prometheus 3 in {PROMETHEUS_3}")
    return everything[request.param]


def first(told: Told, status: str, scene: Scene) -> Alert:
    found = told.about(status, **scene.selector)
    assert found, f"nobody was told: {status} {scene.selector}"
    return found[0]


def test_all_rules_evaluate(told: Told) -> None:
    assert told.unhealthy == {}


@pytest.mark.parametrize(
    "scene", [*ENDING, STAYING], ids=lambda scene: f"{scene.alert}-{scene.severity}-{scene.host}"
)
def test_the_alert_reaches_the_receiver_with_its_labels_in_time(told: Told, scene: Scene) -> None:
    alert = first(told, "firing", scene)
    assert alert.receiver == ("pager" if scene.severity == "critical" else "tickets")
    assert scene.command in alert.annotations["description"]
    assert alert.annotations["runbook_url"].endswith(f"/Sockwatch{scene.alert}")
    planned = 60 * scene.after / FACTOR
    assert alert.at - told.began < planned + GROUP_INTERVAL + LATE


@each_ending
def test_it_is_resolved_after_the_cause_has_ended(told: Told, scene: Scene) -> None:
    assert first(told, "resolved", scene).at > told.ended


@each_ending
def test_nothing_else_ends_it(told: Told, scene: Scene) -> None:
    """On the host that leaks the daemon is killed meanwhile, and has forgotten all ages."""
    ends = [alert.at for alert in told.about("resolved", **scene.selector)]
    assert [at for at in ends if at < told.ended] == []


def test_nothing_else_fires(told: Told) -> None:
    wanted = {(f"Sockwatch{scene.alert}", scene.host) for scene in (*ENDING, STAYING, DOWN)}
    fired = {(labels["alertname"], labels["instance"]) for labels in told.fired}
    assert fired - wanted - BESIDE == set()


def test_over_healthy_hosts_nothing_fires(told: Told) -> None:
    """Idle pools (I21), late closing under load (I22), short connections, two restarts."""
    assert [labels for labels in told.fired if labels["instance"] == "healthy"] == []
    assert [alert for alert in told.alerts if alert.labels["instance"] == "healthy"] == []


def test_a_daemon_that_is_gone_is_told_and_holds_back_what_it_can_no_longer_know(
    told: Told,
) -> None:
    assert first(told, "firing", DOWN).at - told.ended < 60 * DOWN.after / FACTOR + LATE
    assert told.about("resolved", **STAYING.selector) == []


def test_critical_holds_the_warning_of_the_same_service_back(told: Told) -> None:
    leak = {"instance": "leaky", "alertname": "SockwatchCloseWaitLeak"}
    both = {labels["severity"] for labels in told.fired if leak.items() <= labels.items()}
    assert both == {"critical", "warning"}
    severities = {alert.labels["severity"] for alert in told.about("firing", **leak)}
    assert severities == {"critical"}


def test_a_notification_is_about_one_service(told: Told) -> None:
    for alert in told.alerts:
        own = {name: alert.labels.get(name) for name in ("alertname", "port", "unit")}
        assert alert.group == {name: value for name, value in own.items() if value is not None}
