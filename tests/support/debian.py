"""Debian packages made of a checkout."""

import subprocess
import sys
from pathlib import Path

from guards import need_command


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program to its end; return what it printed, AssertionError if it failed."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def build(checkout: Path, folder: Path) -> Path:
    """Build the package of a checkout; the folder is then there and holds only that."""
    need_command("dpkg-buildpackage", "debhelper")
    need_command("dh", "debhelper")
    run(checkout / "tools/make-deb", sys.executable, folder, cwd=checkout)
    (package,) = folder.glob("*.deb")
    return package


def with_version(package: Path, version: str, folder: Path) -> Path:
    """Pack a package again, as that of another version."""
    run("dpkg-deb", "--raw-extract", package, folder / version)
    control = folder / version / "DEBIAN/control"
    lines = control.read_text().splitlines()
    changed = [f"Version: {version}" if line.startswith("Version:") else line for line in lines]
    control.write_text("\n".join(changed) + "\n")
    name, _, architecture = package.stem.split("_")
    repacked = folder / f"{name}_{version}_{architecture}.deb"
    run("dpkg-deb", "--build", "--root-owner-group", folder / version, repacked)
    return repacked
