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
IMPATIENT = "/run/systemd/system/sockwatch.service.d/50-impatient.conf"
UNSTRETCHED = "[cpu]\nbudget = 0\n"
"""So that intervals are the configured ones, however dear a pass is on a busy host."""
PATIENCE = 20.0  # seconds: RestartSec=, and the start on a busy host


@pytest.fixture
def service(machine: Machine) -> Iterator[Machine]:
    """The machine with the service as it is after installation, started just now."""
    machine.systemctl("reset-failed", "sockwatch")
    machine.systemctl("restart", "sockwatch")
    machine.run("journalctl", "--rotate", "--vacuum-time=1s")
    yield machine
    machine.run("cp", "/root/shipped/sockwatch.toml", CONFIGURATION)
    machine.run("rm", "--force", IMPATIENT)
    machine.systemctl("daemon-reload")


def impatient(machine: Machine, settings: str) -> None:
    """Change the unit, lest a test take as long as administrators may."""
    machine.write(IMPATIENT, settings)
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


# include/uapi/linux/ptrace.h, wait.h
HOLD = """
import ctypes, os, sys
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
pid = {pid}
poll_thread = sorted(map(int, os.listdir(f"/proc/{{pid}}/task")))[1]
for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
    if ptrace(request, poll_thread, 0, 0):
        sys.exit(os.strerror(ctypes.get_errno()))
while not os.WIFSIGNALED(os.waitpid(poll_thread, WALL)[1]):  # else its process would not end
    pass
"""


def test_a_hung_poll_thread_is_ended_by_the_watchdog_with_a_traceback_and_started_again(
    service: Machine,
) -> None:
    """A debugger holds it, and no other thread: as if the kernel never answered it."""
    impatient(service, "[Service]\nWatchdogSec=2s\n")
    service.systemctl("restart", "sockwatch")
    pid = main_pid(service)
    service.start("debugger", HOLD.format(pid=pid))
    assert service.get(f"{URL}/-/healthy") == "Healthy.\n", "requests are answered still"
    wait_for_another(service, pid)
    journal = service.journal("sockwatch")
    assert "Watchdog timeout" in journal
    assert "Fatal Python error: Aborted" in journal
    stacks = journal.partition("Fatal Python error: Aborted")[2]
    assert re.search(r'File ".*/poll/poller\.py", line \d+ in run', stacks), "of the poll thread"
    assert re.search(r'File ".*/daemon\.py", line \d+ in', stacks), "of the main thread"


def test_the_watchdog_is_fed_between_passes(service: Machine) -> None:
    service.write(CONFIGURATION, '[watch]\ninterval = "1m"\n[census]\ninterval = "1m"\n')
    service.systemctl("restart", "sockwatch")
    assert service.show("sockwatch", "WatchdogUSec") == "30s", "as shipped"
    passes = metrics(service).sum("sockwatch_passes_total")
    fed = service.show("sockwatch", "WatchdogTimestampMonotonic")
    eventually(
        lambda: service.show("sockwatch", "WatchdogTimestampMonotonic") != fed, "fed", PATIENCE
    )
    assert metrics(service).sum("sockwatch_passes_total") == passes


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
    impatient(service, "[Service]\nRestartSec=100ms\n")
    with pytest.raises(MachineError):
        service.systemctl("restart", "sockwatch")
    time.sleep(1)  # longer than RestartSec=
    assert service.show("sockwatch", "ActiveState") == "failed"
    assert service.show("sockwatch", "ExecMainStatus") == "2"
    assert service.show("sockwatch", "NRestarts") == "0"
    assert f'{CONFIGURATION}:2: watch.interval = "never"' in service.journal("sockwatch")


@pytest.fixture
def occupied(service: Machine) -> Machine:
    """The machine with the service stopped, and another that has its port."""
    service.systemctl("stop", "sockwatch")
    program = "import socket, time; s = socket.create_server(('127.0.0.1', 10077)); time.sleep(600)"
    service.start("squatter", program)
    eventually(lambda: "10077" in service.run("ss", "-ltnH"), "the port is taken", PATIENCE)
    return service


def test_a_port_in_use_is_tried_again(occupied: Machine) -> None:
    with pytest.raises(MachineError):
        occupied.systemctl("start", "sockwatch")
    assert occupied.show("sockwatch", "ExecMainStatus") == "1"
    journal = occupied.journal("sockwatch")
    assert "cannot listen on 127.0.0.1:10077: Address already in use" in journal
    occupied.systemctl("stop", "squatter")
    wait_for_another(occupied, 0)


def test_what_never_starts_is_given_up(occupied: Machine) -> None:
    impatient(occupied, "[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=100ms\n")
    with pytest.raises(MachineError):
        occupied.systemctl("start", "sockwatch")
    eventually(
        lambda: "Start request repeated too quickly" in occupied.journal("sockwatch"),
        "given up",
        PATIENCE,
    )
    assert occupied.show("sockwatch", "ActiveState") == "failed"
    occupied.systemctl("stop", "squatter")
