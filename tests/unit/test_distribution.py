"""Wheel and sdist hold what they should, and install with pip where nothing else is."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from sockwatch import __version__

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path) -> str:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "--directory", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_runs_on_every_machine_with_python_3(wheel: Path) -> None:
    assert wheel.name == f"sockwatch-{__version__}-py3-none-any.whl"


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "sockwatch").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"sockwatch/py.typed", "sockwatch/web/style.css"} <= package
    assert {name for name in members(wheel) if ".dist-info/" not in name} == package


def test_the_wheel_carries_the_licence(wheel: Path) -> None:
    assert f"sockwatch-{__version__}.dist-info/licenses/LICENSE" in members(wheel)


@pytest.mark.parametrize("name", ["systemd/sockwatch.service", "deploy/debian/control", "Makefile"])
def test_the_sdist_is_enough_to_build_the_debian_package(sdist: Path, name: str) -> None:
    with tarfile.open(sdist) as archive:
        assert f"sockwatch-{__version__}/{name}" in archive.getnames()


def test_the_sdist_makes_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, sdist)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which the wheel was installed.

    Its dependencies are those of the environment that runs the tests, by a path, as the tests must
    not depend on a network; the path shows no editable installation.
    """
    venv = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip("--python", venv / "bin/python", "install", "--no-deps", "--no-index", wheel)
    return venv / "bin"


def test_the_installed_program_tells_its_version(clean: Path, tmp_path: Path) -> None:
    told = run(clean / "sockwatch", "--version", cwd=tmp_path)
    assert told == f"sockwatch {__version__}\n"


def test_the_installed_program_is_the_wheel_not_the_checkout(clean: Path, tmp_path: Path) -> None:
    where = "import sockwatch.daemon; print(sockwatch.__file__)"
    assert str(clean.parent) in run(clean / "python", "-c", where, cwd=tmp_path)
