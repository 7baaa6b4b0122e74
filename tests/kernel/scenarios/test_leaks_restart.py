"""The daemon is killed, or told otherwise, while something leaks: what it still knows after."""

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon, environment, running
from lab import Namespace, eventually
from lab.stage import reach

from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

PORT = 8080
FLAGS = ("--watch.interval=100ms", "--cpu.budget=0", "--ages.close-wait=1s")


@pytest.fixture
def held() -> Iterator[list[socket.socket]]:
    """Sockets to be closed after the test."""
    made: list[socket.socket] = []
    yield made
    for sock in made:
        sock.close()


@pytest.fixture
def leaking(namespace: Namespace, held: list[socket.socket]) -> Namespace:
    """A namespace with one connection that its server does not close."""
    leak(namespace, held, PORT)
    return namespace


def leak(namespace: Namespace, held: list[socket.socket], port: int) -> None:
    with namespace.entered(), socket.create_server(("127.0.0.1", port)) as listener:
        client = socket.create_connection(("127.0.0.1", port))
        server, _ = listener.accept()
    held.append(server)
    client.close()
    reach(State.CLOSE_WAIT, server)


@contextmanager
def remembering(folder: Path, namespace: Namespace, *flags: str) -> Iterator[Daemon]:
    """The daemon with a state directory, as systemd gives it one."""
    env = environment(STATE_DIRECTORY=str(folder))
    with running(*FLAGS, *flags, namespace=namespace, env=env) as daemon:
        yield daemon


def leaks(daemon: Daemon) -> list[dict[str, Any]]:
    """Those in CLOSE_WAIT, the oldest first."""
    document = json.loads(daemon.get("/api/v1/leaks?state=close_wait").body)
    found: list[dict[str, Any]] = document["sockets"]
    return found


def oldest(daemon: Daemon) -> float:
    ages = daemon.metrics().values(
        "sockwatch_tcp_oldest_connection_age_seconds", state="close_wait"
    )
    return max(ages, default=0.0)


def kill(daemon: Daemon) -> None:
    daemon.send(signal.SIGKILL)
    assert daemon.ended() == -signal.SIGKILL


def test_a_leak_is_told_two_intervals_after_its_age_limit_at_the_latest(
    namespace: Namespace, held: list[socket.socket]
) -> None:
    interval, limit, busy = 0.5, 1.0, 1.0
    with running("--watch.interval=500ms", *FLAGS[1:], namespace=namespace) as daemon:
        leak(namespace, held, PORT)
        entered = time.monotonic()
        daemon.until(lambda: stuck(daemon), "a stuck connection")
        assert time.monotonic() - entered >= limit
        assert time.monotonic() - entered <= limit + 2 * interval + busy
        assert [one["local"]["port"] for one in leaks(daemon)] == [PORT]


def stuck(daemon: Daemon) -> float:
    return daemon.metrics().sum("sockwatch_tcp_stuck_connections")


def test_ages_go_on_after_a_kill(leaking: Namespace, tmp_path: Path) -> None:
    with remembering(tmp_path, leaking) as first:
        began = time.monotonic()
        first.until(lambda: oldest(first) > 2, "an age to keep")
        before = oldest(first)
        kill(first)
    with remembering(tmp_path, leaking) as second:
        after = oldest(second)
        assert before < after <= time.monotonic() - began + 1
        [told] = leaks(second)
        assert (told["age_seconds"] >= after, told["at_least"]) == (True, True)
        # Those that asked the daemon may have been about to close when it saved.
        assert re.search(r'msg="ages of [1-9]\d* connections read from ', second.log())


def test_without_a_state_directory_they_begin_anew(leaking: Namespace) -> None:
    with running(*FLAGS, namespace=leaking) as first:
        first.until(lambda: oldest(first) > 2, "an age")
        kill(first)
    with running(*FLAGS, namespace=leaking) as second:
        assert oldest(second) < 2


def test_what_came_after_the_last_save_is_at_least_as_old_as_the_restart(
    leaking: Namespace, tmp_path: Path, held: list[socket.socket]
) -> None:
    with remembering(tmp_path, leaking) as first:
        first.until(lambda: oldest(first) > 0.5, "a save")
        leak(leaking, held, PORT + 1)
        first.until(lambda: len(leaks(first)) == 2, "two leaks")
        assert [one["at_least"] for one in leaks(first)] == [True, False]
        kill(first)
    with remembering(tmp_path, leaking) as second:
        restarted = time.monotonic()
        second.until(lambda: len(leaks(second)) == 2, "two leaks")
        old, new = leaks(second)
        assert old["age_seconds"] > new["age_seconds"]
        assert new["age_seconds"] <= time.monotonic() - restarted + 1
        assert new["at_least"]


def test_after_a_stop_nothing_is_lost(
    leaking: Namespace, tmp_path: Path, held: list[socket.socket]
) -> None:
    with remembering(tmp_path, leaking) as first:
        first.until(lambda: oldest(first) > 0.5, "a save")
        leak(leaking, held, PORT + 1)
        first.until(lambda: len(leaks(first)) == 2, "two leaks")
        before = [one["age_seconds"] for one in leaks(first)]
        first.send(signal.SIGTERM)
        assert first.ended() == 0
    with remembering(tmp_path, leaking) as second:
        second.until(lambda: len(leaks(second)) == 2, "two leaks")
        after = [one["age_seconds"] for one in leaks(second)]
        assert [new > old for new, old in zip(after, before, strict=True)] == [True, True]


def test_who_waits_to_be_accepted_has_waited_before_the_restart_too(
    namespace: Namespace, tmp_path: Path, held: list[socket.socket]
) -> None:
    """Though the first pass does not yet look for them."""

    def waits(daemon: Daemon) -> float:
        ages = daemon.metrics().values(
            "sockwatch_tcp_oldest_connection_age_seconds", state="established"
        )
        return max(ages, default=0.0)

    with namespace.entered():
        held.append(socket.create_server(("127.0.0.1", PORT)))
        held.append(socket.create_connection(("127.0.0.1", PORT)))
    with remembering(tmp_path, namespace) as first:
        first.until(lambda: waits(first) > 2, "an age to keep")
        before = waits(first)
        first.send(signal.SIGTERM)
        assert first.ended() == 0
    with remembering(tmp_path, namespace) as second:
        second.until(lambda: waits(second), "the one that waits")
        assert waits(second) > before


def test_a_damaged_file_costs_one_line_of_the_log(leaking: Namespace, tmp_path: Path) -> None:
    (tmp_path / "ages").write_bytes(b"sockwatch ages 1 00000000\n\xff" * 99)
    with remembering(tmp_path, leaking) as daemon:
        daemon.until(lambda: len(leaks(daemon)) == 1, "a leak")
        lines = [line for line in daemon.log().splitlines() if "ages begin anew" in line]
        assert len(lines) == 1
        assert "level=WARN" in lines[0]
        kill(daemon)
    with remembering(tmp_path, leaking) as second:
        assert "ages begin anew" not in second.log()


def test_a_directory_that_cannot_be_written_costs_one_line_of_the_log(leaking: Namespace) -> None:
    with remembering(Path("/proc/sys"), leaking) as daemon:
        daemon.until(lambda: oldest(daemon) > 1, "an age")
        daemon.send(signal.SIGTERM)
        assert daemon.ended() == 0
        assert daemon.log().count("ages will not survive a restart") == 1


def test_processes_are_looked_for_from_a_reload_on(leaking: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "sockwatch.toml"

    def configure(processes: str) -> None:
        file.write_text(f"[owners]\nprocesses = {processes}\n")

    def processes(daemon: Daemon) -> list[object]:
        [one] = leaks(daemon) or [{"processes": []}]
        found: list[object] = one["processes"]
        return found

    configure("false")
    with running(*FLAGS, f"--config.file={file}", namespace=leaking) as daemon:
        daemon.until(lambda: leaks(daemon), "a leak")
        assert processes(daemon) == []
        for wanted in ("true", "false"):
            configure(wanted)
            daemon.send(signal.SIGHUP)
            eventually(
                lambda wanted=wanted: bool(processes(daemon)) is (wanted == "true"),  # type: ignore[misc]
                f"processes = {wanted}",
                60,
            )
