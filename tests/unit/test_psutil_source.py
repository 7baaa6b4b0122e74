"""The psutil source: what psutil says is counted, and what it cannot say stays unsaid."""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6
from types import SimpleNamespace
from typing import Any, Final

import psutil
import pytest

from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.kernel.psutil_source import PsutilSource
from sockwatch.tcp.records import Row, ServicePort
from sockwatch.tcp.states import Direction, Family, State


def connection(
    family: int, local: tuple[str, int], remote: tuple[str, int] | None, status: str
) -> SimpleNamespace:
    """As psutil has them: named tuples for endpoints, an empty one where there is no peer."""
    laddr, raddr = (
        SimpleNamespace(ip=end[0], port=end[1]) if end else () for end in (local, remote)
    )
    return SimpleNamespace(family=family, laddr=laddr, raddr=raddr, status=status)


HOST: Final = [
    connection(AF_INET, ("0.0.0.0", 80), None, "LISTEN"),
    connection(AF_INET6, ("::", 443), None, "LISTEN"),
    connection(AF_INET, ("10.0.0.1", 80), ("10.0.0.9", 40000), "ESTABLISHED"),
    connection(AF_INET6, ("::ffff:10.0.0.1", 443), ("::ffff:10.0.0.9", 40001), "CLOSE_WAIT"),
    connection(AF_INET, ("10.0.0.1", 50000), ("10.0.0.8", 5432), "TIME_WAIT"),
    connection(AF_INET, ("10.0.0.1", 50001), ("10.0.0.8", 5432), "SYN_SENT"),
]


def source_of(connections: Iterable[Any]) -> PsutilSource:
    return PsutilSource(lambda: connections)


def test_a_census_counts_every_socket_once() -> None:
    reading = source_of(HOST).census()
    assert reading.watched.sockets == {
        (Family.INET6, State.CLOSE_WAIT): 1,
        (Family.INET, State.SYN_SENT): 1,
    }
    assert reading.bulk is not None
    assert reading.bulk.sockets == {
        (Family.INET, State.ESTABLISHED): 1,
        (Family.INET, State.TIME_WAIT): 1,
    }


def test_directions_and_services_are_told() -> None:
    reading = source_of(HOST).census()
    assert reading.bulk is not None
    assert {*reading.watched.services, *reading.bulk.services} == {
        ServicePort(Direction.INBOUND, 443, 0, State.CLOSE_WAIT),
        ServicePort(Direction.OUTBOUND, 5432, 0, State.SYN_SENT),
        ServicePort(Direction.INBOUND, 80, 0, State.ESTABLISHED),
        ServicePort(Direction.OUTBOUND, 5432, 0, State.TIME_WAIT),
    }


def test_a_watch_says_nothing_of_the_healthy_states() -> None:
    reading = source_of(HOST).watch()
    assert reading.bulk is None
    assert reading.watched.sockets.total() == 2


def test_what_psutil_cannot_know_is_absent() -> None:
    reading = source_of(HOST).census()
    assert reading.bulk is not None
    assert reading.watched.unowned is None
    assert reading.bulk.unowned is None
    address = ip_address("0.0.0.0").packed
    assert reading.listeners[0] == Row(Family.INET, State.LISTEN, address, 80, address, 0)
    assert set(reading.listeners[0][6:]) == {None}


def test_a_status_without_a_name_is_unknown() -> None:
    odd = [connection(AF_INET, ("10.0.0.1", 80), None, status) for status in ("NONE", "", "0D")]
    assert source_of(odd).watch().watched.sockets == {(Family.INET, State.UNKNOWN): 3}


UNREADABLE: Final[dict[str, Exception]] = {
    "no permission": PermissionError(13, "Permission denied", "/proc/net/tcp"),
    "no file": FileNotFoundError(2, "No such file or directory", "/proc/net/tcp"),
    "psutil's refusal": psutil.AccessDenied(pid=1),
    "a line that psutil cannot read": RuntimeError("error while parsing /proc/net/tcp; line 7"),
    "a state that psutil does not know": KeyError("0D"),
    "an address that psutil cannot read": ValueError("not enough values to unpack"),
}


@pytest.mark.parametrize("read", [PsutilSource.probe, PsutilSource.watch, PsutilSource.census])
@pytest.mark.parametrize("name", UNREADABLE)
def test_what_psutil_raises_is_a_named_failure(
    name: str, read: Callable[[PsutilSource], object]
) -> None:
    def connections() -> Iterable[Any]:
        yield HOST[0]
        raise UNREADABLE[name]

    with pytest.raises(PassFailure, match=r"/proc/net.*psutil") as caught:
        read(PsutilSource(connections))
    assert caught.value.cause is Cause.UNREADABLE


def test_it_works_again_after_a_failure() -> None:
    answers: list[Any] = [OSError(5, "Input/output error"), HOST]

    def connections() -> Iterable[Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    source = PsutilSource(connections)
    with pytest.raises(PassFailure):
        source.census()
    assert len(source.census().listeners) == 2


HEADER: Final = (
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
)
LINE: Final = "   0: 0100007F:0050 {peer} {state} 00000000:00000000 00:00000000 00000000 0 0 7 1\n"
PEER, NO_PEER = "0200007F:9C40", "00000000:0000"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The /proc/net/tcp that psutil reads."""
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    (tmp_path / "net").mkdir()
    return tmp_path / "net/tcp"


def test_psutils_own_reading_of_the_kernels_table_is_understood(proc: Path) -> None:
    states = {number: PEER for number in range(1, 12) if number != State.LISTEN} | {10: NO_PEER}
    lines = [LINE.format(peer=peer, state=f"{number:02X}") for number, peer in states.items()]
    proc.write_text(HEADER + "".join(lines))
    reading = PsutilSource().census()
    assert reading.bulk is not None
    counted = reading.watched.sockets + reading.bulk.sockets
    assert {state for _, state in counted} == {State.of(number) for number in range(1, 12)} - {
        State.LISTEN
    }
    assert counted.total() == 10
    assert [row.source_port for row in reading.listeners] == [80]


@pytest.mark.parametrize(
    "line",
    [
        LINE.format(peer=PEER, state="0D"),
        LINE.format(peer="rubbish", state="01"),
        LINE.format(peer="XYZ:9C40", state="01"),
        "   0: 0100007F:0050\n",
    ],
    ids=["unknown state", "no address", "bad address", "half a line"],
)
def test_a_table_that_psutil_cannot_read_is_a_named_failure(line: str, proc: Path) -> None:
    proc.write_text(HEADER + line)
    with pytest.raises(PassFailure) as caught:
        PsutilSource().watch()
    assert caught.value.cause is Cause.UNREADABLE


def test_no_table_is_a_named_failure(proc: Path) -> None:
    with pytest.raises(PassFailure, match="No such file") as caught:
        PsutilSource().probe()
    assert caught.value.cause is Cause.UNREADABLE
