"""What must come of the play: which alert, where, and when at the latest."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from alerting import rules, scenes
from alerting.drama import FACTOR, Moment, Told


class Scene(NamedTuple):
    """An alert that must come, and where."""

    alert: str
    severity: str
    host: str
    after: float
    """Minutes from the cause to the notification, as shipped."""
    cause: str
    labels: Mapping[str, str] = MappingProxyType({})
    command: str = "sockwatch report"
    since: Moment = Moment.BEGAN

    @property
    def selector(self) -> dict[str, str]:
        own = {"alertname": f"Sockwatch{self.alert}", "severity": self.severity}
        return {**own, "instance": self.host, **self.labels}

    @property
    def label(self) -> str:
        return f"{self.alert}-{self.severity}-{self.host}"

    @property
    def held(self) -> float:
        """Minutes for which the condition must hold, as shipped."""
        own = (f"Sockwatch{self.alert}", self.severity)
        (rule,) = (one for one in rules.ALERTS if (one["alert"], one["labels"]["severity"]) == own)
        return rules.seconds(rule["for"]) / 60


def _inbound(port: int, **labels: str) -> dict[str, str]:
    return {"direction": "inbound", "port": f"{port}", **labels}


def _listener(port: int) -> dict[str, str]:
    return {"address": scenes.HERE, "port": f"{port}"}


def _toward(port: int) -> dict[str, str]:
    return {"destination": f"{scenes.HERE}:{port}"}


_LEAKY: Final = _inbound(scenes.LEAK, unit="leaky.service", state="close_wait")
_UNIT: Final = "--port 8001 --unit 'leaky.service'"
ENDING: Final = (
    Scene(
        "CloseWaitLeak",
        "critical",
        "leaky",
        13,
        "4 connections a second are never closed",
        _LEAKY,
        f"leaks --state close_wait {_UNIT}",
    ),
    Scene(
        "FinWait2Leak",
        "warning",
        "clogged",
        16.5,
        "25 connections are shut down by half and kept, their clients are gone",
        _inbound(scenes.HALF_CLOSED, state="fin_wait2"),
        "sockwatch leaks --state fin_wait2 --port 8002",
    ),
    Scene(
        "ConnectionsNotAccepted",
        "warning",
        "clogged",
        6.5,
        "19 connections wait for accept() in a queue of 20",
        _inbound(scenes.STANDING),
        "sockwatch leaks --port 8005",
    ),
    Scene(
        "AcceptQueueNearLimit",
        "warning",
        "clogged",
        6.5,
        "the same",
        _listener(scenes.STANDING),
    ),
    Scene(
        "AcceptQueueOverflow",
        "warning",
        "clogged",
        9,
        "bursts of 20 come to a queue of 8, which is emptied in between",
        _listener(scenes.BURSTY),
    ),
    Scene(
        "AcceptQueueOverflow",
        "critical",
        "clogged",
        10,
        "3 clients a second come to a full queue of 8",
        _listener(scenes.ASLEEP),
    ),
    Scene(
        "SynQueueOverflow",
        "warning",
        "small",
        7,
        "half-open connections fill a backlog of 16, four times as many are finished",
        _listener(scenes.SMALL),
    ),
    Scene(
        "SynFlood",
        "warning",
        "flooded",
        8,
        "30 handshakes a second are never finished",
    ),
    Scene(
        "DestinationNotAnswering",
        "warning",
        "clogged",
        6.5,
        "5 connections go to a port behind a filter",
        _toward(scenes.BLACK_HOLE),
        "sockwatch leaks --state syn_sent --port 8004",
    ),
    Scene(
        "EphemeralPortsLow",
        "critical",
        "crowded",
        5,
        "90 of 100 ports are in use toward a destination",
        _toward(scenes.CROWDED),
    ),
    Scene(
        "EphemeralPortsLow",
        "warning",
        "crowded",
        30.5,
        "20 of 100 ports are in use toward a destination, and ever more",
        _toward(scenes.FILLING),
        since=Moment.LATER,
    ),
    Scene(
        "EphemeralPortsRunOut",
        "warning",
        "crowded",
        13.5,
        "the same",
        _toward(scenes.FILLING),
        since=Moment.LATER,
    ),
    Scene(
        "TimeWaitOverflow",
        "warning",
        "clogged",
        11,
        "20 connections a second are closed, tcp_max_tw_buckets is 20",
    ),
    Scene(
        "HiddenSocketsGrowing",
        "warning",
        "seeing",
        39,
        "8 connections a second are reset and kept open",
        command="sockwatch leaks",
        since=Moment.LATER,
    ),
    Scene(
        "CloseWaitLevel",
        "warning",
        "plain",
        19,
        "110 connections are never closed, and only psutil looks",
        {"port": f"{scenes.LEAK}"},
        "ss -tnp state close-wait",
    ),
    Scene("SourceFallback", "warning", "plain", 12, "psutil is configured"),
    Scene(
        "Stale",
        "warning",
        "blinded",
        6,
        "every pass fails: no netlink, then no /proc/net",
        {"pass": "watch"},
        since=Moment.BLINDED,
    ),
    Scene(
        "PassesFailing",
        "warning",
        "dim",
        13,
        "a quarter of the time passes fail",
        {"pass": "watch"},
        since=Moment.BLINDED,
    ),
    Scene(
        "IntervalsStretched",
        "warning",
        "misfit",
        11,
        "a budget of a thousandth of a core",
    ),
    Scene(
        "LabelSetsFolded",
        "info",
        "misfit",
        31.5,
        "two services, series limit 1",
    ),
    Scene(
        "ConfigReloadFailed",
        "warning",
        "misfit",
        8,
        "SIGHUP with a misspelt key",
        command="sockwatch check-config",
        since=Moment.LATER,
    ),
    Scene(
        "Down",
        "warning",
        "frozen",
        6,
        "the daemon gets SIGSTOP",
        command="systemctl status sockwatch",
    ),
)
STAYING: Final = Scene(
    "CloseWaitLeak",
    "warning",
    "lost",
    16.5,
    "25 connections are never closed",
    _LEAKY,
    f"leaks --state close_wait {_UNIT}",
)
"""The daemon of this host is killed while its leak goes on."""
DOWN: Final = Scene(
    "Down",
    "warning",
    "lost",
    6,
    "the daemon is killed",
    command="systemctl status sockwatch",
    since=Moment.ENDED,
)
BESIDE: Final = {
    ("SockwatchCloseWaitLeak", "leaky"),  # the warning, too
    ("SockwatchConnectionsNotAccepted", "clogged"),  # also on the port whose queue overflows
    ("SockwatchAcceptQueueNearLimit", "clogged"),
    ("SockwatchDestinationNotAnswering", "clogged"),  # nor does that port answer
    ("SockwatchEphemeralPortsLow", "crowded"),
    ("SockwatchPassesFailing", "blinded"),
    ("SockwatchCloseWaitLevel", "blinded"),
    ("SockwatchSourceFallback", "blinded"),
    ("SockwatchSourceFallback", "dim"),
}
"""What is true as well: alert and host."""


SCENES: Final = (*ENDING, STAYING, DOWN)
_HEADINGS: Final = (
    "alert",
    "severity",
    "what happens",
    "told after, in the test",
    "as shipped",
    "resolved after the end, as shipped",
)


def table(told: Told) -> str:
    """Times from cause to notification as a Markdown table."""
    rows = [_HEADINGS, ("---",) * 3 + ("---:",) * 3, *(_row(told, scene) for scene in SCENES)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(told: Told, scene: Scene) -> tuple[str, ...]:
    seen, gone = (told.about(status, **scene.selector) for status in ("firing", "resolved"))
    after = seen[0].at - told.moments[scene.since] if seen else None
    resolved = gone[0].at - told.ended if gone else None
    return (
        f"Sockwatch{scene.alert}",
        scene.severity,
        scene.cause,
        "" if after is None else f"{after:.0f} s",
        "" if after is None else f"{after * FACTOR / 60:.0f} min",
        "" if resolved is None else f"{resolved * FACTOR / 60:.0f} min",
    )
