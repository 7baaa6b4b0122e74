"""What is read with every pass and what is not."""

from pathlib import Path
from typing import Final

import pytest

from sockwatch.kernel.counters import Counters
from sockwatch.poll.figures import LATELY, REFRESH, FigureReader
from sockwatch.tcp.numbers import Limits


class Kernel:
    """A namespace whose counters and limits the test sets, and where it is told what was read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.somaxconn = 128
        self.hashed: int | None = 70
        self.looks = 0
        self.count(1)

    def count(self, opens: int, alloc: int = 75) -> None:
        (self.folder / "snmp").write_text(f"Tcp: ActiveOpens\nTcp: {opens}\n")
        (self.folder / "sockstat").write_text(f"TCP: alloc {alloc} tw 3\n")

    def limits(self) -> Limits:
        self.looks += 1
        return Limits({"net.core.somaxconn": (self.somaxconn,)}, (), 4096, 4096)

    def reader(self) -> FigureReader:
        return FigureReader(Counters(self.folder), self.limits, lambda: self.hashed)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


BOOT: Final = 0.0


@pytest.mark.parametrize("start", [BOOT, 5000.0])
def test_the_first_look_knows_everything(kernel: Kernel, start: float) -> None:
    taken = kernel.reader().take(start)
    assert taken.counters == {"active_opens": 1}
    assert (taken.time_wait, taken.somaxconn) == (3, 128)
    assert taken.host is not None
    assert taken.host.hidden == 5


def test_counters_are_read_with_every_pass_and_limits_from_time_to_time(kernel: Kernel) -> None:
    reader = kernel.reader()
    reader.take(BOOT)
    kernel.count(2)
    kernel.somaxconn = 4096
    soon, late = reader.take(BOOT + REFRESH / 2), reader.take(BOOT + REFRESH)
    assert (soon.counters["active_opens"], soon.somaxconn) == (2, 128)
    assert (late.counters["active_opens"], late.somaxconn) == (2, 4096)
    assert kernel.looks == 2


def test_a_census_has_the_limits_of_its_moment(kernel: Kernel) -> None:
    reader = kernel.reader()
    reader.take(BOOT)
    kernel.count(1, alloc=5000)
    kernel.somaxconn = 4096
    found = reader.take(BOOT + 1, census=True)
    assert found.somaxconn == 4096
    assert found.host is not None
    assert found.host.hidden == 5  # dear to find out, and of another moment


def test_hidden_sockets_are_of_one_moment(kernel: Kernel) -> None:
    """Not of sockets allocated now and sockets in tables half a minute ago."""
    reader = kernel.reader()
    reader.take(BOOT)
    kernel.count(1, alloc=5000)
    kernel.hashed = 4990
    soon, late = reader.take(BOOT + 1), reader.take(BOOT + REFRESH)
    assert soon.host is not None
    assert late.host is not None
    assert (soon.host.hidden, late.host.hidden) == (5, 10)


def test_hidden_sockets_that_are_no_longer_known_are_absent(kernel: Kernel) -> None:
    reader = kernel.reader()
    reader.take(BOOT)
    kernel.hashed = None
    late = reader.take(BOOT + REFRESH)
    assert late.host is not None
    assert late.host.hidden is None


def test_a_host_without_proc_has_figures_of_which_none_is_known(tmp_path: Path) -> None:
    reader = FigureReader(
        Counters(tmp_path / "absent"), lambda: Limits({}, None, 4096, 4096), lambda: None
    )
    taken = reader.take(BOOT)
    assert (taken.counters, taken.aborts, taken.time_wait) == ({}, {}, None)


def test_what_was_counted_lately_is_of_the_last_minute(kernel: Kernel) -> None:
    reader = kernel.reader()
    assert reader.take(BOOT).lately is None
    found = []
    for second in range(1, 200):
        kernel.count(1 + second)
        found.append(reader.take(BOOT + second).lately)
    expected = [(n, {"active_opens": n}) for n in [*range(1, int(LATELY)), *[int(LATELY)] * 140]]
    assert found == expected
    assert len(reader._before) <= LATELY + 1


def test_memory_does_not_follow_the_number_of_passes(kernel: Kernel) -> None:
    reader = kernel.reader()
    for number in range(1_200):
        kernel.count(number)
        reader.take(BOOT + number / 10)
    assert len(reader._before) <= LATELY + 1
    kernel.count(1_200)
    lately = reader.take(BOOT + 120).lately
    assert lately is not None
    assert lately.seconds == pytest.approx(LATELY, abs=1)
    assert lately.counters["active_opens"] == pytest.approx(10 * lately.seconds)


def test_between_passes_that_are_rare_lately_is_since_the_last_one(kernel: Kernel) -> None:
    reader = kernel.reader()
    reader.take(BOOT)
    for number in (1, 2):
        kernel.count(1 + number)
        assert reader.take(BOOT + number * 500).lately == (500, {"active_opens": 1})
