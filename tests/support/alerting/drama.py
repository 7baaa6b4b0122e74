"""The whole play: hosts with every trouble, what watches them, and what it told.

Theory of operation. All scenes go on at the same time, each at a host of its own where it would
disturb another. After the time in which every alert must have come the causes end, and after the
time in which every one must be resolved the play is over. Tests then read what the receiver got.
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from alerting import rules, scenes, shorten
from alerting.hosts import Host
from alerting.servers import Alert, Alertmanager, Json, Prometheus, Receiver

FACTOR: Final = 30
"""An hour is two minutes."""
PROLOGUE: Final = 5.0
"""Seconds in which nothing happens yet, which alerts that look for growth compare with."""
ACT: Final = 72.0
"""Seconds for every alert to come: folded services, the slowest, take half an hour."""
EPILOGUE: Final = 45.0
"""Seconds for every alert to be resolved: windows and keep_firing_for take up to 18 minutes."""
ALERTMANAGER: Final = Path(__file__).parents[3] / "deploy" / "alertmanager" / "alertmanager.yml"


class Told(NamedTuple):
    """What a Prometheus and its Alertmanager made of it; monotonic times."""

    alerts: list[Alert]
    """What the receiver got, in order."""
    began: float
    ended: float
    """Of the causes, but for the host whose daemon was killed then."""
    unhealthy: dict[str, str]
    """The rules that did not evaluate."""
    fired: list[dict[str, str]]
    """Labels of the alerts that fired at any time."""

    def about(self, status: str, **labels: str) -> list[Alert]:
        """What was told of alerts with these labels."""
        return [
            alert
            for alert in self.alerts
            if alert.status == status and labels.items() <= alert.labels.items()
        ]


class Cast:
    """The hosts by name."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self.hosts: dict[str, Host] = {}
        self.config = folder / "misfit.toml"
        self.config.write_text(MISFIT)
        self.leaky = self._host("leaky")
        self.lost = self._host("lost")
        self.clogged = self._host("clogged", **{"net.ipv4.tcp_max_tw_buckets": 20})
        self.crowded = self._host("crowded", **FEW_PORTS)
        self.flooded = self._host("flooded")
        self.small = self._host("small")
        self.plain = self._host("plain")
        self.misfit = self._host("misfit")
        self.healthy = self._host("healthy")
        self.clogged.namespace.filter(scenes.NO_ANSWER)
        for host in (self.flooded, self.small):
            host.namespace.filter(scenes.ONLY_SYN)

    def _host(self, name: str, **sysctls: int | str) -> Host:
        flags = shorten.flags(FACTOR)
        if name == "misfit":
            flags = [flag for flag in flags if "budget" not in flag]
            flags.append(f"--config.file={self.config}")
        host = Host(name, self._folder, *flags, sysctls=sysctls)
        self.hosts[name] = self._stack.enter_context(host)
        return host

    def begin(self, unit: Path) -> None:
        """Let all trouble begin, and what is none."""
        self.leaky.play(scenes.leaks, 4, 600, unit=unit)
        self.lost.play(scenes.leaks, 20, 25, unit=unit)
        self.clogged.play(scenes.half_closes, 25)
        self.clogged.play(scenes.sleeps, 8, 3)
        self.clogged.play(scenes.stands, 20, 19)
        self.clogged.play(scenes.stutters, 8, 20)
        self.clogged.play(scenes.asks_in_vain, 5)
        self.clogged.play(scenes.churns, 20)
        self.crowded.play(scenes.crowds, 90)
        self.crowded.play(scenes.fills, 20, 1, 80)
        self.flooded.play(scenes.floods, 16, 30)
        self.small.play(scenes.overflows, 16, 20)
        self.plain.restart(signal.SIGTERM, "--source.prefer=psutil", "--census.interval=1s")
        self.plain.play(scenes.leaks, 50, 110)
        self.misfit.play(scenes.pools, 2)
        self.misfit.play(scenes.churns, 5)
        self.config.write_text("[watch]\nintervall = '1s'\n")
        self.misfit.reload()
        self.healthy.play(scenes.pools, 2)
        self.healthy.play(scenes.is_slow, 30, 20 / FACTOR, 2)
        self.healthy.play(scenes.churns, 50)

    def end(self) -> None:
        """Let all trouble end, but for the host whose daemon is gone."""
        for host in (self.leaky, self.clogged, self.crowded, self.flooded, self.small, self.plain):
            host.finish()
        self.plain.restart(signal.SIGTERM)
        self.config.write_text("[cpu]\nbudget = 0\n")
        self.misfit.reload()


FEW_PORTS: Final[dict[str, int | str]] = {
    "net.ipv4.ip_local_port_range": "40000 40099",
    "net.ipv4.tcp_max_tw_buckets": 0,  # else ports stay taken for a minute that is not shortened
}
MISFIT: Final = """
[cpu]
budget = 0.001
[labels]
series_limit = 1
"""


class Watchers:
    """A Prometheus, its Alertmanager, and who gets the notifications."""

    def __init__(
        self, stack: ExitStack, folder: Path, prometheus: str, alertmanager: str, cast: Cast
    ) -> None:
        folder.mkdir()
        self.receiver = stack.enter_context(Receiver())
        config = _alertmanager_config(self.receiver.url)
        manager = stack.enter_context(Alertmanager(folder, alertmanager, config))
        self.prometheus = stack.enter_context(
            _prometheus(folder, prometheus, _prometheus_config(cast, manager.address))
        )

    def told(self, began: float, ended: float) -> Told:
        fired = self.prometheus.query('max_over_time(ALERTS{alertstate="firing"}[10m])')
        return Told(
            self.receiver.alerts,
            began,
            ended,
            self.prometheus.unhealthy(),
            [series["metric"] for series in fired],
        )


def _alertmanager_config(url: str) -> Json:
    config: Json = shorten.durations(yaml.safe_load(ALERTMANAGER.read_text()), FACTOR)
    for target in config["receivers"]:
        target["webhook_configs"][0]["url"] = url
    return config


def _prometheus_config(cast: Cast, alertmanager: str) -> Json:
    config: Json = yaml.safe_load((rules.FOLDER / "prometheus.yml").read_text())
    config = shorten.durations(config, FACTOR)
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager]
    config["scrape_configs"][0]["static_configs"] = [
        {"targets": [host.address], "labels": {"instance": host.name}}
        for host in cast.hosts.values()
    ]
    return config


def _prometheus(folder: Path, program: str, config: Json) -> Prometheus:
    short = shorten.rules(rules.load(), FACTOR)
    (folder / rules.RULES.name).write_text(yaml.safe_dump(short))
    flags = {"query.lookback-delta": "5m", "rules.alert.resend-delay": "1m"}
    return Prometheus(folder, program, config, **shorten.durations(flags, FACTOR))


def play(folder: Path, programs: dict[str, str], alertmanager: str, unit: Path) -> dict[str, Told]:
    """Play it, for about two minutes, before each Prometheus.

    Args:
        folder: for configurations, data and logs.
        programs: Prometheus by name.
        alertmanager: the program.
        unit: cgroup of the service that leaks.
    """
    with ExitStack() as stack:
        cast = Cast(stack, folder)
        watchers = {
            name: Watchers(stack, folder / name, program, alertmanager, cast)
            for name, program in programs.items()
        }
        began, ended = _acts(cast, unit)
        return {name: one.told(began, ended) for name, one in watchers.items()}


def _acts(cast: Cast, unit: Path) -> tuple[float, float]:
    time.sleep(PROLOGUE)
    began = time.monotonic()
    cast.begin(unit)
    time.sleep(ACT / 3)
    cast.healthy.restart(signal.SIGTERM)
    time.sleep(ACT / 3)
    for host in (cast.healthy, cast.leaky):
        host.restart(signal.SIGKILL)
    time.sleep(ACT / 3)
    cast.lost.stop(signal.SIGKILL)
    ended = time.monotonic()
    cast.end()
    time.sleep(EPILOGUE)
    return began, ended
