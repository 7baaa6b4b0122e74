"""The package as built from this checkout, and machines that it is installed on."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import Machine, debian_tree
from debian import build
from guards import need_root

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist")


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "write a table of what abusive clients cost others"
    parser.addoption("--abuse-table", metavar="FILE", help=told)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that nobody edits while the tests run."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "copy", ignore=NOT_SOURCE)


@pytest.fixture(scope="session")
def package(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package, alone in its folder."""
    return build(checkout, tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="session")
def tree() -> Path:
    need_root()
    return debian_tree()


@pytest.fixture(scope="module")
def bare(tree: Path, package: Path) -> Iterator[Machine]:
    """A booted machine with the package in /srv, not yet installed."""
    with Machine(tree, {"/srv": package.parent}) as machine:
        yield machine


@pytest.fixture(scope="session")
def shared(tree: Path, package: Path) -> Iterator[Machine]:
    """A booted machine on which the package was installed, as its users do."""
    with Machine(tree, {"/srv": package.parent}) as machine:
        machine.run("apt-get", "install", "--yes", f"/srv/{package.name}")
        machine.run("cp", "--archive", "/etc/sockwatch", "/root/shipped")
        yield machine


AS_INSTALLED = """
systemctl disable --now sockwatch.socket
systemctl stop sockwatch.service
systemctl reset-failed
rm -rf /etc/systemd/system/sockwatch.*.d /run/systemd/system/sockwatch.*.d
rm -rf /etc/sockwatch /var/lib/private/sockwatch/*
cp --archive /root/shipped /etc/sockwatch
journalctl --rotate --vacuum-time=1s
set -e
systemctl daemon-reload
systemctl start sockwatch.service
"""


@pytest.fixture(scope="module")
def machine(shared: Machine) -> Machine:
    """The machine that all share, as if the package had only just been installed."""
    shared.run("sh", "-c", AS_INSTALLED)
    return shared
