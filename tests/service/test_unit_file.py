"""The shipped units, judged by systemd's own tools and by what is written of them."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from guards import need_command

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[2]
SYSTEMD = ROOT / "systemd"
README = (SYSTEMD / "README.md").read_text()
UNIT = (SYSTEMD / "sockwatch.service").read_text()
UNITS = ("sockwatch.service", "sockwatch.socket")
PROCESSES, NETNS, SOCKET = "10-processes.conf", "20-netns.conf", "30-socket.conf"
VARIANTS = {
    "`sockwatch.service`": (),
    f"with `{SOCKET}`": (SOCKET,),
    f"with `{PROCESSES}`": (PROCESSES,),
    f"with `{PROCESSES}` and `{SOCKET}`": (PROCESSES, SOCKET),
    f"with `{NETNS}`": (NETNS,),
    f"with `{NETNS}` and `{SOCKET}`": (NETNS, SOCKET),
    f"with `{PROCESSES}` and `{NETNS}`": (PROCESSES, NETNS),
    "with all three": (PROCESSES, NETNS, SOCKET),
}
LIMITS = {(): 1.1, (SOCKET,): 0.8}
variants = pytest.mark.parametrize("dropins", VARIANTS.values(), ids=VARIANTS)

Service = dict[str, list[str]]


def service_of(name: str) -> Service:
    """The [Service] settings of a unit or drop-in: every value of each, in order."""
    settings = defaultdict(list)
    _, _, section = (SYSTEMD / name).read_text().partition("[Service]\n")
    for line in section.partition("\n[")[0].splitlines():
        setting, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings[setting].append(value)
    return settings


def words(values: Iterable[str]) -> set[str]:
    return {word for value in values for word in value.split()}


def table(heading: str) -> dict[str, list[str]]:
    """The first table below a heading of the README: cells by the first one of their row."""
    lines = README.replace(r"\|", "\0").partition(f"{heading}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    cells = (line.replace("\0", "|").strip("| ").split(" | ") for line in lines[first + 1 :])
    rows = {}
    for name, *others in cells:
        if not others:
            break
        rows[name] = others
    return rows


@pytest.fixture(scope="module")
def analyze() -> str:
    return need_command("systemd-analyze", "systemd")


@pytest.fixture
def unit(dropins: tuple[str, ...], tmp_path: Path) -> Path:
    """The service with drop-ins, and another program in the place of the one that is not there."""
    for name in UNITS:
        text = (SYSTEMD / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/bin/sockwatch", "/bin/true"))
    folder = tmp_path / "sockwatch.service.d"
    folder.mkdir()
    for name in dropins:
        shutil.copy(SYSTEMD / name, folder)
    return tmp_path / "sockwatch.service"


def security(analyze: str, unit: Path, *options: str) -> str:
    command = [analyze, "security", "--offline=true", "--no-pager", *options, str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def overall(analyze: str, unit: Path) -> float:
    lines = security(analyze, unit).splitlines()
    line = next(line for line in lines if "Overall exposure" in line)
    return float(line.split(":")[1].split()[0])


def exposures(analyze: str, unit: Path) -> dict[str, float]:
    """What each point that is not closed adds to the exposure."""
    rows: list[dict[str, Any]] = json.loads(security(analyze, unit, "--json=short"))
    return {row["name"]: float(row["exposure"]) for row in rows if row["exposure"]}


# What systemd says


@variants
def test_systemd_finds_nothing_to_complain_about(analyze: str, unit: Path) -> None:
    command = [analyze, "verify", "--man=no", str(unit), str(unit.with_suffix(".socket"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("dropins", "limit"), LIMITS.items(), ids=str)
def test_exposure_stays_as_low_as_it_is(analyze: str, unit: Path, limit: float) -> None:
    assert overall(analyze, unit) <= limit, exposures(analyze, unit)


@pytest.mark.parametrize(("variant", "dropins"), VARIANTS.items(), ids=VARIANTS)
def test_the_readme_names_the_exposure(analyze: str, unit: Path, variant: str) -> None:
    assert table("## Exposure")[variant] == [str(overall(analyze, unit))]


def test_the_readme_names_the_exposure_of_every_variant() -> None:
    assert list(table("## Exposure")) == list(VARIANTS)


@variants
def test_the_readme_explains_each_point_that_remains(analyze: str, unit: Path) -> None:
    told = {row: cells[0] for row, cells in table("What remains, and why:").items()}
    remaining = exposures(analyze, unit)
    assert remaining
    assert {f"`{name}`": str(value) for name, value in remaining.items()}.items() <= told.items()


@pytest.mark.parametrize("dropins", [(PROCESSES, NETNS)], ids=str)
def test_the_readme_explains_no_point_that_is_closed(analyze: str, unit: Path) -> None:
    """The two together open all that any variant opens."""
    open_points = {f"`{name}`" for name in exposures(analyze, unit)}
    assert table("What remains, and why:").keys() == open_points


# What is written


@pytest.mark.parametrize("name", ["sockwatch.service", PROCESSES, NETNS, SOCKET])
@pytest.mark.parametrize("document", ["systemd/README.md", "SECURITY.md"])
def test_capabilities_are_the_documented_ones(document: str, name: str) -> None:
    row = re.search(rf"^\| `{name}` \| ([^|]*) \|", capability_table(document), re.MULTILINE)
    assert row
    documented = set(re.findall(r"CAP_\w+", row[1]))
    service = service_of(name)
    assert words(service["CapabilityBoundingSet"]) == documented
    assert words(service["AmbientCapabilities"]) == documented


def capability_table(document: str) -> str:
    return (ROOT / document).read_text().partition("| unit or drop-in | capabilities |")[2]


def test_without_a_drop_in_capabilities_are_none_rather_than_all() -> None:
    service = service_of("sockwatch.service")
    assert service["CapabilityBoundingSet"] == [""]
    assert service["AmbientCapabilities"] == [""]


def test_system_calls_are_the_documented_ones() -> None:
    allowed, denied = service_of("sockwatch.service")["SystemCallFilter"]
    rows = table("### System calls")
    assert denied.startswith("~")
    assert set(allowed.split()) == {
        name.strip("`") for name, row in rows.items() if row[0] == "yes"
    }
    assert set(denied[1:].split()) == {
        name.strip("`") for name, row in rows.items() if row[0] == "no"
    }


@pytest.mark.parametrize("name", [PROCESSES, NETNS, SOCKET])
def test_no_drop_in_changes_the_system_calls(name: str) -> None:
    assert not {setting for setting in service_of(name) if setting.startswith("SystemCall")}


def test_address_families_are_the_documented_ones() -> None:
    """A list begins anew after an empty one."""
    rows = table("### Address families")
    families = {name: service_of(name)["RestrictAddressFamilies"] for name in map(unquoted, rows)}
    assert families.keys() == {"sockwatch.service", SOCKET}
    assert families[SOCKET][0] == ""
    for name, lines in families.items():
        assert words(lines) == set(re.findall(r"AF_\w+", rows[f"`{name}`"][0]))


def unquoted(cell: str) -> str:
    return cell.strip("`")


@pytest.mark.parametrize("name", [PROCESSES, NETNS, SOCKET])
def test_the_readme_tells_what_each_drop_in_is_for(name: str) -> None:
    assert table("## Drop-ins")[f"`{name}`"]


# What the daemon needs


@pytest.mark.parametrize("name", ["sockwatch.service", PROCESSES, NETNS, SOCKET])
def test_nothing_it_reads_is_hidden(name: str) -> None:
    """Sockets of the host, /proc/stat and /proc/sys/net, and /sys/fs/cgroup."""
    service = service_of(name)
    assert set(service["PrivateNetwork"]) <= {"no"}
    assert set(service["ProcSubset"]) <= {"all"}
    assert not {"InaccessiblePaths", "RootDirectory", "RootImage"} & set(service)


def test_a_wrong_configuration_is_not_tried_again() -> None:
    service = service_of("sockwatch.service")
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["2"]


def test_what_fails_at_once_reaches_the_limit_of_starts() -> None:
    """Else it would be tried for ever. A start that fails takes a second or two."""
    seconds = {"s": 1, "min": 60}
    settings = dict(re.findall(r"^(StartLimit\w+|RestartSec)=(.+)$", UNIT, re.MULTILINE))
    spans = {
        name: float(number) * seconds.get(unit, 1)
        for name, value in settings.items()
        for number, unit in re.findall(r"^(\d+)(\w*)$", value)
    }
    starts = spans["StartLimitBurst"]
    assert starts * (spans["RestartSec"] + 2) < spans["StartLimitIntervalSec"]


def test_each_credential_may_be_missing() -> None:
    """systemd 252 starts no unit whose credential has neither file nor value."""
    service = service_of("sockwatch.service")
    names = [value.partition(":")[0] for value in service["LoadCredential"]]
    assert names == [value.partition(":")[0] for value in service["SetCredential"]]
