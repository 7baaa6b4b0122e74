"""Which local ports connect() takes by itself, by the sysctls that say so."""

from pathlib import Path
from socket import htons

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sockwatch.kernel.ports import _flags, ephemeral_flags
from sockwatch.observe.figures import ephemeral_ports
from sockwatch.tcp.listening import EVERY_PORT, PORTS

PORT = st.integers(0, PORTS - 1)
RANGES = st.lists(st.builds(range, PORT, PORT).map(lambda some: some[:300]), max_size=4)


def proc_sys(root: Path, chosen: str | None, reserved: str | None) -> Path:
    folder = root / "net/ipv4"
    folder.mkdir(parents=True)
    for name, text in (("range", chosen), ("reserved_ports", reserved)):
        if text is not None:
            full = "ip_local_port_range" if name == "range" else "ip_local_reserved_ports"
            (folder / full).write_text(f"{text}\n")
    return root


def ports(flags: bytes) -> set[int]:
    return {port for port in range(PORTS) if flags[htons(port)]}


@pytest.mark.parametrize(
    ("chosen", "reserved", "expected"),
    [
        ("40000\t40003", "", {40000, 40001, 40002, 40003}),
        ("40000\t40003", "40001", {40000, 40002, 40003}),
        ("40000\t40003", "22,40001-40002,50000-50010", {40000, 40003}),
        ("40000\t40003", "1-65535", set()),
        ("65534\t65535", "", {65534, 65535}),
        ("80\t80", None, {80}),
    ],
)
def test_ports_are_the_range_less_reserved_ones(
    tmp_path: Path, chosen: str, reserved: str | None, expected: set[int]
) -> None:
    assert ports(ephemeral_flags(proc_sys(tmp_path, chosen, reserved))) == expected


@pytest.mark.parametrize("chosen", [None, "", "40000", "1 2 3", "many ports"])
def test_every_port_is_taken_for_one_where_the_range_is_not_known(
    tmp_path: Path, chosen: str | None
) -> None:
    """As little is left out as can be: whoever cannot know counts too much, not too little."""
    assert ephemeral_flags(proc_sys(tmp_path, chosen, "")) == EVERY_PORT


def test_a_port_is_looked_up_by_the_bytes_of_a_record() -> None:
    """443 in network order, read as this machine reads numbers."""
    flags = _flags(443, 443, ())
    assert flags[int.from_bytes((443).to_bytes(2, "big"), "little")] == 1
    assert flags.count(1) == 1


@settings(deadline=None, max_examples=30)
@given(st.tuples(PORT, PORT).map(sorted), RANGES)
def test_as_many_are_flagged_as_are_told(ends: list[int], reserved: list[range]) -> None:
    """The metric and what is counted against it are of the same ports."""
    first, last = ends
    taken: set[int] = set().union(*reserved)
    flags = _flags(first, last, tuple(reserved))
    assert ports(flags) == {port for port in range(first, last + 1) if port not in taken}
    apart = tuple(range(port, port + 1) for port in taken)
    assert flags.count(1) == ephemeral_ports((first, last), apart)


def test_a_range_that_changes_is_seen_at_once(tmp_path: Path) -> None:
    root = proc_sys(tmp_path, "40000 40099", "")
    assert ephemeral_flags(root).count(1) == 100
    (root / "net/ipv4/ip_local_port_range").write_text("40000 40049\n")
    assert ephemeral_flags(root).count(1) == 50
