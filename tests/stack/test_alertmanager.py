"""Routing, grouping and inhibition, as amtool and a real Alertmanager see them."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from alerting.rules import ALERTS, Rule, label, seconds
from alerting.servers import Alertmanager, get
from guards import need_command

pytestmark = pytest.mark.stack

CONFIG: Final = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"
RECEIVERS: Final = {"critical": "pager", "warning": "tickets", "info": "tickets"}
RETENTION: Final = 120 * 3600
"""Seconds for which Alertmanager remembers notifications by default, its --data.retention."""
WITHIN: Final = 20.0
"""Seconds that Alertmanager may take to think about alerts that it got."""

SETTLED: Final = 0.3
"""Seconds after which it would have thought otherwise."""

Labels = dict[str, str]


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = need_command("amtool", "prometheus-alertmanager")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_amtool_accepts_the_configuration() -> None:
    done = amtool("check-config", str(CONFIG))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_remembers_for_long_enough_what_it_need_not_repeat() -> None:
    route = yaml.safe_load(CONFIG.read_text())["route"]
    intervals = [one["repeat_interval"] for one in (route, *route["routes"])]
    assert max(map(seconds, intervals)) < RETENTION


@pytest.mark.parametrize("alert", ALERTS, ids=label)
def test_each_alert_goes_to_whom_it_concerns(alert: Rule) -> None:
    severity = alert["labels"]["severity"]
    labels = (f"alertname={alert['alert']}", f"severity={severity}", "port=8080")
    done = amtool(
        *("config", "routes", "test", f"--config.file={CONFIG}"),
        *(f"--verify.receivers={RECEIVERS[severity]}", *labels),
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    program = need_command("prometheus-alertmanager", "prometheus-alertmanager")
    config = yaml.safe_load(CONFIG.read_text())
    config["receivers"] = [{"name": receiver["name"]} for receiver in config["receivers"]]
    with Alertmanager(tmp_path_factory.mktemp("alertmanager"), program, config) as server:
        yield server


def api(server: Alertmanager, path: str) -> Any:  # noqa: ANN401  JSON
    return json.loads(get(f"http://{server.address}/api/v2/{path}"))


def send(server: Alertmanager, alerts: list[Labels]) -> None:
    body = json.dumps([{"labels": labels} for labels in alerts]).encode()
    url = f"http://{server.address}/api/v2/alerts"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def held_back(server: Alertmanager, alerts: list[Labels]) -> list[bool]:
    """Return for each of the alerts whether it is inhibited."""
    known = {
        frozenset(one["labels"].items()): bool(one["status"]["inhibitedBy"])
        for one in api(server, "alerts")
    }
    return [known.get(frozenset(labels.items()), False) for labels in alerts]


def alert(name: str, severity: str = "warning", **labels: str) -> Labels:
    own = {"alertname": f"Sockwatch{name}", "severity": severity, "job": "sockwatch"}
    return {**own, "instance": "web1:10077", **labels}


WATCH: Final = {"pass": "watch"}
CENSUS: Final = {"pass": "census"}
APP: Final = {"port": "8080", "unit": "app.service", **WATCH}
LEAK: Final = {"direction": "inbound", "state": "close_wait", **APP}
QUEUE: Final = {"address": "0.0.0.0", **APP}
DATABASE: Final = {"destination": "198.51.100.7:5432"}
PAGE: Final = "critical"

# What there is first, and then what of it is to be held back.
CASES: Final[dict[str, tuple[list[Labels], list[Labels]]]] = {
    "of a host that is down nothing is known": (
        [
            alert("Down"),
            alert("CloseWaitLeak", **LEAK, instance="web2:10077"),
            {**alert("Other"), "alertname": "NodeFilesystemFull"},
        ],
        [
            alert("CloseWaitLeak", **LEAK),
            alert("AcceptQueueOverflow", PAGE, **QUEUE),
            alert("Stale", **WATCH),
            alert("LabelSetsFolded", "info"),
        ],
    ),
    "a stale pass knows nothing new of what it measures": (
        [
            alert("Stale", **WATCH),
            alert("EphemeralPortsLow", **DATABASE, **CENSUS),
            alert("PassesFailing", **CENSUS),
            alert("ConfigReloadFailed"),
        ],
        [
            alert("CloseWaitLeak", PAGE, **LEAK),
            alert("SynFlood", **WATCH),
            alert("PassesFailing", **WATCH),
        ],
    ),
    "critical speaks for the same alert": (
        [
            alert("Orphans", PAGE, **WATCH),
            alert("CloseWaitLeak", PAGE, **LEAK),
            alert("CloseWaitLeak", **{**LEAK, "port": "443"}),
            alert("CloseWaitLeak", **LEAK, netns="cni-1"),
            alert("TcpMemory", level="pressure", **WATCH),
        ],
        [alert("Orphans", **WATCH), alert("CloseWaitLeak", **LEAK)],
    ),
    "critical speaks for the same memory": (
        [alert("TcpMemory", PAGE, level="high", **WATCH)],
        [alert("TcpMemory", level="pressure", **WATCH)],
    ),
    "critical speaks for the same service": (
        [
            alert("AcceptQueueOverflow", PAGE, **QUEUE),
            alert("CloseWaitLeak", **{**LEAK, "unit": "other.service"}),
            alert("EphemeralPortsRunOut", **DATABASE, **CENSUS),
        ],
        [
            alert("ConnectionsNotAccepted", direction="inbound", **APP),
            alert("AcceptQueueNearLimit", **QUEUE),
            alert("CloseWaitLeak", **LEAK),
        ],
    ),
    "a proxy has a side to its clients and one to its servers": (
        [
            alert("CloseWaitLeak", PAGE, **{**LEAK, "direction": "outbound"}),
            alert("ConnectionsNotAccepted", direction="inbound", **APP),
            alert("AcceptQueueNearLimit", **QUEUE),
            alert("CloseWaitLevel", **LEAK),
        ],
        [alert("CloseWaitLevel", **{**LEAK, "direction": "outbound"})],
    ),
    "critical speaks for the same destination": (
        [
            alert("EphemeralPortsLow", PAGE, **DATABASE, **CENSUS),
            alert("DestinationNotAnswering", destination="198.51.100.9:443", **WATCH),
            alert("CloseWaitLeak", **LEAK),
        ],
        [
            alert("EphemeralPortsRunOut", **DATABASE, **CENSUS),
            alert("DestinationNotAnswering", **DATABASE, **WATCH),
        ],
    ),
    "warnings speak for nobody": (
        [
            alert("CloseWaitLeak", **LEAK),
            alert("AcceptQueueOverflow", **QUEUE),
            alert("SourceFallback"),
            alert("BudgetExceeded"),
        ],
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_already_or_not_known_is_held_back(
    alertmanager: Alertmanager, case: str
) -> None:
    """Each case has a job of its own, so that they do not meet."""
    told, held = ([{**one, "job": case} for one in alerts] for alerts in CASES[case])
    send(alertmanager, told + held)
    expected = [False] * len(told) + [True] * len(held)
    deadline = time.monotonic() + WITHIN
    while held_back(alertmanager, told + held) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(SETTLED)
    assert held_back(alertmanager, told + held) == expected


def test_a_notification_is_about_one_alert_of_one_service_on_all_its_hosts(
    alertmanager: Alertmanager,
) -> None:
    hosts = [alert("FinWait2Leak", **APP, instance=f"web{number}:10077") for number in (1, 2)]
    others = [alert("FinWait2Leak", **{**APP, other: "1"}) for other in ("port", "unit")]
    send(alertmanager, hosts + others)
    found = groups(alertmanager, "SockwatchFinWait2Leak", 3)
    assert sorted(len(group["alerts"]) for group in found) == [1, 1, 2]
    (common,) = (group["labels"] for group in found if len(group["alerts"]) == 2)
    assert common == {"alertname": "SockwatchFinWait2Leak", "port": "8080", "unit": "app.service"}


def test_a_notification_is_about_one_destination_of_all_hosts(alertmanager: Alertmanager) -> None:
    ends = [f"198.51.100.{number}:5432" for number in (7, 8)]
    hosts = [f"web{number}:10077" for number in (1, 2)]
    places = [{"destination": end, "instance": host} for end in ends for host in hosts]
    send(alertmanager, [alert("SilentEnd", **WATCH, **place) for place in places])
    found = groups(alertmanager, "SockwatchSilentEnd", len(ends))
    told = {group["labels"].get("destination"): len(group["alerts"]) for group in found}
    assert told == dict.fromkeys(ends, len(hosts))


def groups(server: Alertmanager, name: str, number: int) -> list[Any]:
    """Return the groups of an alert as soon as there are so many."""
    deadline = time.monotonic() + WITHIN
    while True:
        found = api(server, "alerts/groups")
        chosen = [group for group in found if group["labels"].get("alertname") == name]
        if len(chosen) >= number or time.monotonic() > deadline:
            return chosen
        time.sleep(0.1)
