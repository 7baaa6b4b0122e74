"""The shipped unit, judged by systemd's own tools; nothing is started."""

import configparser
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from guards import need_command

pytestmark = pytest.mark.service

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "sockwatch.service"
EXPOSURE_LIMIT = 1.1


class UnitFile(configparser.RawConfigParser):
    """A unit as sections of options; the last assignment wins, names keep their case."""

    def __init__(self) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",))

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture(scope="module")
def analyze() -> str:
    return need_command("systemd-analyze", "systemd")


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    unit = UnitFile()
    unit.read(UNIT)
    return unit["Service"]


@pytest.fixture(scope="module")
def exposures(analyze: str) -> dict[str, float]:
    """Return what each point that is not closed adds to the exposure."""
    rows: list[dict[str, Any]] = json.loads(security(analyze, "--json=short"))
    return {row["name"]: float(row["exposure"]) for row in rows if row["exposure"]}


def security(analyze: str, *options: str) -> str:
    command = [analyze, "security", "--offline=true", "--no-pager", *options, str(UNIT)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def overall(analyze: str) -> float:
    line = next(row for row in security(analyze).splitlines() if "Overall exposure" in row)
    return float(line.split(":")[1].split()[0])


def test_systemd_finds_nothing_to_complain_about(analyze: str, tmp_path: Path) -> None:
    """The daemon is not installed where the tests run: another program stands in for it."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/sockwatch", "/bin/true"))
    command = [analyze, "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_exposure_stays_as_low_as_it_is(analyze: str, exposures: dict[str, float]) -> None:
    exposure = overall(analyze)
    assert exposure <= EXPOSURE_LIMIT, f"exposure {exposure} of {EXPOSURE_LIMIT}: {exposures}"


def test_the_readme_explains_each_point_that_remains(exposures: dict[str, float]) -> None:
    lines = (SYSTEMD / "README.md").read_text().replace(r"\|", "|").splitlines()
    unexplained = {
        name: exposure
        for name, exposure in exposures.items()
        if not any(line.startswith(f"| `{name}` | {exposure} | ") for line in lines)
    }
    assert exposures
    assert unexplained == {}


def test_the_readme_names_the_exposure(analyze: str) -> None:
    assert f"rates it {overall(analyze)} " in (SYSTEMD / "README.md").read_text()


@pytest.mark.parametrize("option", ["CapabilityBoundingSet", "AmbientCapabilities"])
def test_no_capability_is_left(service: configparser.SectionProxy, option: str) -> None:
    assert service[option] == ""


@pytest.mark.parametrize("family", ["AF_NETLINK", "AF_UNIX", "AF_INET", "AF_INET6"])
def test_the_families_it_works_with_stay_open(
    service: configparser.SectionProxy, family: str
) -> None:
    assert family in service["RestrictAddressFamilies"].split()


def test_nothing_it_reads_is_hidden(service: configparser.SectionProxy) -> None:
    """Sockets of the host, /proc/stat and /proc/sys/net, and /sys/fs/cgroup."""
    assert service.get("PrivateNetwork", "no") == "no"
    assert service.get("ProcSubset", "all") == "all"
    assert not {"InaccessiblePaths", "RootDirectory", "RootImage"} & set(service)


def test_a_wrong_configuration_is_not_tried_again(service: configparser.SectionProxy) -> None:
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
