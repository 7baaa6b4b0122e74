"""The page: what a person reads, whole and harmless whatever the names are."""

from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import (
    TAKEN,
    listener,
    namespace,
    of_namespaces,
    outbound,
    service,
    snapshot,
    with_failed_pass,
)

from sockwatch import __version__
from sockwatch.observe.snapshot import NamespaceView, ServiceKey, Snapshot, Stuck, StuckKey
from sockwatch.tcp.causes import Cause
from sockwatch.tcp.states import Direction, Family, State
from sockwatch.web.page import MOST_SERVICES, page, refusal_page

VOID = {"meta", "link", "br"}
BUSY = snapshot(
    service(8080, "app.service", established=1200, close_wait=41, time_wait=7),
    service(22, "ssh.service", established=2),
    outbound(5432, "app.service", syn_sent=3, close_wait=2),
    listener(8080, "app.service"),
    ipv6={State.ESTABLISHED: 200},
)


class Reader(HTMLParser):
    """Takes a page apart, and insists that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)

    def after(self, text: str, number: int = 1) -> str:
        """The text that follows another one."""
        return self.texts[self.texts.index(text) + number]


def shown(
    taken: Snapshot | None, *, now: float = TAKEN + 2.0, ready: tuple[bool, str] = (True, "fine")
) -> str:
    return page(taken, now, ready=ready, host="web1", telemetry_path="/metrics")


def read(taken: Snapshot | None, *, now: float = TAKEN + 2.0) -> Reader:
    return Reader(shown(taken, now=now))


def test_it_says_whose_figures_these_are_and_how_old() -> None:
    found = read(BUSY)
    assert found.after("Host") == "web1"
    assert found.after("Version") == __version__
    assert found.after("State") == "fine"
    assert found.after("Source").startswith("netlink: ")
    assert found.after("Last census") == "2.0 s ago"


@pytest.mark.parametrize(
    ("state", "count"),
    [
        ("SYN_SENT", "3"),
        ("SYN_RECV", "0"),
        ("ESTABLISHED", "1,202"),
        ("CLOSE_WAIT", "43"),
        ("TIME_WAIT", "7"),
        ("LISTEN", "1"),
    ],
)
def test_each_state_has_its_count_of_both_families(state: str, count: str) -> None:
    assert read(BUSY).after(state) == count


def test_every_state_stands_on_the_page_once() -> None:
    texts = read(BUSY).texts
    assert [texts.count(state.name) for state in State] == [1] * len(State)


def test_each_step_says_who_has_to_act() -> None:
    found = read(BUSY)
    assert found.after("open 1 of 3", number=2) == "SYN_SENT"
    assert found.after("SYN_SENT", number=2) == "the peer's SYN+ACK"
    assert found.after("CLOSE_WAIT", number=2) == "the local application"


def test_a_state_that_was_not_measured_has_no_count() -> None:
    view = namespace(service(80, established=1))
    sockets = {key: count for key, count in view.sockets.items() if key[1] is not State.TIME_WAIT}
    assert read(of_namespaces(replace(view, sockets=sockets))).after("TIME_WAIT") == "not measured"


def test_only_the_hosts_own_namespace_is_counted() -> None:
    own, other = (
        namespace(service(80, close_wait=1)),
        namespace(service(80, close_wait=9), netns="c1"),
    )
    assert read(of_namespaces(other, own)).after("CLOSE_WAIT") == "1"


def test_services_that_hold_close_wait_come_by_number() -> None:
    found = read(BUSY)
    assert found.after("8080", number=1) == "inbound"
    assert found.after("8080", number=3) == "41"
    assert found.texts.index("8080") < found.texts.index("5432")
    assert "22" not in found.texts


def test_a_service_without_a_unit_is_unknown() -> None:
    assert read(snapshot(service(80, close_wait=1))).after("80", number=2) == "unknown"


def test_no_leak_is_said_in_words() -> None:
    assert "No service does." in read(snapshot(service(80, established=1))).texts


def test_of_many_leaking_services_the_worst_are_shown() -> None:
    many = [service(port, close_wait=port) for port in range(1, 100)]
    found = read(snapshot(*many))
    assert found.texts.count("inbound") == MOST_SERVICES
    assert found.after(
        "The peer has closed, the local application has not; the first 20 of 99 services"
    )
    assert "99" in found.texts
    assert "79" not in found.texts


def stuck(
    connections: dict[StuckKey, int], oldest: dict[tuple[ServiceKey, State], float] | None = None
) -> Snapshot:
    [view] = BUSY.namespaces
    found = Stuck(connections, oldest or {}, {}, {}, (), {}, 0.0, frozenset(), 0, 0, 1)
    return of_namespaces(replace(view, stuck=found))


def key(port: int, state: State, cause: Cause, unit: str = "app.service") -> StuckKey:
    return StuckKey(ServiceKey(Direction.INBOUND, str(port), unit), state, cause)


def test_stuck_connections_come_by_number_with_cause_age_and_unit() -> None:
    many, few = (
        key(80, State.CLOSE_WAIT, Cause.DATA_UNREAD),
        key(81, State.SYN_SENT, Cause.UNANSWERED),
    )
    found = read(stuck({few: 2, many: 1400}, {(many.service, State.CLOSE_WAIT): 7900.0}))
    at = found.texts.index("80")
    assert found.texts[at : at + 14] == [
        *("80", "inbound", "app.service", "CLOSE_WAIT", "data not read", "1,400", "2 h 11 min"),
        *("81", "inbound", "app.service", "SYN_SENT", "SYN not answered", "2", "unknown"),
    ]
    assert "sockwatch leaks" in found.texts


def test_nothing_stuck_and_ages_not_known_are_different_sentences() -> None:
    nothing = "No connection has been in its state for longer than its age limit."
    unknown = "Ages are not known from this source."
    none = stuck({key(80, State.CLOSE_WAIT, Cause.NOT_CLOSED): 0})
    assert nothing in read(none).texts
    assert unknown not in read(none).texts
    assert unknown in read(BUSY).texts


def test_of_many_stuck_groups_the_largest_are_shown() -> None:
    groups = {key(port, State.CLOSE_WAIT, Cause.NOT_CLOSED): port for port in range(1, 100)}
    found = read(stuck(groups))
    assert "Longer in their state than its age limit; the first 20 of 99 groups" in found.texts
    assert found.texts.count("end read, not closed") == MOST_SERVICES
    assert "80" in found.texts
    assert "79" not in found.texts


@pytest.mark.parametrize("taken", [None, of_namespaces()], ids=["nothing", "only failures"])
def test_before_a_pass_has_succeeded_it_says_so_and_shows_no_zero(taken: Snapshot | None) -> None:
    found = read(taken)
    assert any("No pass" in text for text in found.texts)
    assert "CLOSE_WAIT" not in found.texts


def test_a_failed_pass_is_told_beside_the_age_of_the_figures() -> None:
    found = read(with_failed_pass(BUSY, "EBUSY: the kernel is busy"))
    assert found.after("Last census") == "2.0 s ago; the newest failed: EBUSY: the kernel is busy"


def test_a_clock_set_back_makes_no_negative_age() -> None:
    assert read(BUSY, now=TAKEN - 3600).after("Last census") == "0.0 s ago"


def test_it_says_when_it_is_not_ready() -> None:
    html = shown(BUSY, ready=(False, "The last pass is 9 s old."))
    assert Reader(html).after("State") == "Not ready. The last pass is 9 s old."


HOSTILE = [
    "<script>alert(1)</script>",
    "</table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "a\x1b[31m\x00\u202eecivres.b",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_unit_name_stays_text(unit: str) -> None:
    html = shown(snapshot(service(80, unit, close_wait=1)))
    plain = shown(snapshot(service(80, "unit", close_wait=1)))
    assert Reader(html).tags == Reader(plain).tags
    assert all(char.isprintable() or char == "\n" for char in html)


def leaking(unit: str) -> Snapshot:
    return stuck({key(80, State.CLOSE_WAIT, Cause.NOT_CLOSED, unit): 3})


@settings(deadline=None)
@given(st.text())
def test_no_name_breaks_the_page(unit: str) -> None:
    html = shown(snapshot(service(80, unit or "unit", close_wait=1)))
    plain = shown(snapshot(service(80, "unit", close_wait=1)))
    assert Reader(html).tags == Reader(plain).tags
    assert Reader(shown(leaking(unit))).tags == Reader(shown(leaking("unit"))).tags


def elements(name: str, html: str) -> Iterator[dict[str, str | None]]:
    return (attributes for tag, attributes in Reader(html).tags if tag == name)


@pytest.mark.parametrize(
    "html",
    [shown(BUSY), shown(leaking("app.service")), shown(None), refusal_page("/metrics")],
    ids=len,
)
def test_nothing_inline_and_nothing_from_elsewhere(html: str) -> None:
    """What the Content-Security-Policy forbids is not there in the first place."""
    tags = Reader(html).tags
    assert not {"script", "style", "iframe", "img", "form"} & {tag for tag, _ in tags}
    links = [
        value
        for _, attributes in tags
        for key, value in attributes.items()
        if key in {"href", "src"}
    ]
    assert links
    assert all(link is not None and link.startswith("/") for link in links)
    assert not [
        key
        for _, attributes in tags
        for key in attributes
        if key == "style" or key.startswith("on")
    ]


def test_it_can_be_read_aloud_and_on_a_phone() -> None:
    html = shown(BUSY)
    tables = len(list(elements("table", html)))
    assert tables == len(list(elements("caption", html))) == 4
    assert all(cell.get("scope") in {"col", "row"} for cell in elements("th", html))
    assert next(elements("html", html))["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in elements("meta", html))


def test_it_refreshes_itself_and_links_what_else_there_is() -> None:
    html = shown(BUSY)
    assert any(meta.get("http-equiv") == "refresh" for meta in elements("meta", html))
    assert [a["href"] for a in elements("a", html)] == ["/metrics", "/-/healthy", "/-/ready"]


def test_who_is_refused_learns_where_the_metrics_are() -> None:
    assert [a["href"] for a in elements("a", refusal_page("/m"))] == ["/m"]


def test_both_families_of_a_state_are_summed() -> None:
    view = NamespaceView(
        netns="",
        sockets={(Family.INET, State.CLOSE_WAIT): 2, (Family.INET6, State.CLOSE_WAIT): 3},
        unowned=None,
        services={},
        folded=0,
        listeners=(),
    )
    assert read(of_namespaces(view)).after("CLOSE_WAIT") == "5"
