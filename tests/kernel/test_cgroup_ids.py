"""The ids that the kernel reports for live sockets lead to the cgroups they were made in."""

import signal
import socket
from pathlib import Path

import pytest
from lab import Namespace, eventually
from own_cgroups import Cgroups, enter
from pyroute2 import DiagSocket

from sockwatch.kernel.cgroups import UnitResolver
from sockwatch.tcp.states import State

pytestmark = pytest.mark.kernel

PORT = 7000
NOBODY = 65534


def serve(cgroup: Path) -> None:
    """Listen and accept one connection from within the cgroup, then wait to be killed."""
    enter(cgroup)
    with socket.create_server(("127.0.0.1", PORT)) as server:
        peer, _ = server.accept()
        with peer:
            signal.pause()


def cgroup_ids(namespace: Namespace, state: State) -> list[int]:
    """Cgroup ids of the server's sockets in that state, as pyroute2 decodes them."""
    with namespace.entered(), DiagSocket() as diag:
        diag.bind()
        messages = diag.get_sock_stats(family=socket.AF_INET, states=1 << state)
        return [
            message.get_attr("INET_DIAG_CGROUP_ID")
            for message in messages
            if message["idiag_sport"] == PORT
        ]


def units(ids: list[int]) -> list[str]:
    resolver = UnitResolver()
    return [resolver.unit(cgroup_id, 0.0) for cgroup_id in ids]


def connected(namespace: Namespace, cgroup: Path) -> socket.socket:
    """A connection to a server in the cgroup, accepted."""
    namespace.fork(serve, cgroup)
    eventually(lambda: cgroup_ids(namespace, State.LISTEN), "a listener")
    client = namespace.socket(socket.AF_INET)
    client.connect(("127.0.0.1", PORT))
    return client


@pytest.mark.parametrize("cgroup", ["app@1.service", "app@1.service/workers/3"])
def test_listeners_and_accepted_sockets_lead_to_their_unit(
    cgroups: Cgroups, namespace: Namespace, slice_name: str, cgroup: str
) -> None:
    with connected(namespace, cgroups.make(f"{slice_name}/{cgroup}")):
        assert units(cgroup_ids(namespace, State.LISTEN)) == ["app@1.service"]
        assert units(cgroup_ids(namespace, State.ESTABLISHED)) == ["app@1.service"]


def test_a_container_is_named_by_its_short_id(
    cgroups: Cgroups, namespace: Namespace, slice_name: str
) -> None:
    container = "0123456789ab" + "c" * 52
    with connected(namespace, cgroups.make(f"{slice_name}/docker-{container}.scope")):
        assert units(cgroup_ids(namespace, State.LISTEN)) == ["docker-0123456789ab"]


def test_no_privilege_is_needed_to_name_them(
    cgroups: Cgroups, namespace: Namespace, slice_name: str
) -> None:
    with connected(namespace, cgroups.make(f"{slice_name}/app.service")):
        ids = cgroup_ids(namespace, State.LISTEN)
        assert namespace.call(units, ids, uid=NOBODY) == ["app.service"]


def test_a_unit_that_started_since_is_found_and_one_that_ended_keeps_its_name(
    cgroups: Cgroups, namespace: Namespace, slice_name: str
) -> None:
    resolver = UnitResolver()
    resolver.unit(cgroups.make(slice_name).stat().st_ino, 0.0)
    with connected(namespace, cgroups.make(f"{slice_name}/late.service")):
        (cgroup_id,) = cgroup_ids(namespace, State.ESTABLISHED)
        assert resolver.unit(cgroup_id, 1.0) == ""
        assert resolver.unit(cgroup_id, 10.0) == "late.service"
    namespace.close()
    cgroups.remove()
    other = cgroups.make(f"{slice_name}/next.service").stat().st_ino
    assert resolver.unit(other, 30.0) == "next.service"
    assert resolver.unit(cgroup_id, 30.0) == "late.service"
