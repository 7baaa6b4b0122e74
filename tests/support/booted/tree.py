"""The Debian trees that machines are booted from: made by debootstrap, cached."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from guards import need, need_command

SUITE: Final = "bookworm"
PACKAGES: Final = (
    "dbus",
    "iproute2",  # ss, the oracle
    "procps",  # the package depends on it
    "python3",  # likewise
    "systemd",
    "systemd-sysv",
)
LONGEST_USE: Final = 30 * 24 * 3600
"""Seconds after which a tree is made anew, with what Debian has mended since."""
_TIMEOUT: Final = 500
_DIGITS: Final = 12


def debian_tree(*more: str) -> Path:
    """Return a tree with systemd and what the package depends on; made now if there is none.

    Args:
        more: packages beyond these.
    """
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    packages = (*PACKAGES, *more)
    tree = folder / "-".join((SUITE, *more, _recipe(packages)))
    with _alone(folder):
        if not _usable(tree):
            _make(tree, packages)
    return tree


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sockwatch-tests"


def _recipe(packages: Sequence[str]) -> str:
    """A name that changes with what a tree is made of."""
    return hashlib.sha256("\n".join(packages).encode()).hexdigest()[:_DIGITS]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _usable(tree: Path) -> bool:
    """A tree is there only if it is complete; the time of its folder is when it was made."""
    return tree.exists() and time.time() - tree.stat().st_mtime < LONGEST_USE


def _make(tree: Path, packages: Sequence[str]) -> None:
    """Make the tree, in place of every older one of its kind."""
    debootstrap = need_command("debootstrap", "debootstrap")
    kind = tree.name.rpartition("-")[0]
    for old in tree.parent.glob(f"{kind}-{'[0-9a-f]' * _DIGITS}*"):
        shutil.rmtree(old)
    new = tree.with_name(tree.name + ".new")
    options = ["--variant=minbase", f"--include={','.join(packages)}"]
    done = subprocess.run(
        [debootstrap, *options, SUITE, str(new)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
        umask=0o022,
    )
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    need(done.returncode == 0, f"needs a Debian tree, but debootstrap failed: {last}")
    for archive in (new / "var/cache/apt/archives").glob("*.deb"):
        archive.unlink()
    new.touch()
    new.rename(tree)
