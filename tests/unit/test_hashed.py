"""How many sockets are in the tables of all network namespaces, and when that is not known."""

from pathlib import Path
from typing import Final

import pytest

from sockwatch.kernel import hashed
from sockwatch.kernel.hashed import hashed_everywhere

MOUNT: Final = "41 35 0:4 {root} /run/netns/blue rw shared:9 - nsfs nsfs rw\n"


class Proc:
    """A /proc of processes in network namespaces; files of one namespace are one file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("self/ns/pid", "")
        self.write("self/mountinfo", "22 1 254:0 / / rw - ext4 /dev/vda rw\n")
        self._namespaces: dict[str, Path] = {}

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def namespace(self, name: str, inuse: int, inuse6: int | None) -> None:
        """A network namespace; without IPv6 it has no sockstat6."""
        self._namespaces[name] = self.root / "namespaces" / name
        self.write(f"namespaces/{name}/ns/net", "")
        self.write(
            f"namespaces/{name}/net/sockstat", f"sockets: used 9\nTCP: inuse {inuse} orphan 0\n"
        )
        if inuse6 is not None:
            self.write(f"namespaces/{name}/net/sockstat6", f"TCP6: inuse {inuse6}\n")

    def process(self, pid: int, namespace: str | None) -> None:
        """A process in a namespace; a zombie is in none."""
        home = self.root / str(pid)
        home.mkdir()
        if namespace is not None:
            for part in ("net", "ns"):
                (home / part).symlink_to(self._namespaces[namespace] / part)

    def mount(self, namespace: str) -> None:
        inode = (self._namespaces[namespace] / "ns/net").stat().st_ino
        text = MOUNT.format(root=f"net:[{inode}]") + MOUNT.format(root="uts:[1]")
        self.write("self/mountinfo", text)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    """A host with two processes in its own namespace and two in a container's."""
    made = Proc(tmp_path)
    monkeypatch.setattr(hashed, "_PID_INIT", (tmp_path / "self/ns/pid").stat().st_ino)
    made.namespace("host", 100, 20)
    made.namespace("container", 7, None)
    for pid, namespace in ((1, "host"), (2, "host"), (30, "container"), (100, "container")):
        made.process(pid, namespace)
    return made


def test_each_namespace_is_counted_once(proc: Proc) -> None:
    assert hashed_everywhere(proc.root) == 127


def test_a_zombie_is_in_no_namespace(proc: Proc) -> None:
    proc.process(31, None)
    assert hashed_everywhere(proc.root) == 127


def test_a_mounted_namespace_with_a_process_is_counted_once(proc: Proc) -> None:
    proc.mount("container")
    assert hashed_everywhere(proc.root) == 127


def test_a_mounted_namespace_without_a_process_makes_the_sum_unknown(proc: Proc) -> None:
    proc.namespace("blue", 0, 0)
    proc.mount("blue")
    assert hashed_everywhere(proc.root) is None


def test_mounts_that_cannot_be_told_from_namespaces_make_the_sum_unknown(proc: Proc) -> None:
    proc.mount("container")
    (proc.root / "30/ns").unlink()
    assert hashed_everywhere(proc.root) is None


def test_a_process_that_must_not_be_looked_at_makes_the_sum_unknown(proc: Proc) -> None:
    proc.process(31, None)
    (proc.root / "31/net").symlink_to("net")  # an error for root as well
    assert hashed_everywhere(proc.root) is None


def test_where_processes_are_hidden_the_sum_is_unknown(proc: Proc) -> None:
    for part in ("net", "ns"):
        (proc.root / "1" / part).unlink()
    (proc.root / "1").rmdir()
    assert hashed_everywhere(proc.root) is None


def test_in_a_pid_namespace_of_its_own_the_sum_is_unknown(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashed, "_PID_INIT", 0)
    assert hashed_everywhere(proc.root) is None


@pytest.mark.parametrize("text", ["", "TCP: inuse x\n", "TCP: orphan 0\n"])
def test_a_namespace_that_cannot_be_understood_makes_the_sum_unknown(proc: Proc, text: str) -> None:
    proc.write("namespaces/container/net/sockstat", text)
    assert hashed_everywhere(proc.root) is None


def test_a_host_without_proc_is_unknown(tmp_path: Path) -> None:
    assert hashed_everywhere(tmp_path / "absent") is None
