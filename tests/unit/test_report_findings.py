"""What looks wrong in one look, and above all what does not."""

from dataclasses import replace

import pytest
from snapshots import (
    NETLINK,
    OWNED,
    PSUTIL,
    TAKEN,
    Service,
    good_pass,
    listener,
    namespace,
    of_namespaces,
    outbound,
    service,
    snapshot,
    with_failed_pass,
)

from sockwatch.export.findings import (
    HALF_CLOSED_LEAST,
    ORPHANS_LEAST,
    PILES,
    Finding,
    Kind,
    Pile,
    find,
    owned_fin_wait2,
)
from sockwatch.observe.snapshot import OTHER, PassKind, ServiceKey, Snapshot, SourceStatus
from sockwatch.tcp.states import Direction, State, Unowned


def found_in(taken: Snapshot) -> tuple[Finding, ...]:
    return find(taken, now=taken.taken)


def kinds(taken: Snapshot) -> list[str]:
    return [finding.kind.value for finding in found_in(taken)]


def with_pile(pile: Pile, count: int, established: int = 0) -> Service:
    return service(8080, "app.service", **{pile.state.label: count}, established=established)


def test_a_busy_healthy_host_is_silent() -> None:
    busy = snapshot(
        service(443, "nginx.service", established=40_000, time_wait=90_000, close_wait=800),
        outbound(8080, "nginx.service", established=4_000, syn_sent=300, time_wait=20_000),
        outbound(5432, "app.service", established=50, close_wait=2),
        listener(443, "nginx.service", queue=4_000, limit=4_096),
        unowned={Unowned.MINI: 110_000, Unowned.ORPHAN: 900, Unowned.HALF_OPEN: 5_000},
    )
    assert found_in(busy) == ()


def test_an_idle_host_is_silent() -> None:
    assert found_in(snapshot()) == ()


@pytest.mark.parametrize("pile", PILES, ids=lambda pile: pile.kind.value)
def test_a_pile_is_found_from_its_least_size_on(pile: Pile) -> None:
    assert kinds(snapshot(with_pile(pile, pile.least - 1))) == []
    assert kinds(snapshot(with_pile(pile, pile.least))) == [pile.kind]


@pytest.mark.parametrize("pile", PILES, ids=lambda pile: pile.kind.value)
def test_what_passes_through_a_busy_service_is_no_pile(pile: Pile) -> None:
    established = 100_000
    share = int(established * pile.share)
    assert kinds(snapshot(with_pile(pile, share - 1, established))) == []
    assert kinds(snapshot(with_pile(pile, share, established))) == [pile.kind]


def test_handfuls_in_many_services_are_no_pile() -> None:
    many = [service(port, "app.service", close_wait=19) for port in range(1, 200)]
    assert kinds(snapshot(*many)) == []


def test_close_wait_names_the_service_that_has_not_closed() -> None:
    [finding] = found_in(snapshot(service(8080, "app.service", established=120, close_wait=1412)))
    assert finding.service == ServiceKey(Direction.INBOUND, "8080", "app.service")
    assert finding.count == 1412
    assert finding.message == "1,412 connections in close_wait: inbound port 8080, app.service"
    assert "app.service has not" in finding.meaning
    assert finding.netns == ""


def test_close_wait_without_a_known_unit_is_laid_at_the_application() -> None:
    [finding] = found_in(snapshot(outbound(5432, close_wait=30)))
    assert finding.message == "30 connections in close_wait: outbound port 5432"
    assert "the application has not" in finding.meaning


def test_a_pile_among_the_folded_services_is_not_blamed_on_one() -> None:
    [finding] = found_in(snapshot(service(OTHER, OTHER, close_wait=500), folded=40))
    assert finding.message == "500 connections in close_wait: inbound other ports"


@pytest.mark.parametrize(
    ("queue", "limit", "expected"),
    [
        (127, 128, []),
        (128, 128, ["accept_queue"]),
        (129, 128, ["accept_queue"]),
        (0, 0, []),
        (1, 0, ["accept_queue"]),
        (None, None, []),
        (None, 128, []),
    ],
)
def test_an_accept_queue_is_full_at_its_limit(
    queue: int | None, limit: int | None, expected: list[str]
) -> None:
    assert kinds(snapshot(listener(8080, queue=queue, limit=limit))) == expected


def test_a_full_accept_queue_names_its_listener() -> None:
    full = listener(8080, "app.service", address="::1", queue=9, limit=8)
    [finding] = found_in(snapshot(listener(22), full))
    assert finding.message == "accept queue full, 9 of 8: [::1]:8080, app.service"
    assert (finding.count, finding.limit, finding.listener) == (9, 8, full)
    assert finding.service == ServiceKey(Direction.INBOUND, "8080", "app.service")


def test_fin_wait2_that_the_kernel_holds_is_not_half_closed() -> None:
    """Minis are in time_wait or fin_wait2: those beyond time_wait are the kernel's."""
    kernels = snapshot(service(443, fin_wait2=900, time_wait=5000), unowned={Unowned.MINI: 5900})
    assert owned_fin_wait2(kernels.namespaces[0]) == 0
    assert found_in(kernels) == ()


def test_half_closed_connections_are_found_with_their_service() -> None:
    taken = snapshot(
        service(443, fin_wait2=5, time_wait=100),
        service(8080, "app.service", fin_wait2=HALF_CLOSED_LEAST + 9),
        unowned={Unowned.MINI: 105, Unowned.ORPHAN: 4},
    )
    [finding] = found_in(taken)
    assert finding.kind is Kind.FIN_WAIT2
    assert finding.count == HALF_CLOSED_LEAST
    assert finding.service == ServiceKey(Direction.INBOUND, "8080", "app.service")


def test_half_closed_connections_of_services_that_cannot_be_told_apart_are_found() -> None:
    taken = snapshot(service(1, fin_wait2=30), service(2, fin_wait2=30), unowned={Unowned.MINI: 25})
    [finding] = found_in(taken)
    assert (finding.kind, finding.count, finding.service) == (Kind.FIN_WAIT2, 35, None)


def test_a_handful_half_closed_is_no_finding() -> None:
    assert kinds(snapshot(service(1, fin_wait2=HALF_CLOSED_LEAST - 1))) == []


def test_without_knowing_who_holds_them_fin_wait2_is_not_judged() -> None:
    taken = snapshot(service(1, fin_wait2=10_000), unowned=None)
    assert owned_fin_wait2(taken.namespaces[0]) is None
    assert found_in(taken) == ()


def test_many_orphans_are_found() -> None:
    assert kinds(snapshot(unowned={Unowned.ORPHAN: ORPHANS_LEAST - 1})) == []
    assert kinds(snapshot(unowned={Unowned.ORPHAN: ORPHANS_LEAST})) == ["orphans"]


def test_a_source_that_was_not_preferred_is_found_with_the_reason() -> None:
    [finding] = found_in(snapshot(source=PSUTIL))
    assert finding.kind is Kind.SOURCE
    assert PSUTIL.reason in finding.message


@pytest.mark.parametrize("source", [PSUTIL, NETLINK], ids=lambda source: source.name)
def test_the_preferred_source_is_no_finding(source: SourceStatus) -> None:
    assert find(snapshot(source=source), now=TAKEN, preferred=source.name) == ()


def test_a_failed_pass_makes_figures_old_and_says_why() -> None:
    [finding] = found_in(with_failed_pass(snapshot(), "busy: the kernel answers EBUSY"))
    assert finding.kind is Kind.STALE
    assert "census pass failed (busy: the kernel answers EBUSY)" in finding.message


def test_figures_are_old_after_missed_passes() -> None:
    taken = snapshot()
    assert find(taken, now=TAKEN + 3 * 15) == ()
    [finding] = find(taken, now=TAKEN + 3 * 15 + 1)
    assert finding.message == "old figures: the census pass ended 46 s ago and is due every 15 s"


def test_a_pass_that_never_ran_is_no_failure() -> None:
    never = replace(good_pass(), passes=0, last_success=None)
    taken = snapshot()
    taken = replace(taken, passes={**taken.passes, PassKind.WATCH: never})
    assert find(taken, now=TAKEN) == ()


def test_knowing_nothing_is_not_silence() -> None:
    assert kinds(of_namespaces()) == ["stale"]


def test_the_gravest_kind_comes_first_and_within_it_the_largest() -> None:
    taken = snapshot(
        service(1, close_wait=30),
        service(2, close_wait=300),
        outbound(3, syn_sent=3000),
        listener(4, queue=9, limit=8),
        unowned={Unowned.ORPHAN: 100_000},
        source=PSUTIL,
    )
    assert [(finding.kind.value, finding.count) for finding in found_in(taken)] == [
        ("accept_queue", 9),
        ("close_wait", 300),
        ("close_wait", 30),
        ("syn_sent", 3000),
        ("orphans", 100_000),
        ("source", None),
    ]


def test_each_namespace_is_judged_by_itself() -> None:
    inner = namespace(service(80, close_wait=30), netns="blue")
    outer = namespace(service(80, close_wait=15))
    [finding] = found_in(of_namespaces(outer, inner))
    assert (finding.netns, finding.count) == ("blue", 30)


def test_hostile_names_are_harmless_in_text_and_intact_as_data() -> None:
    unit = "\x1b[2Jevil\n.service\u202e"
    taken = snapshot(
        service(1, unit, close_wait=30),
        listener(1, unit, queue=9, limit=8),
        source=replace(PSUTIL, reason="\x1b]0;x\x07"),
    )
    findings = found_in(with_failed_pass(taken, "\x1b[31m"))
    assert len(findings) == 4
    assert all((finding.message + finding.meaning).isprintable() for finding in findings)
    assert {finding.service.unit for finding in findings if finding.service} == {unit}


def test_state_piles_are_named_after_their_state() -> None:
    """Tables find the number to mark by this."""
    assert all(pile.kind.value == pile.state.label for pile in PILES)
    assert State.FIN_WAIT2.label == Kind.FIN_WAIT2.value
    assert set(OWNED) == set(Unowned)
