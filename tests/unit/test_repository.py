"""The repository keeps its promises: locked versions, documented targets, tools that explain."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
LOCKS = {"runtime": ROOT / "requirements/runtime.txt", "dev": ROOT / "requirements/dev.txt"}
DEBIAN_PACKAGES = ROOT / "tools/debian-packages.txt"


def run(
    *command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


# The lock


def group(name: str) -> Iterator[Requirement]:
    for entry in PYPROJECT["dependency-groups"][name]:
        if isinstance(entry, str):
            yield Requirement(entry)
        else:
            yield from group(entry["include-group"])


def wanted(lock: str) -> list[Requirement]:
    extras = (line for lines in EXTRAS.values() for line in lines)
    dependencies = [Requirement(line) for line in (*PYPROJECT["project"]["dependencies"], *extras)]
    return dependencies + list(group("build" if lock == "runtime" else "dev"))


def pins(lock: str) -> dict[str, Version]:
    """Versions by canonical name; fails on a line that is neither pin, hash nor comment."""
    found: dict[str, Version] = {}
    for entry in LOCKS[lock].read_text().replace("\\\n", " ").splitlines():
        if entry.startswith("#"):
            continue
        match = re.fullmatch(
            r"([\w.-]+)==(\S+?)( ;[^-]*?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", entry
        )
        assert match, f"not an exact version with hashes: {entry}"
        found[canonicalize_name(match[1])] = Version(match[2])
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_holds_all_that_pyproject_asks_for(lock: str) -> None:
    locked = pins(lock)
    for requirement in wanted(lock):
        version = locked.get(canonicalize_name(requirement.name))
        assert version in requirement.specifier if version else None, (
            f"{requirement}: run make lock"
        )


def test_what_runs_is_what_was_tested() -> None:
    assert pins("runtime").items() <= pins("dev").items()


@pytest.mark.parametrize("path", [*LOCKS.values(), ROOT / "Makefile", ROOT / ".ci/run"], ids=str)
def test_packages_are_named_never_where_they_come_from(path: Path) -> None:
    assert not re.search(r"https?://|--(extra-)?index|--find-links|-i ", path.read_text())


def test_each_runtime_dependency_has_its_reason() -> None:
    prose = (ROOT / "CONTRIBUTING.md").read_text().partition("## Dependencies")[2]
    reasons = dict(re.findall(r"^\| ([\w-]+) \| ([^|]{20,}) \|$", prose, re.MULTILINE))
    assert reasons.keys() == {Requirement(d).name for d in PYPROJECT["project"]["dependencies"]}


def test_each_dependency_of_an_extra_has_its_reason() -> None:
    prose = (ROOT / "CONTRIBUTING.md").read_text().partition("## Dependencies")[2]
    told = re.findall(r"^\| (\S+) \| `(\w+)` \| [^|]{20,} \|$", prose, re.MULTILINE)
    assert sorted(told) == sorted(
        (Requirement(line).name, extra) for extra, lines in EXTRAS.items() for line in lines
    )


# Debian packages


def debian_packages() -> dict[str, str]:
    lines = DEBIAN_PACKAGES.read_text().splitlines()
    pairs = (line.partition("#") for line in lines if not line.startswith("#"))
    return {name.strip(): reason.strip() for name, _, reason in pairs}


def packages_tests_need() -> Iterator[str]:
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "need_command":
                package = node.args[1] if len(node.args) > 1 else node.keywords[0].value
                yield str(ast.literal_eval(package))


def test_each_debian_package_has_its_reason() -> None:
    assert all(debian_packages().values())


def test_make_test_installs_what_tests_need() -> None:
    assert set(packages_tests_need()) <= debian_packages().keys()


@pytest.fixture
def fake_debian(tmp_path: Path) -> Path:
    """A folder of programs in which nothing is installed and nobody is root."""
    programs = {"id": "echo 1000", "dpkg-query": "exit 1", "apt-get": "exit 99"}
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_without_root_missing_packages_are_named_and_not_installed(fake_debian: Path) -> None:
    environment = {"PATH": f"{fake_debian}:/usr/bin:/bin"}
    done = run(ROOT / "tools/install-debian-packages", DEBIAN_PACKAGES, env=environment)
    assert done.returncode == 0
    assert done.stdout.strip().endswith("apt-get install " + " ".join(debian_packages()))


# The environment


def make_venv(python: str | Path, venv: Path, path: str = "/usr/bin:/bin") -> tuple[int, str]:
    done = run(ROOT / "tools/make-venv", python, venv, env={"PATH": path})
    return done.returncode, done.stderr.strip()


def fake_python(path: Path, preamble: str) -> Path:
    """An interpreter that runs each -c program after a preamble."""
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{preamble}\n$2"\n')
    path.chmod(0o755)
    return path


def test_a_python_that_is_too_old_is_told(tmp_path: Path) -> None:
    old = fake_python(tmp_path / "python3", "import sys; sys.version_info = (3, 9, 2)")
    code, message = make_venv(old, tmp_path / "venv")
    assert code == 1
    assert message.endswith(
        "python3 is Python 3.9, but 3.11 or newer is needed; name another: make PYTHON=python3.11"
    )


def test_a_python_that_is_not_there_is_told(tmp_path: Path) -> None:
    code, message = make_venv("python3.99", tmp_path / "venv")
    assert code == 1
    assert "no python3.99 in PATH" in message


def test_without_ensurepip_the_package_to_install_is_named(
    tmp_path: Path, fake_debian: Path
) -> None:
    bare = fake_python(tmp_path / "python3", "import sys; sys.modules['ensurepip'] = None")
    code, message = make_venv(bare, tmp_path / "venv", path=f"{fake_debian}:/usr/bin:/bin")
    assert code == 1
    assert message.endswith(f"apt-get install python3.{sys.version_info.minor}-venv")


def test_a_failed_environment_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "python3"
    broken.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\nmkdir -p "$3/bin"\nexit 7\n'
    )
    broken.chmod(0o755)
    assert make_venv(broken, tmp_path / "venv") == (7, "")
    assert not (tmp_path / "venv").exists()


# Make


def make(*arguments: str, cwd: Path = ROOT) -> str:
    """Run make as if by hand, untouched by a make that runs these tests."""
    return run("make", *arguments, cwd=cwd, env={"PATH": "/usr/bin:/bin"}).stdout


def test_help_is_what_make_does_by_default_and_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    assert phony
    told = re.findall(r"^  ([a-z-]+) +\S", make(), re.MULTILINE)
    assert sorted(told) == sorted(set(phony[1].split()) - {"packages"})


def test_make_test_checks_style_and_types_before_the_tests() -> None:
    plan = make("--dry-run", "test")
    places = [
        plan.find(step) for step in ("ruff check", "ruff format --check", "bin/mypy", "bin/pytest")
    ]
    assert -1 not in places
    assert places == sorted(places)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A checkout whose environment is made, as make sees it."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    for stamp in (".runtime", ".dev"):
        (tmp_path / ".venv" / stamp).touch()
    return tmp_path


def steps(checkout: Path) -> list[str]:
    return make("--dry-run", ".venv/.dev", cwd=checkout).splitlines()


def test_a_finished_environment_is_left_alone(finished: Path) -> None:
    assert steps(finished) == ["make: '.venv/.dev' is up to date."]


def test_a_new_lock_is_installed(finished: Path) -> None:
    tomorrow = time.time() + 86400
    os.utime(finished / "requirements/dev.txt", (tomorrow, tomorrow))
    assert [" install " in step for step in steps(finished)] == [True, False]


def test_an_environment_whose_python_is_gone_is_made_anew(finished: Path) -> None:
    python = finished / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    first, *others = steps(finished)
    assert first == "tools/make-venv python3 .venv"
    assert sum(" install " in step for step in others) == 3
