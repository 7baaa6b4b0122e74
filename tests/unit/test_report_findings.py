"""What looks wrong in one look, and above all what does not."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from everything import STUCK
from kernel_figures import FIGURES, HOST_FIGURES, MIB, UNKNOWN, with_figures
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

from sockwatch.export.findings import Finding, Kind, find
from sockwatch.export.findings.sockets import HALF_CLOSED_LEAST, PILES, Pile, owned_fin_wait2
from sockwatch.observe.figures import Lately
from sockwatch.observe.snapshot import (
    OTHER,
    Destinations,
    DestinationUse,
    Listener,
    PassKind,
    ServiceKey,
    Snapshot,
    SourceStatus,
    StuckKey,
)
from sockwatch.tcp.causes import Cause
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
        (128, 128, []),
        (129, 128, ["accept_queue"]),
        (0, 0, []),
        (1, 0, ["accept_queue"]),
        (1, 1, []),
        (None, None, []),
        (None, 128, []),
    ],
)
def test_an_accept_queue_is_full_above_its_limit(
    queue: int | None, limit: int | None, expected: list[str]
) -> None:
    assert kinds(snapshot(listener(8080, queue=queue, limit=limit))) == expected


def test_a_full_accept_queue_names_its_listener() -> None:
    full = listener(8080, "app.service", address="::1", queue=9, limit=8)
    [finding] = found_in(snapshot(listener(22), full))
    assert finding.message == "accept queue full, 9 of 8: [::1]:8080, app.service"
    assert (finding.count, finding.limit, finding.listener) == (9, 8, full)
    assert finding.service == ServiceKey(Direction.INBOUND, "8080", "app.service")


def test_one_full_queue_of_a_group_is_found_whatever_room_the_others_have() -> None:
    group = replace(listener(8080, "app.service", sockets=4, queue=9, limit=32), full=1, drops=5)
    [finding] = found_in(snapshot(group))
    assert finding.message == (
        "accept queue of 1 in 4 sockets full, 9 of 32: 0.0.0.0:8080, app.service"
    )
    assert "a part of app.service does not accept" in finding.meaning
    assert finding.meaning.endswith("So far it has dropped 5 packets.")
    assert (finding.kind, finding.count, finding.limit) == (Kind.ACCEPT_QUEUE, 9, 32)


def test_an_accept_queue_that_was_full_a_moment_ago_is_found() -> None:
    """The peak of a minute is there only where somebody has watched."""
    burst = replace(listener(8080, queue=0, limit=8), peak=9, drops=1_234)
    [finding] = found_in(snapshot(burst))
    assert finding.message == "accept queue was full within the last minute, 9 of 8: 0.0.0.0:8080"
    assert finding.meaning.endswith("So far it has dropped 1,234 packets.")
    assert (finding.kind, finding.count, finding.limit) == (Kind.ACCEPT_QUEUE, 9, 8)


def test_drops_alone_may_be_old_and_are_no_finding() -> None:
    assert kinds(snapshot(replace(listener(8080), drops=1_000_000, peak=127))) == []


# SYN queues


def knocked(
    half_open: int, resent: int | None, *, queue: int = 0, limit: int | None = 16
) -> Listener:
    door = listener(80, "web.service", queue=queue, limit=limit)
    return replace(door, half_open=half_open, half_open_resent=resent)


@pytest.mark.parametrize(
    ("half_open", "resent", "expected"),
    [
        (15, 15, []),
        (16, 0, ["syn_queue"]),
        (17, 8, ["syn_queue"]),
        (17, 9, ["syn_flood"]),
        (16, 16, ["syn_flood"]),
        (0, 0, []),
    ],
)
def test_a_full_syn_queue_is_judged_by_who_stands_in_it(
    half_open: int, resent: int, expected: list[str]
) -> None:
    """Clients that are there answer before the SYN+ACK is sent again."""
    assert kinds(snapshot(knocked(half_open, resent))) == expected


def test_behind_a_full_accept_queue_nobody_can_move_on() -> None:
    """Then the application is slow, whatever the SYN queue looks like."""
    assert kinds(snapshot(knocked(17, 17, queue=17))) == ["accept_queue"]
    assert kinds(snapshot(replace(knocked(17, 17, queue=3), peak=17))) == ["accept_queue"]
    assert kinds(snapshot(replace(knocked(17, 17, queue=3), peak=16))) == ["syn_flood"]


def test_a_syn_queue_of_which_nothing_is_known_is_not_judged() -> None:
    assert kinds(snapshot(knocked(500, None, limit=None))) == []


def test_a_backlog_that_is_too_small_names_who_has_to_raise_it() -> None:
    door = replace(knocked(17, 1), drops=12)
    [finding] = found_in(snapshot(door))
    assert finding.message == "SYN queue full, 17 of 16: 0.0.0.0:80, web.service"
    assert "backlog of web.service" in finding.meaning
    assert "12 packets" in finding.meaning
    assert (finding.count, finding.limit, finding.listener) == (17, 16, door)


def counting(
    door: Listener, counters: Mapping[str, int], *, within: float | None = None
) -> Snapshot:
    """A listener, and what the kernel has counted so far, or within so many seconds."""
    lately = None if within is None else Lately(within, counters)
    figures = replace(UNKNOWN, counters=counters if within is None else {}, lately=lately)
    return with_figures(snapshot(door), figures)


@pytest.mark.parametrize(
    ("counters", "told"),
    [
        ({}, None),
        ({"syncookies_sent": 0, "syn_queue_full_drops": 0}, None),
        (
            {"syncookies_sent": 9_000, "syncookies_received": 4},
            "So far the kernel has sent 9,000 SYN cookies, of which 4 came back.",
        ),
        ({"syn_queue_full_drops": 9_000}, "So far the kernel has dropped 9,000 SYNs for that."),
    ],
)
def test_a_flood_says_what_the_kernel_did_about_it(
    counters: dict[str, int], told: str | None
) -> None:
    [finding] = found_in(counting(knocked(17, 17), counters))
    assert finding.meaning.startswith("A SYN flood, or packets get lost: of 17 the SYN+ACK")
    assert ("So far" in finding.meaning) is (told is not None)
    assert (told or "") in finding.meaning


@pytest.mark.parametrize(
    ("counters", "told"),
    [
        ({}, None),
        ({"passive_opens": 7}, "Within 12 s the kernel has completed 7 connections."),
        (
            {"passive_opens": 0, "syncookies_sent": 9_000, "syncookies_received": 4},
            "completed 0 connections and sent 9,000 SYN cookies, of which 4 came back.",
        ),
        (
            {"passive_opens": 1_000, "syn_queue_full_drops": 3},
            "Within 12 s the kernel has completed 1,000 connections and dropped 3 SYNs for that.",
        ),
    ],
)
def test_what_the_kernel_did_lately_is_told_where_it_is_known(
    counters: dict[str, int], told: str | None
) -> None:
    for resent in (0, 17):
        [finding] = found_in(counting(knocked(17, resent), counters, within=12.25))
        assert ("Within" in finding.meaning) is (told is not None)
        assert (told or "") in finding.meaning


@pytest.mark.parametrize(
    ("counters", "kind"),
    [
        ({"passive_opens": 0, "syncookies_sent": 17}, "syn_flood"),
        ({"passive_opens": 0, "syncookies_sent": 16}, "syn_queue"),
        ({"passive_opens": 0, "syncookies_sent": 1_000, "syncookies_received": 990}, "syn_queue"),
        ({"passive_opens": 499, "syncookies_sent": 500}, "syn_flood"),
        ({"passive_opens": 500, "syncookies_sent": 500}, "syn_queue"),
        ({"passive_opens": 0, "syn_queue_full_drops": 500}, "syn_flood"),
        ({"passive_opens": 501, "syn_queue_full_drops": 500}, "syn_queue"),
        ({"passive_opens": 0, "syncookies_received": 500, "syn_queue_full_drops": 9}, "syn_queue"),
        ({}, "syn_queue"),
    ],
)
def test_a_flood_that_has_just_begun_is_told_by_what_comes_to_nothing(
    counters: dict[str, int], kind: str
) -> None:
    """Nothing had to be sent again yet."""
    assert kinds(counting(knocked(17, 0), counters, within=1.0)) == [kind]
    assert kinds(counting(knocked(17, 0), counters)) == ["syn_queue"]
    assert kinds(counting(knocked(17, 17), counters, within=1.0)) == ["syn_flood"]


def test_a_full_accept_queue_tells_how_many_found_it_full_lately() -> None:
    full = listener(8080, "app.service", queue=9, limit=8)
    counters = {"listen_overflows": 1_200, "passive_opens": 30}
    [finding] = found_in(counting(full, counters, within=60.0))
    told = "Within 60 s 1,200 found an accept queue of this host full, and 30 found room."
    assert told in finding.meaning
    for quiet in ({"listen_overflows": 0, "passive_opens": 30}, {"listen_overflows": 3}):
        [finding] = found_in(counting(full, quiet, within=60.0))
        assert "Within" not in finding.meaning


# Destinations


def reaching(
    *crowded: DestinationUse, ports: int | None = 100, unanswered: dict[str, int] | None = None
) -> Snapshot:
    """A host with these destinations, `app.service` being who does not get an answer."""
    found = Destinations(ports, 0, crowded, unanswered)
    key = StuckKey(
        ServiceKey(Direction.OUTBOUND, "443", "app.service"), State.SYN_SENT, Cause.UNANSWERED
    )
    (view,) = snapshot(outbound(443, "app.service", syn_sent=400)).namespaces
    stuck = replace(STUCK, connections={key: 400} if unanswered else {})
    return of_namespaces(replace(view, destinations=found, stuck=stuck))


def of_kind(taken: Snapshot, kind: Kind) -> list[Finding]:
    return [finding for finding in found_in(taken) if finding.kind is kind]


@pytest.mark.parametrize(
    ("in_use", "ports", "meaning"),
    [
        (50, 100, None),
        (51, 100, "connect() searches"),
        (84, 100, "connect() searches"),
        (85, 100, "EADDRNOTAVAIL"),
        (100, 100, "EADDRNOTAVAIL"),
        (100, None, None),
        (100, 0, None),
    ],
)
def test_ports_are_found_to_run_out_beyond_half_of_them(
    in_use: int, ports: int | None, meaning: str | None
) -> None:
    use = DestinationUse("192.0.2.1", "198.51.100.7:5432", in_use, 0)
    found = of_kind(reaching(use, ports=ports), Kind.EPHEMERAL_PORTS)
    assert [(meaning or "") in one.meaning for one in found] == ([True] if meaning else [])


def test_a_destination_that_is_short_of_ports_is_named() -> None:
    use = DestinationUse("192.0.2.1", "198.51.100.7:5432", 85, 0)
    [finding] = of_kind(reaching(use), Kind.EPHEMERAL_PORTS)
    assert (
        finding.message
        == "85% of the ephemeral ports in use, 85 of 100: from 192.0.2.1 to 198.51.100.7:5432"
    )
    assert (finding.count, finding.limit) == (85, 100)
    assert (finding.destination, finding.service) == ("198.51.100.7:5432", None)


@pytest.mark.parametrize(("time_wait", "churn"), [(42, False), (43, True)])
def test_churn_is_told_from_many_connections_at_a_time(time_wait: int, churn: bool) -> None:
    use = DestinationUse("192.0.2.1", "198.51.100.7:5432", 85, time_wait)
    [finding] = of_kind(reaching(use), Kind.EPHEMERAL_PORTS)
    assert ("in time_wait" in finding.meaning) is churn


def test_who_does_not_answer_is_named_and_whom() -> None:
    [finding] = found_in(reaching(unanswered={"198.51.100.9:443": 37}))
    assert finding.kind is Kind.UNANSWERED
    assert finding.message == "37 connections unanswered: 198.51.100.9:443, app.service"
    assert "over 10 s" in finding.meaning
    assert finding.destination == "198.51.100.9:443"
    assert finding.service == ServiceKey(Direction.OUTBOUND, "443", "app.service")


def test_a_pile_whose_destinations_have_names_is_not_told_again() -> None:
    assert kinds(reaching(unanswered={"198.51.100.9:443": 37})) == ["unanswered"]
    assert kinds(reaching(unanswered={"198.51.100.9:5432": 37})) == ["unanswered", "syn_sent"]
    assert kinds(reaching(unanswered={})) == ["syn_sent"]
    assert kinds(reaching(unanswered=None)) == ["syn_sent"]


def test_of_several_units_none_is_blamed_for_a_silent_destination() -> None:
    taken = reaching(unanswered={"[2001:db8::9]:443": 37})
    (view,) = taken.namespaces
    assert view.stuck is not None
    [(key, number)] = view.stuck.connections.items()
    other = key._replace(service=key.service._replace(unit="other.service"))
    stuck = replace(view.stuck, connections={key: number, other: 1})
    [finding] = of_kind(of_namespaces(replace(view, stuck=stuck)), Kind.UNANSWERED)
    assert finding.message == "37 connections unanswered: [2001:db8::9]:443"
    assert finding.service is None


# Limits


def on_host(**figures: object) -> Snapshot:
    """A host of which no more than this is known."""
    host = replace(HOST_FIGURES, orphans=0, memory=0)
    of_host = {key: figures.pop(key) for key in [*figures] if hasattr(host, key)}
    return with_figures(
        snapshot(),
        replace(UNKNOWN, **figures, host=replace(host, **of_host)),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"time_wait": 899, "time_wait_limit": 1_000}, []),
        ({"time_wait": 900, "time_wait_limit": 1_000}, ["time_wait"]),
        ({"time_wait": 900, "time_wait_limit": None}, []),
        ({"time_wait": None, "time_wait_limit": 1_000}, []),
        ({"time_wait": 0, "time_wait_limit": 0}, []),
        ({"orphans": 16_383, "orphan_limit": 65_536}, []),
        ({"orphans": 16_384, "orphan_limit": 65_536}, ["orphans"]),
        ({"orphans": 1_000_000, "orphan_limit": None}, []),
        ({"orphans": None, "orphan_limit": 65_536}, []),
        ({"memory": 981 * MIB - 1}, []),
        ({"memory": 981 * MIB}, ["memory"]),
        ({"memory": 10_000 * MIB}, ["memory"]),
        ({"memory": 10_000 * MIB, "memory_limits": {}}, []),
        ({"memory": None}, []),
    ],
)
def test_a_limit_is_found_to_be_near(figures: dict[str, object], expected: list[str]) -> None:
    assert kinds(on_host(**figures)) == expected


def test_orphans_are_judged_by_the_limit_of_this_host() -> None:
    [finding] = found_in(on_host(orphans=30, orphan_limit=100))
    assert finding.message == "30 orphans, 30% of the limit of 100"
    assert (finding.count, finding.limit) == (30, 100)
    assert kinds(snapshot(unowned={Unowned.ORPHAN: 1_000_000})) == []


def test_memory_under_pressure_is_told_from_memory_used_up() -> None:
    pressed, full = (found_in(on_host(memory=used * MIB))[0] for used in (1_000, 1_472))
    assert pressed.message == "TCP buffers take 1,000 MiB of memory, under pressure from 981 MiB on"
    assert "until it is below 736 MiB" in pressed.meaning
    assert full.message == "TCP buffers take 1.4 GiB of memory, over the limit of 1.4 GiB"


def test_time_wait_that_did_not_fit_is_told() -> None:
    taken = on_host(time_wait=1_000, time_wait_limit=1_000, counters={"time_wait_overflows": 7})
    [finding] = found_in(taken)
    assert finding.meaning.endswith("That has happened 7 times so far.")


def test_limits_of_the_host_are_judged_once() -> None:
    taken = of_namespaces(namespace(), namespace(netns="blue"))
    near = replace(FIGURES, time_wait=0, host=replace(HOST_FIGURES, orphans=60_000))
    [finding] = found_in(with_figures(taken, near, replace(near, host=None)))
    assert (finding.kind, finding.netns) == (Kind.ORPHANS, "")


# FIN_WAIT2


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
        source=PSUTIL,
    )
    assert [(finding.kind.value, finding.count) for finding in found_in(taken)] == [
        ("accept_queue", 9),
        ("close_wait", 300),
        ("close_wait", 30),
        ("syn_sent", 3000),
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
