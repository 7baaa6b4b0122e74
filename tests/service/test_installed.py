"""The installed service on a booted machine: ready, confined, and right in what it says."""

import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from booted import Machine
from daemon import Metrics
from lab.processes import eventually
from oracles import SS_STATES

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

URL = "http://127.0.0.1:10077"
PATIENCE = 20.0  # seconds: a census, and a busy host
STILL_OPEN, CLOSED = 3, 2
SERVER = """
import socket
listener = socket.create_server(("127.0.0.1", 8000))
held = []
while True:
    held.append(listener.accept())
"""
CLIENT = f"""
import socket, time
held = [socket.create_connection(("127.0.0.1", 8000)) for _ in range({STILL_OPEN + CLOSED})]
for connection in held[:{CLOSED}]:
    connection.close()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def services(machine: Machine) -> Iterator[None]:
    """Two other services: one that never closes, and its client, which closed some."""
    machine.write("/etc/sockwatch/sockwatch.toml", '[cpu]\nbudget = 0\n[census]\ninterval = "1s"\n')
    machine.systemctl("restart", "sockwatch")
    machine.start("web", SERVER)
    eventually(lambda: "8000" in machine.run("ss", "-ltnH"), "web listens", PATIENCE)
    machine.start("client", CLIENT)
    eventually(lambda: states(machine)["close_wait"] == CLOSED, "client has closed", PATIENCE)
    yield
    machine.systemctl("stop", "client", "web")


def states(machine: Machine) -> Counter[str]:
    """TCP sockets by state as ss counts them."""
    lines = machine.run("ss", "-tanH").splitlines()
    return Counter(SS_STATES[line.split()[0]].label for line in lines)


def metrics(machine: Machine) -> Metrics:
    return Metrics(machine.get(f"{URL}/metrics"))


def status(machine: Machine) -> dict[str, str]:
    """What the kernel says of the daemon's process, by field."""
    pid = machine.show("sockwatch", "MainPID")
    lines = machine.run("cat", f"/proc/{pid}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# Running


def test_it_says_that_it_is_ready_and_how_it_reads(machine: Machine) -> None:
    assert machine.show("sockwatch", "StatusText") == "reading sockets through netlink"
    assert "Ready" in machine.get(f"{URL}/-/ready")


def test_it_starts_without_a_word_of_trouble(machine: Machine) -> None:
    assert machine.journal("sockwatch", "--priority=warning").strip() == ""


def test_its_lines_reach_the_journal_once_with_priority_and_without_time(machine: Machine) -> None:
    lines = machine.journal("sockwatch", "--output=json").splitlines()
    records = [json.loads(line) for line in lines]
    (listening,) = (record for record in records if "msg=listening" in record["MESSAGE"])
    assert listening["PRIORITY"] == "6"
    assert listening["SYSLOG_IDENTIFIER"] == "sockwatch"
    assert listening["MESSAGE"].startswith("level=INFO ")


# Confined


def test_it_is_a_user_that_nobody_made(machine: Machine) -> None:
    """The range of systemd's dynamic users."""
    uid = int(status(machine)["Uid"].split()[0])
    assert 61184 <= uid <= 65519


@pytest.mark.parametrize("capabilities", ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"])
def test_it_has_no_capability(machine: Machine, capabilities: str) -> None:
    assert int(status(machine)[capabilities], 16) == 0


def test_it_gains_no_privilege_and_its_system_calls_are_filtered(machine: Machine) -> None:
    found = status(machine)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_its_state_is_for_itself_alone(machine: Machine) -> None:
    found = machine.run("stat", "--dereference", "--format=%a %u", "/var/lib/sockwatch").split()
    assert found == ["700", status(machine)["Uid"].split()[0]]


def test_memory_stays_far_below_its_bound(machine: Machine) -> None:
    used = int(status(machine)["VmRSS"].split()[0]) * 1024
    assert used < int(machine.show("sockwatch", "MemoryMax")) / 4


# Right


@pytest.mark.parametrize("state", ["listen", "established", "close_wait", "fin_wait2"])
def test_host_totals_are_those_of_ss(machine: Machine, services: None, state: str) -> None:
    """ESTABLISHED: without the connection that asks, both of whose ends are on this host."""
    expected = states(machine)[state]
    assert expected > 0
    eventually(
        lambda: metrics(machine).sum("sockwatch_tcp_sockets", state=state) == expected,
        f"{expected} sockets in {state}",
        PATIENCE,
    )


@pytest.mark.parametrize(
    ("labels", "number"),
    [
        ({"unit": "web.service", "direction": "inbound", "state": "close_wait"}, CLOSED),
        ({"unit": "web.service", "direction": "inbound", "state": "established"}, STILL_OPEN),
        ({"unit": "client.service", "direction": "outbound", "state": "established"}, STILL_OPEN),
    ],
    ids=str,
)
def test_connections_are_told_by_the_unit_of_other_services(
    machine: Machine, services: None, labels: dict[str, str], number: int
) -> None:
    name = "sockwatch_tcp_connections"
    eventually(
        lambda: metrics(machine).values(name, port="8000", **labels) == [number],
        f"{number} connections of {labels}",
        PATIENCE,
    )


@pytest.mark.parametrize("uid", ["0", "65534"])
def test_the_command_reports_to_root_and_to_anybody(
    machine: Machine, services: None, uid: str
) -> None:
    """Exit code 1 as something may look wrong here."""
    as_user = ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
    text = machine.run(*as_user, "sockwatch", "report", check=False)
    assert re.search(r"\bweb\.service\b", text), text


def test_the_libraries_of_the_package_are_nobody_elses(machine: Machine) -> None:
    told = machine.run("python3", "-c", "import sockwatch", check=False)
    assert "No module named 'sockwatch'" in told
