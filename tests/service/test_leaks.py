"""A service that leaks, on a booted machine: how long it has, and what process, by privilege."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from booted import Machine
from daemon import Metrics
from lab.processes import eventually

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

URL = "http://127.0.0.1:10077"
DROPINS = "/etc/systemd/system/sockwatch.service.d"
ASKED_FOR = "/run/systemd/system/sockwatch.service.d/50-asked-for.conf"
IMPATIENT = """
[ages]
close_wait = "1s"
[watch]
interval = "300ms"
[cpu]
budget = 0
"""
PATIENCE = 20.0  # seconds, on a busy host
LEAKY = """
import socket, time
listener = socket.create_server(("127.0.0.1", 8001))
client = socket.create_connection(listener.getsockname())
held, _ = listener.accept()
client.close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def leaky(machine: Machine) -> Iterator[Machine]:
    """The machine with a service that never closes a connection, which is stuck after a second."""
    machine.write("/etc/sockwatch/sockwatch.toml", IMPATIENT)
    machine.start("leaky", LEAKY)
    machine.systemctl("restart", "sockwatch")  # else its unit may have no name for ten seconds
    eventually(lambda: leaks(machine), "the leak is seen", PATIENCE)
    yield machine
    machine.systemctl("stop", "leaky")


def leaks(machine: Machine) -> list[dict[str, Any]]:
    """The stuck connections that the daemon tells of."""
    document = json.loads(machine.get(f"{URL}/api/v1/leaks?unit=leaky.service"))
    sockets: list[dict[str, Any]] = document["sockets"]
    return sockets


def processes(machine: Machine) -> list[tuple[int, str]]:
    """Those that hold the stuck connection, as far as known."""
    (leak,) = leaks(machine)
    return [(process["pid"], process["name"]) for process in leak["processes"]]


def passes(machine: Machine) -> float:
    return Metrics(machine.get(f"{URL}/metrics")).sum("sockwatch_passes_total")


def test_without_privilege_the_unit_is_known_and_the_process_is_not(leaky: Machine) -> None:
    (leak,) = leaks(leaky)
    assert (leak["unit"], leak["state"]) == ("leaky.service", "close_wait")
    assert processes(leaky) == []


def restart(machine: Machine) -> None:
    machine.systemctl("daemon-reload")
    machine.systemctl("restart", "sockwatch")
    eventually(lambda: leaks(machine), "the leak is seen", PATIENCE)


def test_asked_for_without_the_privilege_the_process_is_not_known_either(leaky: Machine) -> None:
    leaky.write(ASKED_FOR, "[Service]\nEnvironment=SOCKWATCH_OWNERS_PROCESSES=true\n")
    restart(leaky)
    eventually(lambda: passes(leaky) >= 10, "passes that could have named it", PATIENCE)
    assert processes(leaky) == []
    leaky.run("rm", ASKED_FOR)


def test_the_drop_in_for_it_names_the_process(leaky: Machine) -> None:
    leaky.run("mkdir", "--parents", DROPINS)
    leaky.run("ln", "-s", "/usr/share/sockwatch/10-processes.conf", DROPINS)
    restart(leaky)
    expected = [(int(leaky.show("leaky", "MainPID")), "python3")]
    eventually(lambda: processes(leaky) == expected, f"processes {expected}", PATIENCE)


def test_ages_continue_after_a_kill(leaky: Machine) -> None:
    eventually(lambda: leaks(leaky)[0]["age_seconds"] > 5, "an age to keep", PATIENCE)
    before, pid = leaks(leaky)[0]["age_seconds"], leaky.show("sockwatch", "MainPID")
    leaky.kill("sockwatch", signal.SIGKILL)
    eventually(lambda: leaky.show("sockwatch", "MainPID") not in {"0", pid}, "a restart", PATIENCE)
    eventually(
        lambda: leaky.show("sockwatch", "ActiveState") == "active", "the service is up", PATIENCE
    )
    after = eventually(lambda: leaks(leaky), "the leak is seen", PATIENCE)[0]["age_seconds"]
    assert after > before
