"""The program on a booted machine without the package: installed with pipx, as is documented."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import Machine, debian_tree
from debian import run
from guards import need_root

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

URL = "http://127.0.0.1:10077"


@pytest.fixture(scope="module")
def wheels(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip would fetch, in the locked versions: the machine has no network."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(
        *(*pip, "download", "--no-deps", "--require-hashes", "--dest", folder),
        *("--python-version", "3.11", "--only-binary", ":all:"),
        *("--requirement", checkout / "requirements/runtime.txt"),
    )
    return folder


@pytest.fixture(scope="module")
def installed(checkout: Path, wheels: Path) -> Iterator[Machine]:
    """The machine after the commands of systemd/README.md were run in a checkout."""
    need_root()
    with Machine(debian_tree("pipx"), {"/srv/checkout": checkout, "/srv/wheels": wheels}) as made:
        without_index = "export PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels"
        made.run("sh", "-ec", f"cd /srv/checkout; {without_index}\n{documented()}", timeout=120)
        yield made


def documented() -> str:
    text = (Path(__file__).parents[2] / "systemd/README.md").read_text()
    (commands,) = re.findall(r"^```sh\n([^`]*pipx install[^`]*)^```$", text, re.MULTILINE)
    return str(commands)


def test_the_service_runs_from_there(installed: Machine) -> None:
    assert installed.systemctl("is-enabled", "sockwatch") == "enabled"
    assert "sockwatch_build_info" in installed.get(f"{URL}/metrics")
    program = installed.run("readlink", "--canonicalize", "/usr/bin/sockwatch").strip()
    assert program == "/opt/pipx/venvs/sockwatch/bin/sockwatch"


def test_it_is_confined_as_the_packaged_one(installed: Machine) -> None:
    status = installed.run("cat", f"/proc/{installed.show('sockwatch', 'MainPID')}/status")
    assert re.search(r"^CapBnd:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)


def test_drop_ins_are_where_the_readme_says(installed: Machine) -> None:
    shipped = {path.name for path in (Path(__file__).parents[2] / "systemd").glob("*.conf")}
    assert set(installed.run("ls", "/usr/share/sockwatch").split()) == shipped


def test_what_tls_and_passwords_take_came_with_it(installed: Machine) -> None:
    installed.write("/root/web.yml", "basic_auth_users: {prometheus: wrong}\n")
    installed.write("/root/sockwatch.toml", '[web]\nconfig_file = "/root/web.yml"\n')
    told = installed.run("sockwatch", "check-config", "/root/sockwatch.toml", check=False)
    assert "/root/web.yml:1: basic_auth_users.prometheus" in told
    assert "bcrypt" in told
