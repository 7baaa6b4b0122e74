"""The Debian package, before it is installed anywhere."""

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from debian import build, run

from sockwatch import __version__

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.timeout(600)]

LIBRARY = "usr/lib/sockwatch"


@pytest.fixture(scope="module")
def files(package: Path) -> dict[str, tarfile.TarInfo]:
    """What the package installs, folders aside, by path without the leading slash."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    data = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        return {member.name[2:]: member for member in archive if not member.isdir()}


def control(package: Path, *fields: str) -> str:
    return run("dpkg-deb", "--field", package, *fields).strip()


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    run("dpkg-deb", "--raw-extract", package, folder)
    return folder


def test_it_has_the_version_of_the_program(package: Path) -> None:
    assert control(package, "Version") == __version__


def test_it_depends_on_nothing_but_python_kill_and_what_c_needs(package: Path) -> None:
    names = {entry.split()[0] for entry in control(package, "Depends").split(",")}
    assert {"procps", "python3"} <= names <= {"libc6", "libgcc-s1", "procps", "python3"}


def test_it_installs_only_where_it_says(files: dict[str, tarfile.TarInfo]) -> None:
    places = (
        "etc/default/sockwatch",
        "etc/sockwatch/sockwatch.toml",
        "lib/systemd/system/sockwatch.",
        "usr/bin/sockwatch",
        f"{LIBRARY}/",
        "usr/share/bash-completion/completions/sockwatch",
        "usr/share/doc/sockwatch/",
        "usr/share/lintian/overrides/sockwatch",
        "usr/share/man/man1/sockwatch.1.gz",
        "usr/share/man/man5/sockwatch.toml.5.gz",
        "usr/share/sockwatch/",
    )
    assert [name for name in files if not name.startswith(places)] == []
    assert [place for place in places if not any(name.startswith(place) for name in files)] == []


def test_everything_belongs_to_root_and_only_root_may_change_it(
    files: dict[str, tarfile.TarInfo],
) -> None:
    modes = {name: (file.mode, file.uid, file.gid) for name, file in files.items()}
    assert set(modes.values()) == {(0o644, 0, 0), (0o755, 0, 0)}
    assert modes["usr/bin/sockwatch"][0] == 0o755


def test_what_administrators_edit_are_conffiles(unpacked: Path) -> None:
    conffiles = (unpacked / "DEBIAN/conffiles").read_text().split()
    assert conffiles == ["/etc/default/sockwatch", "/etc/sockwatch/sockwatch.toml"]


def test_it_ships_the_units_of_this_checkout(unpacked: Path, checkout: Path) -> None:
    for installed, sources in {
        "lib/systemd/system": checkout.glob("systemd/sockwatch.s*"),
        "usr/share/sockwatch": checkout.glob("systemd/*.conf"),
        "etc/sockwatch": checkout.glob("systemd/*.toml"),
    }.items():
        expected = {source.name: source.read_text() for source in sources}
        found = {path.name: path.read_text() for path in (unpacked / installed).iterdir()}
        assert expected
        assert found == expected


def test_its_compiled_parts_suit_every_python_from_debians_on(
    files: dict[str, tarfile.TarInfo],
) -> None:
    assert [name for name in files if name.endswith(".so") and ".abi3." not in name] == []


def test_it_holds_nothing_that_only_pip_would_use(files: dict[str, tarfile.TarInfo]) -> None:
    folders = {name.split("/")[3] for name in files if name.startswith(f"{LIBRARY}/")}
    assert not folders & {"bin", "pip", "hatchling", "__pycache__"}
    assert not {name for name in files if name.endswith((".pyc", "/RECORD", "/direct_url.json"))}


def libraries(folder: Path) -> Iterator[str]:
    for metadata in (folder / LIBRARY).glob("*.dist-info"):
        yield metadata.name.partition("-")[0]


def test_it_names_the_copyright_of_each_library_in_it(unpacked: Path) -> None:
    text = (unpacked / "usr/share/doc/sockwatch/copyright").read_text()
    names = set(libraries(unpacked)) - {"sockwatch"}
    assert {"prometheus_client", "psutil", "pyroute2", "uvicorn"} <= names
    assert [name for name in names if f" {LIBRARY}/{name}*" not in text] == []


def test_it_carries_the_licence_of_each_library_in_it(unpacked: Path) -> None:
    for metadata in (unpacked / LIBRARY).glob("*.dist-info"):
        assert list(metadata.rglob("LICENSE*")), metadata


def test_the_same_source_makes_the_same_package(
    package: Path, checkout: Path, tmp_path: Path
) -> None:
    """At another place, at another time, with other permissions for new files."""
    elsewhere = shutil.copytree(checkout, tmp_path / "elsewhere", copy_function=shutil.copy)
    before = os.umask(0o077)
    try:
        again = build(elsewhere, tmp_path / "package")
    finally:
        os.umask(before)
    assert again.name == package.name
    assert digest(again) == digest(package)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
