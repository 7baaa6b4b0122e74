"""What befalls the installed service on a booted machine, and what becomes of it."""

import json
import re
import signal
import time
from collections.abc import Iterator

import pytest
from booted import Machine
from booted.machine import MachineError
from daemon import Metrics
from lab.processes import eventually

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

URL = "http://127.0.0.1:10077"
CONFIGURATION = "/etc/sockwatch/sockwatch.toml"
SHIPPED = "/root/shipped.toml"
IMPATIENT = "/run/systemd/system/sockwatch.service.d/50-impatient.conf"
UNSTRETCHED = "[cpu]\nbudget = 0\n"
"""So that intervals are the configured ones, however dear a pass is on a busy host."""
PATIENCE = 20.0  # seconds: RestartSec=, and the start on a busy host


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """The machine with the service as it is after installation, started just now."""
    machine.run("cp", CONFIGURATION, SHIPPED)
    machine.systemctl("reset-failed", "sockwatch")
    machine.systemctl("restart", "sockwatch")
    machine.run("journalctl", "--rotate")
    machine.run("journalctl", "--vacuum-time=1s")
    yield machine
    machine.run("mv", SHIPPED, CONFIGURATION)
    machine.run("rm", "--force", IMPATIENT)
    machine.systemctl("daemon-reload")


def main_pid(machine: Machine) -> int:
    return int(machine.show("sockwatch", "MainPID"))


def metrics(machine: Machine) -> Metrics:
    return Metrics(machine.get(f"{URL}/metrics"))


def is_up_with_another(machine: Machine, pid: int) -> bool:
    """Whether it is, by one look at both: a moment after a kill each could still be the old one."""
    told = machine.systemctl("show", "--property=ActiveState,MainPID", "sockwatch").splitlines()
    return "ActiveState=active" in told and not {"MainPID=0", f"MainPID={pid}"} & set(told)


def wait_for_another(machine: Machine, pid: int) -> None:
    """Wait until the service is up with another process."""
    eventually(lambda: is_up_with_another(machine, pid), "a new process", PATIENCE)
    assert metrics(machine).sum("sockwatch_passes_total") >= 1


# Killed and hung


def test_a_killed_daemon_is_started_again(service: Machine) -> None:
    pid = main_pid(service)
    service.kill("sockwatch", signal.SIGKILL)
    wait_for_another(service, pid)
    assert service.show("sockwatch", "NRestarts") == "1"


def test_a_hung_daemon_is_ended_by_the_watchdog_with_a_traceback_and_started_again(
    service: Machine,
) -> None:
    """A stopped process passes for one whose poll thread hangs: no sign of life comes any more."""
    service.write(IMPATIENT, "[Service]\nWatchdogSec=2s\n")
    service.systemctl("daemon-reload")
    service.systemctl("restart", "sockwatch")
    pid = main_pid(service)
    service.kill("sockwatch", signal.SIGSTOP)
    wait_for_another(service, pid)
    journal = service.journal("sockwatch")
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal
    stacks = journal.partition("Fatal Python error: Aborted")[2]
    assert re.search(r'File ".*/poll/poller\.py", line \d+ in run', stacks), "of the poll thread"
    assert re.search(r'File ".*/daemon\.py", line \d+ in', stacks), "of the main thread"


def test_the_watchdog_is_fed_for_longer_than_it_waits(service: Machine) -> None:
    service.write(CONFIGURATION, '[watch]\ninterval = "1m"\n[census]\ninterval = "1m"\n')
    service.write(IMPATIENT, "[Service]\nWatchdogSec=6s\n")
    service.systemctl("daemon-reload")
    service.systemctl("restart", "sockwatch")
    pid = main_pid(service)
    time.sleep(8)
    assert main_pid(service) == pid


def test_the_shipped_watchdog_is_the_one_in_effect(service: Machine) -> None:
    assert service.show("sockwatch", "WatchdogUSec") == "30s"


# Told to read its configuration anew


def census_interval(machine: Machine) -> list[float]:
    return metrics(machine).values("sockwatch_pass_interval_seconds", **{"pass": "census"})


def test_a_good_configuration_is_adopted_on_reload(service: Machine) -> None:
    pid = main_pid(service)
    service.write(CONFIGURATION, f'{UNSTRETCHED}[census]\ninterval = "20s"\n')
    service.systemctl("reload", "sockwatch")
    eventually(lambda: census_interval(service) == [20], "a census interval of 20 s", PATIENCE)
    assert metrics(service).values("sockwatch_config_last_reload_successful") == [1]
    assert main_pid(service) == pid


def test_a_bad_configuration_changes_nothing_and_is_named(service: Machine) -> None:
    service.write(CONFIGURATION, UNSTRETCHED)
    service.systemctl("restart", "sockwatch")
    pid = main_pid(service)
    service.write(CONFIGURATION, f'{UNSTRETCHED}[census]\ninterval = "20s"\nintervall = "5s"\n')
    service.systemctl("reload", "sockwatch")
    eventually(
        lambda: metrics(service).values("sockwatch_config_last_reload_successful") == [0],
        "a failed reload",
        PATIENCE,
    )
    assert census_interval(service) == [15]
    assert service.systemctl("is-active", "sockwatch") == "active"
    assert main_pid(service) == pid
    (record,) = service.journal("sockwatch", "--priority=err", "--output=json").splitlines()
    message = json.loads(record)["MESSAGE"]
    assert f"{CONFIGURATION}:5: unknown key census.intervall" in message


# Stopped, and not started


def test_it_stops_within_a_second_and_well(service: Machine) -> None:
    began = time.monotonic()
    service.systemctl("stop", "sockwatch")
    assert time.monotonic() - began < 1
    assert service.show("sockwatch", "Result") == "success"
    assert service.show("sockwatch", "ExecMainStatus") == "0"


def test_a_wrong_configuration_leaves_it_stopped_with_the_reason(service: Machine) -> None:
    service.write(CONFIGURATION, '[watch]\ninterval = "never"\n')
    with pytest.raises(MachineError):
        service.systemctl("restart", "sockwatch")
    time.sleep(4)  # longer than RestartSec=
    assert service.show("sockwatch", "ActiveState") == "failed"
    assert service.show("sockwatch", "ExecMainStatus") == "2"
    assert service.show("sockwatch", "NRestarts") == "0"
    assert f'{CONFIGURATION}:2: watch.interval = "never"' in service.journal("sockwatch")


def test_a_port_in_use_is_tried_again(service: Machine) -> None:
    service.systemctl("stop", "sockwatch")
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 10077)); time.sleep(600)"
    service.start("squatter", program)
    eventually(lambda: "10077" in service.run("ss", "-ltnH"), "the port is taken", PATIENCE)
    with pytest.raises(MachineError):
        service.systemctl("start", "sockwatch")
    assert service.show("sockwatch", "ExecMainStatus") == "1"
    assert "cannot listen on 127.0.0.1:10077: Address already in use" in service.journal(
        "sockwatch"
    )
    service.systemctl("stop", "squatter")
    wait_for_another(service, 0)
