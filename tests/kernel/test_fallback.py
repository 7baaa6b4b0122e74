"""Where netlink is refused psutil takes over, says why, and tells the same as far as it can."""

import errno
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import NamedTuple

import pytest
import seccomp
from guards import need
from lab import RECIPES, Namespace, Stage

from sockwatch.config import Config
from sockwatch.kernel.diag import DiagSocket, Dumper
from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.netlink import NetlinkSource
from sockwatch.kernel.psutil_source import PsutilSource
from sockwatch.observe.snapshot import PassKind, Snapshot
from sockwatch.poll import Clocks, Poller
from sockwatch.tcp.records import Reading
from sockwatch.tcp.states import Family, State

pytestmark = pytest.mark.kernel

NOBODY = 65534
REFUSALS = {errno.EPERM: "EPERM", errno.EACCES: "EACCES", errno.EAFNOSUPPORT: "EAFNOSUPPORT"}
REFUSED = PassFailure(Cause.REFUSED, "opening a sock_diag socket: EPERM")


@pytest.fixture
def stage(namespace: Namespace) -> Iterator[Stage]:
    """Sockets in every state and family."""
    with Stage(namespace) as made:
        for recipe in RECIPES:
            for family in Family:
                made.play(recipe, family, 1)
        yield made


@pytest.fixture(params=REFUSALS, ids=REFUSALS.get)
def refusal(request: pytest.FixtureRequest) -> int:
    need(seccomp.is_known(), "needs a seccomp filter for this machine")
    return int(request.param)


class Seen(NamedTuple):
    """What a poller publishes."""

    source: str
    reason: str
    sockets: dict[tuple[Family, State], int]
    knows_unowned: bool
    failures: int

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Seen":
        (view,) = snapshot.namespaces
        return cls(
            snapshot.source.name,
            snapshot.source.reason,
            dict(Counter(view.sockets)),
            view.unowned is not None,
            sum(sum(status.failures.values()) for status in snapshot.passes.values()),
        )


def census(poller: Poller) -> Seen:
    assert poller.step(PassKind.CENSUS)
    return Seen.of(poller.snapshot())


def expected(stage: Stage) -> dict[tuple[Family, State], int]:
    """Every measured state, zeros included."""
    return {(family, state): stage.sockets[family, state] for family in Family for state in State}


# Forbidden by a sandbox


def refused_from_the_start(error: int) -> Seen:
    seccomp.refuse_netlink(error)
    return census(Poller(Config()))


@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
def test_where_a_sandbox_refuses_netlink_psutil_takes_over(
    refusal: int, uid: int | None, stage: Stage
) -> None:
    seen = stage.namespace.call(refused_from_the_start, refusal, uid=uid)
    assert seen.source == "psutil"
    assert "netlink does not work" in seen.reason
    assert REFUSALS[refusal] in seen.reason
    assert seen.sockets == expected(stage)
    assert not seen.knows_unowned
    assert seen.failures == 0


def refused_later(error: int) -> tuple[Seen, Seen, Seen]:
    poller = Poller(Config())
    before = census(poller)
    seccomp.refuse_netlink(error)
    still = census(poller)
    poller._sources.current.close()
    return before, still, census(poller)


def test_a_sandbox_that_is_set_up_later_is_noticed_when_a_socket_is_needed(
    refusal: int, stage: Stage
) -> None:
    """What is open may be used on. When it is gone, the same pass is read through psutil."""
    before, still, after = stage.namespace.call(refused_later, refusal)
    assert [seen.source for seen in (before, still, after)] == ["netlink", "netlink", "psutil"]
    assert REFUSALS[refusal] in after.reason
    assert before.sockets == still.sockets == after.sockets == expected(stage)
    assert after.failures == 1


def socket_errors(error: int) -> list[int]:
    """What socket() says of netlink and of two others."""
    seccomp.refuse_netlink(error)
    found = []
    for family in (socket.AF_NETLINK, socket.AF_INET, socket.AF_UNIX):
        try:
            socket.socket(family).close()
            found.append(0)
        except OSError as refused:
            found.append(refused.errno or -1)
    return found


def test_the_sandbox_of_these_tests_refuses_netlink_and_nothing_else(
    refusal: int, namespace: Namespace
) -> None:
    assert namespace.call(socket_errors, refusal) == [refusal, 0, 0]


# Refused, then allowed again


class Gate:
    """Lets sock_diag sockets be opened, or not."""

    def __init__(self) -> None:
        self.closed = False
        self.now = 0.0

    def connect(self) -> Dumper:
        if self.closed:
            raise REFUSED
        return DiagSocket(5)

    def poller(self) -> Poller:
        return Poller(
            Config(),
            candidates=[lambda: NetlinkSource(self.connect), PsutilSource],
            clocks=Clocks(monotonic=lambda: self.now),
        )


def refused_and_allowed_again() -> list[Seen]:
    gate = Gate()
    gate.closed = True
    poller = gate.poller()
    seen = [census(poller)]
    gate.closed = False
    seen.append(census(poller))
    gate.now += Config().source.recheck
    seen.append(census(poller))
    return seen


def test_netlink_is_used_again_when_a_recheck_finds_it_working(stage: Stage) -> None:
    seen = stage.namespace.call(refused_and_allowed_again)
    assert [each.source for each in seen] == ["psutil", "psutil", "netlink"]
    assert [each.knows_unowned for each in seen] == [False, False, True]
    assert [each.sockets for each in seen] == [expected(stage)] * 3
    assert str(REFUSED) in seen[0].reason
    assert str(REFUSED) not in seen[2].reason


def failing_and_working_again() -> list[Seen]:
    gate = Gate()
    poller = gate.poller()
    seen = [census(poller)]
    gate.closed = True
    poller._sources.current.close()
    seen.append(census(poller))
    gate.now += Config().source.recheck
    seen.append(census(poller))
    gate.closed = False
    seen.append(census(poller))
    gate.now += Config().source.recheck
    seen.append(census(poller))
    return seen


def test_netlink_that_fails_and_works_again_loses_no_pass(stage: Stage) -> None:
    seen = stage.namespace.call(failing_and_working_again)
    assert [each.source for each in seen] == ["netlink", *["psutil"] * 3, "netlink"]
    assert [each.sockets for each in seen] == [expected(stage)] * 5
    assert [each.failures for each in seen] == [0, 1, 1, 1, 1]


# Both tell the same


def through(source: NetlinkSource | PsutilSource) -> Reading:
    with closing(source):
        return source.census()


def by_netlink() -> Reading:
    return through(NetlinkSource())


def by_psutil() -> Reading:
    return through(PsutilSource())


def services(reading: Reading) -> Counter[tuple[object, ...]]:
    """Connections by direction, port and state; psutil knows no cgroups."""
    assert reading.bulk is not None
    found: Counter[tuple[object, ...]] = Counter()
    for (direction, port, _, state), number in (
        *reading.watched.services.items(),
        *reading.bulk.services.items(),
    ):
        found[direction, port, state] += number
    return found


@pytest.mark.parametrize("uid", [None, NOBODY], ids=["root", "nobody"])
def test_psutil_tells_what_netlink_tells(uid: int | None, stage: Stage) -> None:
    with ExitStack() as held:
        dual_stack(stage.namespace, held)
        netlink, psutil = (stage.namespace.call(read, uid=uid) for read in (by_netlink, by_psutil))
    assert netlink.bulk is not None
    assert psutil.bulk is not None
    assert netlink.watched.sockets == psutil.watched.sockets
    assert netlink.bulk.sockets == psutil.bulk.sockets
    assert netlink.watched.destinations == psutil.watched.destinations
    assert netlink.bulk.destinations == psutil.bulk.destinations
    assert services(netlink) == services(psutil)
    assert sorted(row[:6] for row in netlink.listeners) == sorted(
        row[:6] for row in psutil.listeners
    )


def dual_stack(namespace: Namespace, held: ExitStack) -> None:
    """A connection over IPv4 to a listener for both families."""
    with namespace.entered():
        server = socket.create_server(("::", 7900), family=socket.AF_INET6, dualstack_ipv6=True)
        client = socket.create_connection(("127.0.0.1", 7900), timeout=5)
    for each in (server, client, server.accept()[0]):
        held.enter_context(each)


def test_what_psutil_cannot_know_is_absent(stage: Stage) -> None:
    reading = stage.namespace.call(by_psutil)
    assert reading.watched.unowned is None
    assert {*reading.listeners[0][6:]} == {None}
    assert {service.cgroup for service in reading.watched.services} == {0}


def number_of_listeners(inherited: list[int]) -> int:
    """As a process sees them that has none of these descriptors."""
    for descriptor in inherited:
        os.close(descriptor)
    return len(by_psutil().listeners)


@pytest.mark.parametrize(("uid", "number"), [(None, 3), (NOBODY, 1)], ids=["root", "nobody"])
def test_psutil_tells_listeners_that_share_an_address_apart_by_their_processes(
    uid: int | None, number: int, namespace: Namespace
) -> None:
    """Which it must be allowed to see: it answers with a set."""
    with ExitStack() as held, namespace.entered():
        address = ("127.0.0.1", 7000)
        shared = [socket.create_server(address, reuse_port=True) for _ in range(3)]
        for each in shared:
            held.enter_context(each)
        descriptors = [each.fileno() for each in shared]
        assert namespace.call(number_of_listeners, descriptors, uid=uid) == number
