"""The service with its drop-ins on a booted machine: what each lets the daemon do, and no more."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import Machine
from booted.machine import MachineError
from daemon import Metrics
from lab.processes import eventually

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

PROBE = (Path(__file__).parent / "probe.py").read_text()
URL = "http://127.0.0.1:10077"
DROPINS = "/etc/systemd/system/sockwatch.service.d"
OVERRIDES = "/run/systemd/system/sockwatch.service.d"
SOCKET_OVERRIDE = "/run/systemd/system/sockwatch.socket.d/override.conf"
IN_ITS_PLACE = """
[Service]
Type=oneshot
WatchdogSec=0
Restart=no
ExecStart=
ExecStart=/usr/bin/python3 /usr/local/lib/probe.py
"""
ADDRESS = "192.0.2.1"
"""An address of the machine that is not loopback (RFC 5737)."""

PROCESSES, NETNS, SOCKET = "10-processes.conf", "20-netns.conf", "30-socket.conf"
ALWAYS = {"open a netlink socket", "write its state"}
IP = {"open an IP socket"}
READ = {"see other users' processes", "see what root's processes hold", "read root's files"}
ENTER = {"see other users' processes", "enter a network namespace"}
MAY = {
    (): ALWAYS | IP,
    (PROCESSES,): ALWAYS | IP | READ,
    (NETNS,): ALWAYS | IP | ENTER,
    (SOCKET,): ALWAYS,
    (PROCESSES, NETNS, SOCKET): ALWAYS | READ | ENTER,
}
EFFECTIVE = {
    PROCESSES: {
        "CapabilityBoundingSet": "cap_dac_read_search cap_sys_ptrace",
        "AmbientCapabilities": "cap_dac_read_search cap_sys_ptrace",
        "PrivateUsers": "no",
        "ProtectProc": "default",
    },
    NETNS: {
        "CapabilityBoundingSet": "cap_sys_ptrace cap_sys_admin",
        "AmbientCapabilities": "cap_sys_ptrace cap_sys_admin",
        "RestrictNamespaces": "net",
    },
    SOCKET: {"RestrictAddressFamilies": "AF_NETLINK AF_UNIX", "IPAddressDeny": "0.0.0.0/0 ::/0"},
}


@pytest.fixture
def plain(machine: Machine) -> Iterator[Machine]:
    """The machine with the service as installed, not running, and so again afterwards."""
    stop(machine)
    yield machine
    stop(machine)
    machine.run("rm", "--recursive", "--force", DROPINS, OVERRIDES, SOCKET_OVERRIDE)
    machine.systemctl("daemon-reload")


def stop(machine: Machine) -> None:
    machine.systemctl("disable", "--now", "sockwatch.socket")
    machine.systemctl("stop", "sockwatch.service")
    machine.systemctl("reset-failed", "sockwatch.service", "sockwatch.socket", check=False)


def enable(machine: Machine, *dropins: str) -> None:
    """Enable drop-ins as README.md says."""
    for name in dropins:
        machine.run("mkdir", "--parents", DROPINS)
        machine.run("ln", "-s", f"/usr/share/sockwatch/{name}", DROPINS)
    machine.systemctl("daemon-reload")
    if SOCKET in dropins:
        machine.systemctl("enable", "--now", "sockwatch.socket")


@pytest.fixture
def listening(plain: Machine) -> Machine:
    """The machine whose systemd has the port; the service is not running yet."""
    enable(plain, SOCKET)
    return plain


def listen(machine: Machine, settings: str) -> None:
    machine.write(SOCKET_OVERRIDE, f"[Socket]\n{settings}\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("stop", "sockwatch.service")
    machine.systemctl("restart", "sockwatch.socket")


# Each variant


@pytest.mark.parametrize("dropins", MAY, ids=str)
def test_the_daemon_may_do_what_the_variant_is_for_and_no_more(
    plain: Machine, dropins: tuple[str, ...]
) -> None:
    plain.write("/usr/local/lib/probe.py", PROBE)
    plain.write(f"{OVERRIDES}/90-probe.conf", IN_ITS_PLACE)
    plain.run("sh", "-c", "ip netns list | grep -q blue || ip netns add blue")
    enable(plain, *dropins)
    since = plain.run("date", "+%F %T.%6N").strip()
    plain.systemctl("start", "sockwatch")
    told = plain.journal("sockwatch", f"--since={since}", "--identifier=python3")
    assert set(json.loads(told)) == MAY[dropins]


@pytest.mark.parametrize("dropins", MAY, ids=str)
def test_the_daemon_works_in_every_variant(plain: Machine, dropins: tuple[str, ...]) -> None:
    enable(plain, *dropins)
    plain.systemctl("start", "sockwatch")
    assert plain.show("sockwatch", "StatusText") == "reading sockets through netlink"
    assert Metrics(plain.get(f"{URL}/metrics")).sum("sockwatch_tcp_sockets", state="listen") >= 1


@pytest.mark.parametrize("dropin", EFFECTIVE)
def test_systemd_takes_a_drop_in_as_it_is_meant(plain: Machine, dropin: str) -> None:
    enable(plain, dropin)
    for setting, value in EFFECTIVE[dropin].items():
        assert set(plain.show("sockwatch", setting).split()) == set(value.split()), setting


# The port that systemd opens


@pytest.mark.parametrize("dropins", [(), (SOCKET,)], ids=str)
def test_a_listener_that_somebody_ended_is_opened_again(
    plain: Machine, dropins: tuple[str, ...]
) -> None:
    enable(plain, *dropins)
    plain.systemctl("start", "sockwatch")
    plain.run("ss", "--kill", "--listening", "--tcp", "sport = :10077")
    eventually(lambda: plain.show("sockwatch", "NRestarts") != "0", "a restart", 20)
    eventually(
        lambda: plain.show("sockwatch", "StatusText") == "reading sockets through netlink",
        "another start",
        20,
    )
    assert Metrics(plain.get(f"{URL}/metrics")).sum("sockwatch_passes_total") >= 1


def test_the_first_scrape_starts_the_daemon(listening: Machine) -> None:
    assert listening.show("sockwatch.service", "ActiveState") == "inactive"
    assert "sockwatch_build_info" in listening.get(f"{URL}/metrics")
    eventually(
        lambda: listening.show("sockwatch.service", "ActiveState") == "active", "the service is up"
    )


def test_a_scrape_during_a_restart_waits_and_is_answered(listening: Machine) -> None:
    listening.systemctl("start", "sockwatch.service")
    listening.kill("sockwatch.service", signal.SIGKILL)
    assert "sockwatch_build_info" in listening.get(f"{URL}/metrics")


def test_another_address_is_set_where_the_port_is_opened(listening: Machine) -> None:
    """It is no loopback address: what the daemon may not reach itself does not bind its clients."""
    listening.run("ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo")
    listen(listening, "ListenStream=\nListenStream=[::]:10077")
    assert "sockwatch_build_info" in listening.get(f"http://{ADDRESS}:10077/metrics")
    assert "sockwatch_build_info" in listening.get(f"{URL}/metrics")


def test_who_may_scrape_is_set_where_the_port_is_opened(listening: Machine) -> None:
    listening.run("ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo")
    everywhere = "ListenStream=\nListenStream=[::]:10077"
    listen(listening, f"{everywhere}\nIPAddressDeny=any\nIPAddressAllow=localhost")
    assert "sockwatch_build_info" in listening.get(f"{URL}/metrics")
    with pytest.raises(MachineError, match="timed out"):
        listening.get(f"http://{ADDRESS}:10077/metrics", timeout=2)
