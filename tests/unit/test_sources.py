"""Which source is read, why that one, and when it is another."""

import logging

import pytest
from fake_sources import BUSY, REFUSED, UNAVAILABLE, UNREADABLE, Script, candidates

from sockwatch.kernel.failures import PassFailure
from sockwatch.kernel.netlink import NetlinkSource
from sockwatch.kernel.psutil_source import PsutilSource
from sockwatch.poll.sources import NoSource, SourceChoice, makers

WHY = "busy: receiving a socket dump: EBUSY"


@pytest.fixture
def netlink() -> Script:
    return Script()


@pytest.fixture
def psutil() -> Script:
    return Script()


@pytest.fixture
def choice(netlink: Script, psutil: Script) -> SourceChoice:
    return SourceChoice(candidates(netlink, psutil))


@pytest.fixture
def fallen_back(netlink: Script, psutil: Script) -> SourceChoice:
    """A choice that begins with psutil, because netlink was refused then."""
    netlink.refusal = REFUSED
    return SourceChoice(candidates(netlink, psutil))


def test_the_preferred_source_is_the_one_named() -> None:
    for prefer, kinds in {
        "netlink": [NetlinkSource, PsutilSource],
        "psutil": [PsutilSource, NetlinkSource],
    }.items():
        assert [type(make()) for make in makers(prefer)] == kinds


def test_the_preferred_source_is_used_if_it_works(choice: SourceChoice, psutil: Script) -> None:
    assert choice.current.name == "netlink"
    assert choice.reason == "netlink is preferred and works"
    assert not psutil.asked, "psutil reads all of /proc to find out whether it works"


@pytest.mark.parametrize("refusal", [REFUSED, UNAVAILABLE, BUSY])
def test_the_other_one_is_used_if_the_preferred_does_not_work(
    refusal: PassFailure, netlink: Script, psutil: Script
) -> None:
    netlink.refusal = refusal
    choice = SourceChoice(candidates(netlink, psutil))
    assert choice.current.name == "psutil"
    assert choice.reason == f"netlink does not work ({refusal})"
    assert (netlink.left_open, psutil.left_open) == (0, 1)


def test_if_nothing_works_it_says_why_for_each(netlink: Script, psutil: Script) -> None:
    netlink.refusal, psutil.refusal = REFUSED, UNREADABLE
    with pytest.raises(NoSource) as caught:
        SourceChoice(candidates(netlink, psutil))
    assert str(caught.value) == (
        "netlink does not work (opening a sock_diag socket: EPERM); "
        "psutil does not work (reading /proc/net through psutil: EACCES)"
    )
    assert (netlink.left_open, psutil.left_open) == (0, 0)


def test_an_error_in_a_source_is_not_taken_for_a_refusal(netlink: Script, psutil: Script) -> None:
    """A mistake of ours must be seen, not covered by the other source."""

    def broken() -> None:
        raise ZeroDivisionError

    first, second = candidates(netlink, psutil)
    source = first()
    source.probe = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        SourceChoice([lambda: source, second])


def test_it_goes_back_to_the_preferred_source_when_that_works(
    fallen_back: SourceChoice, netlink: Script, psutil: Script, caplog: pytest.LogCaptureFixture
) -> None:
    netlink.refusal = None
    assert fallen_back.improve()
    assert fallen_back.current.name == "netlink"
    assert fallen_back.reason == "netlink is preferred and works"
    assert (netlink.left_open, psutil.left_open) == (1, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == ["reading sockets through netlink: netlink is preferred and works"]


def test_asking_whether_netlink_works_again_does_not_run_psutil(
    fallen_back: SourceChoice, netlink: Script, psutil: Script, caplog: pytest.LogCaptureFixture
) -> None:
    netlink.refusal = UNAVAILABLE
    before = psutil.asked.copy()
    current = fallen_back.current
    for _ in range(3):
        assert not fallen_back.improve()
    assert psutil.asked == before
    assert netlink.asked["probe"] == 4
    assert fallen_back.current is current
    assert fallen_back.reason == f"netlink does not work ({UNAVAILABLE})"
    assert (netlink.left_open, psutil.left_open) == (0, 1)
    assert not caplog.messages, "still refused is no news"


def test_nothing_is_asked_while_the_preferred_source_is_in_use(
    choice: SourceChoice, netlink: Script, psutil: Script
) -> None:
    current, before = choice.current, netlink.asked.copy()
    assert not choice.improve()
    assert choice.current is current
    assert netlink.asked == before
    assert not psutil.asked


def test_a_source_that_fails_is_left_though_its_probe_works(
    choice: SourceChoice, netlink: Script, psutil: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """A probe asks for listeners only; what the passes ask for besides may be what fails."""
    assert choice.replace(WHY)
    assert choice.current.name == "psutil"
    assert choice.reason == f"netlink does not work ({WHY})"
    assert (netlink.left_open, psutil.left_open) == (0, 1)
    assert caplog.messages == [f"reading sockets through psutil: {choice.reason}"]


def test_the_less_preferred_source_is_left_for_the_preferred_one_too(
    fallen_back: SourceChoice, netlink: Script
) -> None:
    netlink.refusal = None
    assert fallen_back.replace("unreadable: gone")
    assert fallen_back.current.name == "netlink"


def test_without_another_that_works_a_failing_source_stays(
    choice: SourceChoice, netlink: Script, psutil: Script
) -> None:
    psutil.refusal = UNREADABLE
    current = choice.current
    assert not choice.replace(WHY)
    assert choice.current is current
    assert choice.reason == f"netlink does not work ({WHY}); psutil does not work ({UNREADABLE})"
    assert (netlink.left_open, psutil.left_open) == (1, 0)


def test_another_preference_is_followed(
    choice: SourceChoice, netlink: Script, psutil: Script
) -> None:
    other_way_round = [*reversed(candidates(netlink, psutil))]
    assert choice.prefer(other_way_round)
    assert (choice.current.name, choice.reason) == ("psutil", "psutil is preferred and works")
    assert not choice.improve()
    assert choice.prefer(candidates(netlink, psutil))
    assert choice.current.name == "netlink"
    assert (netlink.left_open, psutil.left_open) == (1, 0)


def test_another_preference_that_does_not_work_is_asked_again_later(
    choice: SourceChoice, netlink: Script, psutil: Script
) -> None:
    psutil.refusal = UNREADABLE
    assert not choice.prefer([*reversed(candidates(netlink, psutil))])
    assert choice.current.name == "netlink"
    assert choice.reason == f"psutil does not work ({UNREADABLE})"
    assert netlink.left_open == 1
    psutil.refusal = None
    assert choice.improve()
    assert choice.current.name == "psutil"


def test_a_preference_while_nothing_works_leaves_the_source_as_it_is(
    choice: SourceChoice, netlink: Script, psutil: Script
) -> None:
    netlink.refusal, psutil.refusal = REFUSED, UNREADABLE
    assert not choice.prefer([*reversed(candidates(netlink, psutil))])
    assert choice.current.name == "netlink"
    assert choice.reason == (
        f"psutil does not work ({UNREADABLE}); netlink does not work ({REFUSED})"
    )
