"""Sysctls are read as they are, and what cannot be read is absent."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from sockwatch.kernel.sysctls import read_all, read_integer, read_integers, read_ranges

FILES = {
    "tcp_retries2": b"15\n",
    "tcp_mem": b"188463\t251284\t376926\n",
    "tcp_congestion_control": b"cubic\n",
    "tcp_fastopen_key": b"\xff\xfe\n",
    "tcp_empty": b"",
    "tcp_adv_win_scale": b"-2\n",
    "ip_local_reserved_ports": b"22,8000-8010,9000\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "net/ipv4"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tcp_retries2", (15,)),
        ("tcp_mem", (188463, 251284, 376926)),
        ("tcp_adv_win_scale", (-2,)),
        ("tcp_congestion_control", None),
        ("tcp_fastopen_key", None),
        ("tcp_empty", None),
        ("tcp_of_a_later_kernel", None),
    ],
)
def test_numbers_are_read_and_anything_else_is_absent(
    root: Path, name: str, expected: tuple[int, ...] | None
) -> None:
    assert read_integers(f"net.ipv4.{name}", root) == expected


def test_one_number_is_not_three(root: Path) -> None:
    assert read_integer("net.ipv4.tcp_retries2", root) == 15
    assert read_integer("net.ipv4.tcp_mem", root) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ip_local_reserved_ports", (range(22, 23), range(8000, 8011), range(9000, 9001))),
        ("tcp_retries2", (range(15, 16),)),
        ("tcp_empty", ()),
        ("tcp_mem", None),
        ("tcp_congestion_control", None),
        ("tcp_of_a_later_kernel", None),
    ],
)
def test_ranges_are_read_and_none_is_not_absent(
    root: Path, name: str, expected: tuple[range, ...] | None
) -> None:
    assert read_ranges(f"net.ipv4.{name}", root) == expected


@pytest.mark.parametrize(
    "name", ["net.ipv4", "", "net\0ipv4", "net.ipv4.tcp_retries2.more", "\udcff"]
)
def test_a_name_that_is_no_sysctl_is_absent(root: Path, name: str) -> None:
    assert read_integers(name, root) is None


def test_all_that_were_asked_for_are_answered(root: Path) -> None:
    names = ["net.ipv4.tcp_retries2", "net.ipv4.tcp_of_a_later_kernel"]
    assert read_all(names, root) == {names[0]: 15, names[1]: None}


def test_a_host_without_proc_has_none(tmp_path: Path) -> None:
    assert read_all(["net.core.somaxconn"], tmp_path / "absent") == {"net.core.somaxconn": None}


def test_this_host_has_the_sysctls_that_every_kernel_has() -> None:
    names = ["net.core.somaxconn", "net.ipv4.tcp_syn_retries", "net.ipv4.tcp_fin_timeout"]
    for name, value in read_all(names).items():
        assert value == int(Path("/proc/sys", *name.split(".")).read_text("ascii"))


READ_ALL: Final = """
import sys
from sockwatch.kernel import boot, counters, hashed, multipath, ports
known = set(sys.modules)
boot.identity(), counters.Counters().read(), counters.read_limits(), ports.ephemeral_flags()
hashed.hashed_everywhere(), multipath.families_in_use()
print(*set(sys.modules) - known)
"""


def test_reading_the_kernel_takes_no_more_of_python() -> None:
    """Who has dropped privileges may be barred from its files, those of codecs included."""
    read = subprocess.run([sys.executable, "-c", READ_ALL], check=True, capture_output=True)
    assert read.stdout.split() == []
