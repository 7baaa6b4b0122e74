"""The laboratory itself: it does what tests rely on, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from lab import RECIPES, LabError, Namespace, Stage, eventually
from pyroute2 import IPRoute

from sockwatch.tcp.states import Family, State

pytestmark = pytest.mark.kernel

NOBODY = 65534
NSID = 7


def here() -> int:
    """The inode number of the calling thread's network namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


def descriptors() -> set[str]:
    return {entry.name for entry in os.scandir("/proc/self/fd")}


def running(pid: int) -> bool:
    """Whether a process is alive; a zombie that somebody else has to reap is not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


@contextmanager
def outlived(namespace: Namespace) -> Iterator[Namespace]:
    """Another namespace, in which the kernel keeps an id for this one for as long as it exists."""
    with Namespace() as watcher:
        with watcher.entered(), IPRoute() as routes:
            routes.set_netnsid(nsid=NSID, fd=namespace.fd)
        yield watcher


def known_ids(watcher: Namespace) -> str:
    return watcher.run("ip", "netns", "list-id").strip()


def two_or_more(pids: list[int]) -> list[int]:
    return pids if len(pids) > 1 else []


def sleep_long() -> None:
    time.sleep(60)


def test_the_kernel_lets_go_of_a_namespace_that_had_sockets_of_every_kind(laboratory: None) -> None:
    """Orphans hold their namespace: left alone, for 107 s."""
    before = descriptors()
    namespace = Namespace()
    with outlived(namespace) as watcher:
        with namespace, Stage(namespace) as stage:
            for recipe in RECIPES:
                stage.play(recipe, Family.INET6, 1)
            assert known_ids(watcher) == f"nsid {NSID}"
        eventually(lambda: not known_ids(watcher), "namespace gone", timeout=10)
    assert descriptors() == before


def test_a_failing_test_leaves_no_namespace_either(laboratory: None) -> None:
    namespace = Namespace()
    with outlived(namespace) as watcher:
        with pytest.raises(ZeroDivisionError), namespace, namespace.entered():
            raise ZeroDivisionError
        eventually(lambda: not known_ids(watcher), "namespace gone", timeout=10)


def test_a_namespace_that_cannot_be_set_up_is_not_kept(laboratory: None) -> None:
    before = descriptors()
    with pytest.raises(LabError, match=r"net\.ipv4\.no_such"):
        Namespace(sysctls={"net.ipv4.no_such": 1})
    assert descriptors() == before


def test_what_was_started_inside_ends_with_the_namespace(laboratory: None) -> None:
    with Namespace() as namespace:
        namespace.start("sleep", "60")
        namespace.fork(sleep_long)
        pids = eventually(lambda: two_or_more(namespace.processes()), "both processes inside")
    assert not any(map(running, pids))


def test_what_a_stubborn_process_started_ends_with_the_namespace(laboratory: None) -> None:
    with Namespace() as namespace:
        namespace.start("sh", "-c", "trap '' TERM; setsid sleep 60 & wait; wait")
        pids = eventually(lambda: two_or_more(namespace.processes()), "both processes inside")
    assert not any(map(running, pids))


def test_what_was_started_inside_ends_when_the_test_is_killed(
    laboratory: None, tmp_path: Path
) -> None:
    script = """
import time
from lab import Namespace

namespace = Namespace()
children = (namespace.start("sleep", "60"), namespace.fork(time.sleep, 60))
print(*(child.pid for child in children), flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as test:
        assert test.stdout is not None
        pids = [int(pid) for pid in test.stdout.readline().split()]
        try:
            assert [running(pid) for pid in pids] == [True, True]
        finally:
            test.send_signal(signal.SIGKILL)
    eventually(lambda: not any(map(running, pids)), "children ended")


def test_a_namespace_has_its_own_loopback_and_no_way_out(namespace: Namespace) -> None:
    with Namespace() as other, namespace.entered():
        listener = socket.create_server(("::1", 7000), family=socket.AF_INET6)
        with listener, socket.create_connection(("::1", 7000), timeout=5):
            with other.entered(), pytest.raises(ConnectionRefusedError):
                socket.create_connection(("::1", 7000), timeout=5)
            with pytest.raises(OSError, match="unreachable"):
                socket.create_connection(("192.0.2.1", 7000), timeout=5)


def test_a_thread_comes_back_from_a_namespace_also_after_an_error(namespace: Namespace) -> None:
    outside = here()
    with pytest.raises(ZeroDivisionError), namespace.entered():
        raise ZeroDivisionError
    assert here() == outside
    with namespace.entered():
        assert here() != outside
    assert here() == outside


def test_everything_runs_in_the_same_namespace(namespace: Namespace) -> None:
    with namespace.entered():
        inside = here()
    path = "/proc/self/ns/net"
    assert f"net:[{inside}]" == namespace.run("readlink", path).strip()
    assert f"net:[{inside}]" == namespace.call(os.readlink, path)
    assert inside == Path(namespace.path).stat().st_ino
    with closing(namespace.socket(socket.AF_INET)) as sock:
        sock.bind(("127.0.0.1", 7000))
        sock.listen()
        assert ":1B58 " in namespace.read("tcp")
    assert ":1B58 " not in Path("/proc/self/net/tcp").read_text()


def test_sysctls_are_those_of_the_namespace(laboratory: None) -> None:
    name = "net.ipv4.ip_local_port_range"
    outside = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    with Namespace(sysctls={name: "40000 40003", "net.core.somaxconn": 8}) as namespace:
        assert namespace.sysctl(name).split() == ["40000", "40003"]
        assert namespace.sysctl("net.core.somaxconn") == "8"
    assert Path("/proc/sys/net/ipv4/ip_local_port_range").read_text() == outside


def test_a_sysctl_of_the_host_is_refused(namespace: Namespace) -> None:
    with pytest.raises(LabError, match="tcp_max_orphans does not exist in a network namespace"):
        namespace.set_sysctls({"net.ipv4.tcp_max_orphans": 1})


def test_filters_add_up(namespace: Namespace) -> None:
    for port in (7000, 7001):
        namespace.filter(f"tcp dport {port} drop")
    assert namespace.run("nft", "list", "chain", "inet", "lab", "arriving").count("drop") == 2


def test_an_unprivileged_reader_has_no_capability(namespace: Namespace) -> None:
    status = ("/proc/self/status", "/proc/thread-self/status")
    forked = namespace.call(Path(status[1]).read_text, uid=NOBODY)
    started = namespace.run("cat", status[0], uid=NOBODY)
    for text in (forked, started):
        fields = dict(line.split(":\t", 1) for line in text.splitlines())
        assert fields["Uid"].split() == [str(NOBODY)] * 4
        assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}
        assert fields["NoNewPrivs"] == "1"


def test_a_command_that_fails_says_why(namespace: Namespace) -> None:
    with pytest.raises(LabError, match=r"exits with 1: .*expecting hook"):
        namespace.run("nft", "-f", "-", text="add chain inet x y { type none; }\n")


def test_a_command_is_bounded_in_time(namespace: Namespace) -> None:
    with pytest.raises(LabError, match=r"longer than 0\.1 s"):
        namespace.run("sleep", "60", timeout=0.1)


def test_a_call_hands_its_error_over(namespace: Namespace) -> None:
    with pytest.raises(LabError, match=r"FileNotFoundError.*no/such/file"):
        namespace.call(os.stat, "/no/such/file")


def test_a_call_that_dies_is_told_from_one_that_answers(namespace: Namespace) -> None:
    with pytest.raises(LabError, match="died with exit code 3"):
        namespace.call(os._exit, 3)


def test_a_call_is_bounded_in_time(namespace: Namespace) -> None:
    with pytest.raises(LabError, match=r"no answer from process \d+ within 0\.1 s"):
        namespace.call(sleep_long, timeout=0.1)


def test_what_never_comes_is_said_with_what_was_seen_last(laboratory: None) -> None:
    with pytest.raises(LabError, match=r"moon: not so within 0\.02 s, last seen None"):
        eventually(lambda: None, "moon", timeout=0.02)


def test_a_stage_knows_what_is_on_it(namespace: Namespace) -> None:
    with Stage(namespace) as stage:
        listening = next(recipe for recipe in RECIPES if recipe.state is State.LISTEN)
        assert len(stage.play(listening, Family.INET, 3)) == 3
        assert stage.sockets == {(Family.INET, State.LISTEN): 3}
        assert not stage.unowned
