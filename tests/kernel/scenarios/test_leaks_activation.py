"""A service that systemd listens for leaks: it is the service that is named, and not systemd."""

import os
import signal
import socket
from pathlib import Path

import pytest
from lab import Namespace, eventually
from own_cgroups import Cgroups, enter
from scene import Scene

from sockwatch.observe.leaks import MANY

pytestmark = pytest.mark.kernel

PORT = 8080


def activate(manager: Path, service: Path) -> None:
    """Listen in one cgroup and start a process in another that accepts and leaks, as systemd."""
    enter(manager)
    with socket.create_server(("127.0.0.1", PORT)) as listener:
        if os.fork() == 0:
            enter(service)
            held = [listener.accept()[0] for _ in range(MANY)]
            signal.pause()
            del held
        signal.pause()


@pytest.fixture
def activated(cgroups: Cgroups, namespace: Namespace, slice_name: str) -> Namespace:
    manager = cgroups.make(f"{slice_name}/init.scope")
    service = cgroups.make(f"{slice_name}/echo.service")
    namespace.fork(activate, manager, service)
    eventually(lambda: namespace.run("ss", "-tlnH"), "a listener")
    return namespace


def leak(scene: Scene) -> None:
    for _ in range(MANY):
        scene.connect(PORT).close()
    namespace = scene.namespace

    def count() -> int:
        return len(namespace.run("ss", "-tnH", "state", "close-wait").splitlines())

    eventually(lambda: count() == MANY, "all in CLOSE_WAIT")
    scene.watch(61)


def units(scene: Scene) -> set[str]:
    """Of everything that is said of the port, by metrics and by `leaks`."""
    samples = scene.metrics().samples
    labels = [sample.labels for sample in samples if sample.labels.get("port") == f"{PORT}"]
    leaks = scene.leaks()
    told = [*leaks["groups"], *leaks["sockets"]]
    return {one["unit"] for one in (*labels, *told) if one.get("direction") != "outbound"}


def test_where_processes_are_known_the_unit_is_that_of_the_service(activated: Namespace) -> None:
    with Scene(activated, processes=True, close_wait=60) as scene:
        leak(scene)
        scene.until(lambda: units(scene) == {"echo.service"}, "the unit of the service")
        scene.census()
        assert units(scene) == {"echo.service"}
        [group] = scene.verdicts()
        assert group["connections"] == MANY


def test_where_they_are_not_it_is_that_of_who_listens(activated: Namespace) -> None:
    with Scene(activated, close_wait=60) as scene:
        leak(scene)
        scene.census()
        assert units(scene) == {"init.scope"}
