"""The report as people see it: four whole hosts, then what must hold for any."""

import re
from datetime import UTC
from typing import Final

import pytest
from arbitrary_snapshots import SNAPSHOTS
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import (
    OWNED,
    PSUTIL,
    listener,
    namespace,
    of_namespaces,
    outbound,
    service,
    snapshot,
    with_failed_pass,
)

from sockwatch.export.document import Host
from sockwatch.export.findings import find
from sockwatch.export.report.page import Page
from sockwatch.export.report.text import report
from sockwatch.export.terminal import PLAIN, Style, display_width
from sockwatch.observe.snapshot import OTHER, NamespaceView, Snapshot
from sockwatch.tcp.states import Direction, State, Unowned

HOST: Final = Host("web-7", "6.18.44")
COLOURED: Final = Style(coloured=True)
DEEPEST_INDENT: Final = 5
"""Columns left of what looks wrong."""
POD: Final = f"cri-containerd-{'0123456789abcdef' * 4}.scope"


def text_of(taken: Snapshot, *, width: int = 80, limit: int | None = None) -> str:
    return report(taken, find(taken, now=taken.taken), HOST, Page(PLAIN, width, limit), UTC)


def coloured_text_of(taken: Snapshot) -> str:
    return report(taken, find(taken, now=taken.taken), HOST, Page(COLOURED), UTC)


CALM: Final = snapshot(
    service(
        443,
        "nginx.service",
        established=12_003,
        time_wait=8_123,
        fin_wait2=212,
        close_wait=14,
        syn_recv=4,
        last_ack=7,
    ),
    outbound(8080, "nginx.service", established=310, time_wait=4_021),
    outbound(5432, "app.service", established=64, close_wait=2),
    service(22, "ssh.service", established=3),
    listener(443, "nginx.service", queue=3, limit=4_096, sockets=4),
    listener(443, "nginx.service", address="::", limit=4_096, sockets=4),
    listener(22, "ssh.service"),
    listener(8080, "app.service", address="127.0.0.1", limit=511),
    ipv6={State.ESTABLISHED: 512, State.TIME_WAIT: 40},
    unowned={
        Unowned.MINI: 12_344,
        Unowned.HALF_OPEN: 4,
        Unowned.ORPHAN: 7,
        Unowned.NOT_ACCEPTED: 3,
    },
)
LEAKING: Final = snapshot(
    service(8080, "app.service", established=120, close_wait=412),
    outbound(9200, "search.service", established=10, syn_sent=57),
    service(3128, "proxy.service", fin_wait2=50),
    service(443, POD, established=3, syn_recv=2, last_ack=3, fin_wait1=22, time_wait=1_234_567),
    service(OTHER, OTHER, established=6),
    listener(8080, "app.service", queue=129, limit=128),
    listener(443, POD, address="2001:db8:1234:5678:9abc:def0:1234:5678", limit=4_096, sockets=8),
    unowned={Unowned.ORPHAN: 30, Unowned.MINI: 1_234_567},
    folded=12,
)
FALLEN_BACK: Final = snapshot(
    service(8080, established=120, close_wait=4),
    outbound(9200, established=10),
    listener(8080, queue=None, limit=None),
    unowned=None,
    source=PSUTIL,
)
EMPTY: Final = snapshot()


def test_a_calm_busy_host() -> None:
    assert (
        text_of(CALM) + "\n"
        == """\
web-7, Linux 6.18.44, 2026-01-01 00:00:00 UTC, read from netlink

Nothing looks wrong.

Sockets
                     IPv4  IPv6     all  step       who acts next
  opening
    syn_recv            4     0       4  open 2/3   the peer's ACK (or accept
                                                    queue room)
  established      11,868   512  12,380  open 3/3   the applications
  closing_active
    fin_wait2         212     0     212  close 2/4  the peer's application
    time_wait      12,104    40  12,144  close 4/4  the kernel's timer
  closing_passive
    close_wait         16     0      16  close 2/4  the local application
    last_ack            7     0       7  close 3/4  the peer's ACK
  listen                6     4      10             clients
  no socket in syn_sent, fin_wait1, closing, close, unknown
  held by no process: 4 half-open, 3 waiting for accept(), 7 orphans, 12,344 in
  time_wait or closed fin_wait2

Services
            port  unit            estab  close    fin   time   syn  last
                                          wait  wait2   wait  recv   ack
  inbound    443  nginx.service  12,003     14    212  8,123     4     7
  outbound  8080  nginx.service     310      0      0  4,021     0     0
  outbound  5432  app.service        64      2      0      0     0     0
  inbound     22  ssh.service         3      0      0      0     0     0

Listeners, fullest first
  queue  limit  full              address         unit
      3  4,096    0%  ..........  0.0.0.0:443     nginx.service (4 sockets)
      0    128    0%  ..........  0.0.0.0:22      ssh.service
      0  4,096    0%  ..........  [::]:443        nginx.service (4 sockets)
      0    511    0%  ..........  127.0.0.1:8080  app.service
"""
    )


def test_a_leaking_host() -> None:
    assert (
        text_of(LEAKING) + "\n"
        == """\
web-7, Linux 6.18.44, 2026-01-01 00:00:00 UTC, read from netlink

Looks wrong
  !  accept queue full, 129 of 128: 0.0.0.0:8080, app.service
     Clients connect faster than app.service accepts them. Beyond the limit the
     kernel drops them.
  !  412 connections in close_wait: inbound port 8080, app.service
     The peers have closed, app.service has not. No timer ends these: only its
     close() does.
  !  57 connections in syn_sent: outbound port 9200, search.service
     Nobody answers search.service: the other side is down, overloaded or behind
     a filter.
  !  at least 20 connections half-closed in fin_wait2: inbound port 3128,
     proxy.service
     Half shut down by proxy.service, which waits for the peers to close without
     any limit.

Sockets
                        IPv4  IPv6        all  step       who acts next
  opening
    syn_sent              57     0         57  open 1/3   the peer's SYN+ACK
    syn_recv               2     0          2  open 2/3   the peer's ACK (or
                                                          accept queue room)
  established            139     0        139  open 3/3   the applications
  closing_active
    fin_wait1             22     0         22  close 1/4  the peer's ACK
    fin_wait2             50     0         50  close 2/4  the peer's application
    time_wait      1,234,567     0  1,234,567  close 4/4  the kernel's timer
  closing_passive
    close_wait           412     0        412  close 2/4  the local application
    last_ack               3     0          3  close 3/4  the peer's ACK
  listen                   1     8          9             clients
  no socket in closing, close, unknown
  held by no process: 30 orphans, 1,234,567 in time_wait or closed fin_wait2

Services
             port  unit                     estab  close   syn    fin     others
                                                    wait  sent  wait2
  inbound    8080  app.service                120    412     0      0          0
  outbound   9200  search.service              10      0    57      0          0
  inbound    3128  proxy.service                0      0     0     50          0
  inbound     443  cri-contai...cdef.scope      3      0     0      0  1,234,594
  inbound   other  other                        6      0     0      0          0
  12 more services are added up as other (labels.series_limit)

Listeners, fullest first
  queue  limit  full  address                                   unit
    129    128  101%  0.0.0.0:8080                              app.service
      0  4,096    0%  [2001:db8:1234:5678...ef0:1234:5678]:443  cri-con....scope
                                                                (8 sockets)
"""
    )


def test_a_host_read_through_psutil() -> None:
    assert (
        text_of(FALLEN_BACK) + "\n"
        == """\
web-7, Linux 6.18.44, 2026-01-01 00:00:00 UTC, read from psutil

Looks wrong
  !  read from psutil: netlink does not work (socket: Operation not permitted)
     Without it accept queues, units and what no process holds are unknown.

Sockets
                   IPv4  IPv6  all  step       who acts next
  established       130     0  130  open 3/3   the applications
  closing_passive
    close_wait        4     0    4  close 2/4  the local application
  listen              1     0    1             clients
  no socket in syn_sent, syn_recv, fin_wait1, fin_wait2, closing, time_wait,
  last_ack, close, unknown
  held by no process: not known from this source

Services
            port  unit  estab  close
                                wait
  inbound   8080  -       120      4
  outbound  9200  -        10      0

Listeners, fullest first
  queue  limit  full  address       unit
      -      -     -  0.0.0.0:8080  -
"""
    )


def test_an_empty_host() -> None:
    assert (
        text_of(EMPTY) + "\n"
        == """\
web-7, Linux 6.18.44, 2026-01-01 00:00:00 UTC, read from netlink

Nothing looks wrong.

Sockets
  no socket in syn_sent, syn_recv, established, fin_wait1, fin_wait2, closing,
  time_wait, close_wait, last_ack, listen, close, unknown
  held by no process: none
"""
    )


def table_of(text: str, title: str) -> list[str]:
    """The lines of a section below its title."""
    [block] = [block for block in text.split("\n\n") if block.startswith(title)]
    return block.splitlines()[1:]


def ports_in(text: str) -> list[str]:
    rows = table_of(text, "Services")
    return [row.split()[1] for row in rows if row.split()[0] in {*Direction}]


def test_services_that_look_wrong_come_first_then_the_largest() -> None:
    taken = snapshot(
        service(1, established=50_000),
        service(2, close_wait=20),
        service(3, established=60_000),
        service(4, close_wait=200),
    )
    assert ports_in(text_of(taken)) == ["4", "2", "3", "1"]


def test_services_without_connections_are_left_to_the_listeners() -> None:
    taken = snapshot(service(80), service(22, established=1), listener(80), listener(22))
    assert ports_in(text_of(taken)) == ["22"]


def test_more_services_than_rows_are_counted() -> None:
    taken = snapshot(*(service(port, established=port) for port in range(1, 31)))
    text = text_of(taken)
    assert ports_in(text) == [str(port) for port in range(30, 10, -1)]
    assert table_of(text, "Services")[-1] == "  and 10 more (55 connections)"


@pytest.mark.parametrize(("limit", "shown"), [(1, 1), (7, 7), (30, 30), (31, 30), (0, 30)])
def test_a_limit_counts_for_services_listeners_and_findings(limit: int, shown: int) -> None:
    ports = range(1, 31)
    taken = snapshot(
        *(service(port, close_wait=100) for port in ports),
        *(listener(port) for port in ports),
    )
    text = text_of(taken, limit=limit)
    assert len(ports_in(text)) == shown
    listeners = [row for row in table_of(text, "Listeners") if "0.0.0.0:" in row]
    assert len(listeners) == shown
    assert len([row for row in table_of(text, "Looks wrong") if "!" in row]) == shown
    assert ("and" in table_of(text, "Listeners")[-1]) is (shown < 30)


def test_the_fullest_listeners_come_first() -> None:
    taken = snapshot(
        listener(1, queue=100, limit=4_096),
        listener(2, queue=5, limit=5),
        listener(3, queue=None, limit=None),
        listener(4, queue=1, limit=0),
        listener(5),
    )
    rows = table_of(text_of(taken), "Listeners")[1:]
    assert [row.split()[-2].rpartition(":")[2] for row in rows] == ["2", "4", "1", "3", "5"]


def test_one_waiting_at_a_listener_without_a_queue_fills_it() -> None:
    row = table_of(text_of(snapshot(listener(1, queue=1, limit=0))), "Listeners")[1]
    assert row.split()[:3] == ["1", "0", "100%"]


def test_what_the_source_cannot_know_is_no_number() -> None:
    row = table_of(text_of(snapshot(listener(1, queue=None, limit=None))), "Listeners")[1]
    assert row.split() == ["-", "-", "-", "0.0.0.0:1", "-"]


def test_a_state_that_was_never_measured_is_not_told_as_empty() -> None:
    view = namespace(service(80, close_wait=1))
    measured = {key: count for key, count in view.sockets.items() if key[1] is not State.TIME_WAIT}
    taken = of_namespaces(NamespaceView("", measured, OWNED, view.services, 0, ()))
    remarks = " ".join(table_of(text_of(taken), "Sockets"))
    assert "not measured: time_wait" in remarks
    assert re.search(r"no socket in [^:]*time_wait", remarks) is None


def test_each_namespace_has_its_sections() -> None:
    views = (namespace(service(1, established=1)), namespace(service(2, close_wait=50), netns="b"))
    text = text_of(of_namespaces(*views))
    assert "inbound port 2 (netns b)" in text
    assert "inbound     1" in "\n".join(table_of(text, "Services\n"))
    assert "inbound     2" in "\n".join(table_of(text, "Services in netns b"))


def test_a_finding_is_not_held_against_its_namesake_in_another_namespace() -> None:
    """The smaller service comes first only where it is the one that looks wrong."""
    other = service(2, established=90)
    guilty = namespace(service(1, close_wait=30), other, netns="b")
    innocent = namespace(service(1, established=30), other)
    text = text_of(of_namespaces(innocent, guilty))
    order = [
        [row.split()[1] for row in table_of(text, title)[1:] if row.startswith("  inbound")]
        for title in ("Services\n", "Services in netns b")
    ]
    assert order == [["2", "1"], ["1", "2"]]


def test_old_figures_are_said_to_be_old() -> None:
    text = text_of(with_failed_pass(CALM, "busy: the kernel answers EBUSY"))
    assert "old figures: the census pass failed (busy: the kernel answers EBUSY)" in text


def test_colour_changes_nothing_but_colour() -> None:
    coloured = coloured_text_of(LEAKING)
    assert coloured != text_of(LEAKING)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == text_of(LEAKING)


def test_numbers_that_look_wrong_are_red() -> None:
    coloured = coloured_text_of(LEAKING)
    assert coloured.count("\x1b[31m412\x1b[0m") == 1
    assert coloured.count("\x1b[31m129\x1b[0m") == 1
    assert "\x1b[31m120\x1b[0m" not in coloured


def test_a_hostile_unit_cannot_steer_the_terminal_or_break_a_line() -> None:
    unit = "\x1b]0;owned\x07\r\nNothing looks wrong.\u202e.service"
    taken = snapshot(
        service(1, unit, close_wait=99), listener(1, unit, address="::1%\x1b[2J", queue=2, limit=1)
    )
    text = text_of(taken, width=200)
    assert text.replace("\n", "").isprintable()
    assert "Nothing looks wrong." not in text.splitlines()
    assert r"\x1b]0;owned" in text


def test_long_units_keep_both_ends() -> None:
    row = table_of(text_of(snapshot(service(1, POD, established=1)), width=60), "Services")[-1]
    assert re.search(r"cri-con\S*\.\.\.\S*\.scope", row)


@settings(deadline=None)
@given(SNAPSHOTS, st.integers(60, 200))
def test_any_snapshot_fits_any_terminal(taken: Snapshot, width: int) -> None:
    text = text_of(taken, width=width)
    assert text.replace("\n", "").isprintable()
    for line in text.splitlines():
        longest_word = max(map(display_width, line.split()), default=0)
        assert display_width(line) <= width or longest_word > width - DEEPEST_INDENT
