"""Whose a listener is that systemd opened: the unit of the process that holds it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from marked import Entry, packed, stuck
from proctree import ProcTree
from readings import listening

from sockwatch.kernel.owners import OwnerFinder
from sockwatch.observe.snapshot import Marked
from sockwatch.poll import adoption
from sockwatch.poll.owners import OwnerWatch
from sockwatch.tcp.records import Row

INIT_CGROUP, APP_CGROUP, GONE_CGROUP, USER_CGROUP = 1, 2, 3, 4
UNITS = {INIT_CGROUP: "init.scope", APP_CGROUP: "app.service", USER_CGROUP: "user@1000.service"}
APP = "/system.slice/app.service"
INSTANCE = "/system.slice/system-echo.slice/echo@3-192.0.2.1:80-198.51.100.7:50000.service"
PORT = 80


class Host:
    """systemd holds the listener with inode 5; what passes see of it."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.tree = ProcTree(folder)
        self.tree.start(1, [5], name="systemd", ticks=1, cgroup="/init.scope")
        self._watch = OwnerWatch(1e9, lambda: OwnerFinder(self.tree.root))
        self.switch(on=True)

    def switch(self, *, on: bool) -> None:
        self._watch.switch(on=on)

    def adopted(
        self, *rows: Row, entries: Iterable[Entry] = (), passes: int = 2
    ) -> Mapping[int, str]:
        """What the last of some passes says, between which processes are looked for."""
        batches = packed(entries)
        found: Mapping[int, str] = {}
        for _ in range(passes):
            found = self._watch.adopted(rows, lambda cgroup: UNITS.get(cgroup, ""), batches)
            self.now += 100
            self._watch.named(stuck(*entries), self.now, [row.inode or 0 for row in rows])
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def listener(cgroup: int = INIT_CGROUP, inode: int = 5) -> Row:
    return listening(PORT, cgroup=cgroup, inode=inode)


@pytest.mark.parametrize("cgroup", [INIT_CGROUP, USER_CGROUP, GONE_CGROUP])
def test_what_a_manager_or_nobody_known_opened_is_of_who_holds_it(host: Host, cgroup: int) -> None:
    host.tree.start(70, [5], cgroup=APP)
    assert host.adopted(listener(cgroup)) == {5: "app.service"}


def test_what_a_service_opened_is_its_own_whoever_else_holds_it(host: Host) -> None:
    host.tree.start(70, [5], cgroup="/other.service")
    assert host.adopted(listener(APP_CGROUP)) == {}


def test_what_only_managers_hold_stays_theirs(host: Host) -> None:
    host.tree.start(70, [5], cgroup="/user.slice/user@1000.service/init.scope", ticks=10)
    assert host.adopted(listener()) == {}


def test_a_manager_of_a_users_services_does_not_count_beside_the_service(host: Host) -> None:
    host.tree.start(70, [5], cgroup="/user.slice/user@1000.service/init.scope", ticks=10)
    host.tree.start(80, [5], cgroup="/user.slice/user@1000.service/app.slice/app.service")
    assert host.adopted(listener(USER_CGROUP)) == {5: "app.service"}


def test_between_two_starts_of_the_service_its_listener_stays_its_own(host: Host) -> None:
    host.tree.start(70, [5], cgroup=APP)
    host.adopted(listener())
    host.tree.end(70)
    assert host.adopted(listener(), passes=4) == {5: "app.service"}


def test_the_next_listener_of_the_port_begins_anew(host: Host) -> None:
    host.tree.start(70, [5], cgroup=APP)
    host.adopted(listener())
    assert host.adopted() == {}
    assert host.adopted(listener(inode=6)) == {}


def test_unless_processes_are_looked_for_nothing_is_known(host: Host) -> None:
    host.tree.start(70, [5], cgroup=APP)
    host.adopted(listener())
    host.switch(on=False)
    assert host.adopted(listener()) == {}
    host.switch(on=True)
    assert host.adopted(listener()) == {5: "app.service"}


def connection(inode: int) -> Entry:
    """A stuck connection of the listener."""
    return Entry(local_port=PORT, cgroup=INIT_CGROUP, inode=inode)


def test_a_unit_for_each_connection_counts_by_its_template(host: Host) -> None:
    """Accept=yes: systemd alone holds the listener, and names units after peers."""
    host.tree.start(70, [9], cgroup=INSTANCE)
    assert host.adopted(listener(), entries=[connection(9)], passes=3) == {5: "echo@.service"}
    host.tree.end(70)
    assert host.adopted(listener()) == {5: "echo@.service"}


@pytest.mark.parametrize(
    "entry",
    [
        connection(9)._replace(local_port=81),
        connection(9)._replace(cgroup=APP_CGROUP),
        connection(9)._replace(inbound=False),
        connection(0),
        connection(10),
    ],
)
def test_connections_of_others_say_nothing(host: Host, entry: Entry) -> None:
    host.tree.start(70, [9], cgroup=INSTANCE)
    assert host.adopted(listener(), entries=[entry], passes=3) == {}


def test_only_some_connections_are_asked(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adoption, "CONNECTIONS_LIMIT", 3)
    host.tree.start(70, [9], cgroup=INSTANCE)
    unheld = [connection(inode) for inode in (20, 21, 22)]
    assert host.adopted(listener(), entries=[*unheld, connection(9)], passes=3) == {}
    assert host.adopted(listener(), entries=[*unheld[1:], connection(9)]) == {5: "echo@.service"}


@pytest.mark.parametrize(
    ("unit", "manages"),
    [
        ("", True),
        ("init.scope", True),
        ("user@1000.service", True),
        ("app.service", False),
        ("user@app.service", False),
        ("docker-0123456789ab", False),
    ],
)
def test_managers_are_systemd_for_the_host_and_for_users(unit: str, manages: bool) -> None:
    assert adoption.is_manager(unit) is manages


def test_no_batch_of_connections_says_nothing() -> None:
    empty: tuple[Marked, ...] = ()
    found = adoption.Adoption().units([listener()], lambda _: "init.scope", lambda _: "", empty)
    assert found == {}
