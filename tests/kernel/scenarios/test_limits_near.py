"""Limits of the kernel that come near: TIME_WAIT of a namespace, orphans and memory of the host.

The limits of the host are left alone. The program sees others, in a mount namespace where files
of the test's own lie over them; what is in use is real.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from daemon import environment
from guards import need_command
from lab import Namespace, eventually
from lab.stage import reach
from scene import Scene

from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

PORT: Final = 7001
ORPHANS: Final = 30
ENDLESS: Final = bytes(1 << 16)
SYSCTLS: Final = Path("/proc/sys/net/ipv4")
LOOK: Final = f"{sys.executable} -m sockwatch report --json"


@pytest.fixture
def abandoned(namespace: Namespace) -> Iterator[Scene]:
    """Orphans: the client has stopped reading, the server has written and closed."""
    with Scene(namespace) as scene:
        for _ in range(ORPHANS):
            _, server = scene.pair(PORT)
            server.setblocking(False)
            with suppress(BlockingIOError):
                while server.send(ENDLESS):
                    pass
            server.close()
        yield scene


def host_report(folder: Path, **limits: str) -> dict[str, Any]:
    """A look from the host's namespace, to which these sysctls seem to have other values."""
    need_command("unshare", "util-linux")
    script = []
    for name, value in limits.items():
        (folder / name).write_text(f"{value}\n")
        script.append(f"mount --bind {folder / name} {SYSCTLS / name}")
    command = ["unshare", "--mount", "sh", "-ec", "\n".join([*script, LOOK])]
    finished = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode in {0, 1}, finished.stderr
    told: dict[str, Any] = json.loads(finished.stdout)
    return told


def finding(told: dict[str, Any], kind: str) -> dict[str, Any] | None:
    return next((one for one in told["findings"] if one["kind"] == kind), None)


def sockstat_orphans() -> int:
    text = Path("/proc/net/sockstat").read_text()
    return int(text.partition("orphan ")[2].split()[0])


def test_orphans_are_those_that_no_process_holds(abandoned: Scene) -> None:
    """I15, telemt#677: scanners leave FIN_WAIT1 behind."""
    abandoned.census()
    metrics = abandoned.metrics()
    assert metrics.values("sockwatch_tcp_unowned_sockets", kind="orphan") == [ORPHANS]
    assert metrics.sum("sockwatch_tcp_connections", state="fin_wait1") == ORPHANS
    assert metrics.values("sockwatch_tcp_orphan_sockets")[0] >= ORPHANS


@pytest.mark.usefixtures("abandoned")
def test_orphans_are_found_from_a_quarter_of_the_limit_on(tmp_path: Path) -> None:
    before = [(SYSCTLS / name).read_text() for name in ("tcp_max_orphans", "tcp_mem")]
    limit = 2 * sockstat_orphans()
    told = host_report(tmp_path, tcp_max_orphans=f"{limit}")
    found = finding(told, "orphans")
    assert found is not None
    assert found["count"] >= ORPHANS
    assert found["limit"] == limit
    orphans = told["namespaces"][0]["figures"]["host"]["orphans"]
    assert orphans == {"sockets": found["count"], "limit": limit}
    assert finding(host_report(tmp_path), "orphans") is None
    assert [(SYSCTLS / name).read_text() for name in ("tcp_max_orphans", "tcp_mem")] == before


@pytest.mark.usefixtures("abandoned")
def test_memory_is_found_under_pressure(tmp_path: Path) -> None:
    """What the orphans have sent and nobody reads is some."""
    page = os.sysconf("SC_PAGE_SIZE")
    told = host_report(tmp_path, tcp_mem="1 2 1000000000")
    found = finding(told, "memory")
    assert found is not None
    assert found["limit"] == 1_000_000_000 * page
    assert "under pressure from 8.0 KiB on" in found["message"]
    used_up = finding(host_report(tmp_path, tcp_mem="1 2 3"), "memory")
    assert used_up is not None
    assert "over the limit of 12 KiB" in used_up["message"]


def leave_time_wait(scene: Scene, number: int) -> None:
    for _ in range(number):
        client, server = scene.pair(PORT)
        client.shutdown(1)
        reach(State.FIN_WAIT2, client)
        server.close()
        reach(State.CLOSE, client)
        client.close()


def test_time_wait_is_found_near_its_limit_and_what_does_not_fit_is_told(
    namespace: Namespace,
) -> None:
    namespace.set_sysctls({"net.ipv4.tcp_max_tw_buckets": 20, "net.ipv4.tcp_tw_reuse": 0})
    with Scene(namespace) as scene:
        leave_time_wait(scene, 17)
        scene.census()
        assert scene.findings() == {}
        leave_time_wait(scene, 3)
        scene.census()
        found = scene.findings()
        assert [*found] == ["time_wait"]
        assert (found["time_wait"].count, found["time_wait"].limit) == (20, 20)
        assert "times so far" not in found["time_wait"].meaning
        leave_time_wait(scene, 4)
        eventually(lambda: "20" in namespace.read("sockstat"), "sockstat")
        scene.census()
        metrics = scene.metrics()
        assert metrics.values("sockwatch_tcp_time_wait_sockets") == [20]
        assert metrics.values("sockwatch_tcp_time_wait_overflows_total") == [4]
        assert "happened 4 times so far" in scene.findings()["time_wait"].meaning
