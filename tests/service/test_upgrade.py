"""The package on a booted machine over its life: installed, upgraded, removed, purged, in order."""

from pathlib import Path

import pytest
from booted import Machine
from booted.machine import MachineError
from daemon import Metrics
from debian import with_version
from lab.processes import eventually

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

URL = "http://127.0.0.1:10077"
NEXT = "0.1.0+next"
CONFIGURATION = "/etc/sockwatch/sockwatch.toml"
EDITED = '[cpu]\nbudget = 0\n[census]\ninterval = "20s"\n'
DROPINS = "/etc/systemd/system/sockwatch.service.d"
# What other programs write while the machine runs, and what is gone with it.
PASSING = ("/dev", "/proc", "/run", "/srv", "/sys", "/tmp", "/var/cache", "/var/log")  # noqa: S108
OF_THE_PACKAGE_MANAGER = ("/var/lib/apt", "/var/lib/dpkg")


def files(machine: Machine) -> set[str]:
    """Every path of the machine that is there to stay."""
    folders = (*PASSING, *OF_THE_PACKAGE_MANAGER)
    pruned = " -o ".join(f"-path {folder}" for folder in folders)
    return set(machine.run("sh", "-c", rf"find / \( {pruned} \) -prune -o -print").splitlines())


@pytest.fixture(scope="module")
def before(bare: Machine) -> set[str]:
    """The paths before anything was installed."""
    return files(bare)


@pytest.fixture(scope="module")
def fresh(before: set[str], bare: Machine, package: Path) -> Machine:
    """The machine with the package, and nothing done since."""
    bare.run("apt-get", "install", "--yes", f"/srv/{package.name}")
    return bare


def test_installing_starts_it_and_enables_it(fresh: Machine) -> None:
    assert fresh.systemctl("is-active", "sockwatch.service") == "active"
    assert fresh.systemctl("is-enabled", "sockwatch.service") == "enabled"


def test_its_socket_is_left_to_those_who_want_it(fresh: Machine) -> None:
    assert fresh.show("sockwatch.socket", "ActiveState") == "inactive"


@pytest.fixture(scope="module")
def used(fresh: Machine) -> Machine:
    """The machine whose administrator changed what can be changed."""
    fresh.write(CONFIGURATION, EDITED)
    fresh.run("mkdir", "--parents", DROPINS)
    fresh.run("ln", "-s", "/usr/share/sockwatch/30-socket.conf", DROPINS)
    fresh.write("/etc/sockwatch/web.yml", "{}\n")
    fresh.systemctl("stop", "sockwatch.service")
    fresh.systemctl("daemon-reload")
    fresh.systemctl("enable", "--now", "sockwatch.socket")
    fresh.systemctl("start", "sockwatch.service")
    return fresh


@pytest.fixture(scope="module")
def upgraded(used: Machine, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """The machine after an upgrade, which nobody sat beside."""
    used.run("touch", "/var/lib/sockwatch/state")
    old = used.show("sockwatch.service", "MainPID")
    newer = with_version(package, NEXT, tmp_path_factory.mktemp("newer"))
    newer.rename(package.parent / newer.name)
    used.run("apt-get", "install", "--yes", f"/srv/{newer.name}")
    assert used.show("sockwatch.service", "MainPID") not in {"0", old}
    return used


def test_an_upgrade_leaves_the_service_running(upgraded: Machine) -> None:
    version = upgraded.run("dpkg-query", "--show", "--showformat=${Version}", "sockwatch")
    assert version == NEXT
    assert upgraded.systemctl("is-active", "sockwatch.service", "sockwatch.socket").split() == [
        "active",
        "active",
    ]


def test_an_upgrade_keeps_what_was_edited(upgraded: Machine) -> None:
    assert upgraded.run("cat", CONFIGURATION) == EDITED
    found = Metrics(upgraded.get(f"{URL}/metrics"))
    assert found.values("sockwatch_pass_interval_seconds", **{"pass": "census"}) == [20]


def test_an_upgrade_keeps_the_state(upgraded: Machine) -> None:
    upgraded.run("test", "-e", "/var/lib/sockwatch/state")


def test_an_upgrade_keeps_the_service_enabled(upgraded: Machine) -> None:
    assert upgraded.systemctl("is-enabled", "sockwatch.service") == "enabled"


@pytest.fixture(scope="module")
def removed(upgraded: Machine) -> Machine:
    upgraded.run("apt-get", "remove", "--yes", "sockwatch")
    return upgraded


def test_removal_stops_the_service_and_gives_back_the_port(removed: Machine) -> None:
    assert removed.systemctl("is-active", "sockwatch.service", check=False) == "inactive"
    assert "10077" not in removed.run("ss", "-ltnH")
    with pytest.raises(MachineError):
        removed.get(f"{URL}/metrics")


def test_removal_keeps_configuration_and_state(removed: Machine) -> None:
    assert removed.run("cat", CONFIGURATION) == EDITED
    removed.run("test", "-e", "/var/lib/private/sockwatch/state")


def test_removal_leaves_no_compiled_python(removed: Machine) -> None:
    with pytest.raises(MachineError):
        removed.run("test", "-e", "/usr/lib/sockwatch")


def test_purging_leaves_nothing(before: set[str], removed: Machine) -> None:
    removed.run("apt-get", "purge", "--yes", "sockwatch")
    assert sorted(files(removed) - before) == []
    assert sorted(before - files(removed)) == []


def test_after_purging_systemd_and_dpkg_know_nothing_of_it(removed: Machine) -> None:
    removed.systemctl("daemon-reload")
    units = ("sockwatch.service", "sockwatch.socket")
    eventually(
        lambda: {removed.show(unit, "LoadState") for unit in units} == {"not-found"}, "units gone"
    )
    with pytest.raises(MachineError):
        removed.run("dpkg-query", "--status", "sockwatch")
