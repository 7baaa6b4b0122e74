"""Independent readings of TCP sockets, to hold sockwatch's against.

Each oracle reads the tables through another program: `ss`, pyroute2's own decoder, the files of
`/proc/net`. All give the same rows, and one rule counts them. `netlink_counts`, `watch_counts` and
`psutil_counts` are the only places that know how sockwatch is asked.

Every reading is of the network namespace it is called in: call it in `namespace.entered()`, or by
`namespace.call(...)` to read in a process of its own, without privilege if wanted. psutil needs the
latter, because it reads the `/proc/net` of the process whatever its threads have entered.

A v4 connection of a dual-stack listener is a socket of family ipv6 at the server's end for all of
them: `ss -6` lists it as `[::ffff:127.0.0.1]`, `/proc/net/tcp6` has it.

Nobody counts a socket that is only bound. It is in no table but one that kernels since 6.8 walk for
who sets bit 13 of the mask, as `ss -a` does since iproute2 6.8; `ss_rows` names the states instead.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from pyroute2 import DiagSocket

from sockwatch.kernel.netlink import NetlinkSource
from sockwatch.kernel.psutil_source import PsutilSource
from sockwatch.observe.view import view
from sockwatch.tcp.records import Reading
from sockwatch.tcp.states import Family, State, Unowned

# net/ipv4/tcp_diag.c: idiag_timer of TIME_WAIT and FIN_WAIT2 minis; /proc/net/tcp has the same.
TIMER_TIMEWAIT: Final = 3

# include/uapi/linux/sock_diag.h, the type of a reply
SOCK_DIAG_BY_FAMILY: Final = 20

# Every state that is in a table. Newer kernels have a bit 13 for sockets that are only bound.
TABLED_STATES: Final = 0xFFF


class Row(NamedTuple):
    """What all of them know about a socket."""

    family: Family
    state: State
    inode: int
    mini: bool


class Counted(NamedTuple):
    """What is compared."""

    sockets: Counter[tuple[Family, State]]
    unowned: Counter[Unowned] | None
    """None from a reader that cannot know."""


NOT_ACCEPTED_STATES: Final = frozenset({State.ESTABLISHED, State.CLOSE_WAIT})
ORPHAN_STATES: Final = frozenset({State.FIN_WAIT1, State.FIN_WAIT2, State.CLOSING, State.LAST_ACK})


def unowned_kind(row: Row) -> Unowned | None:
    """Why no process holds the socket; None for one that a process holds."""
    if row.mini:
        return Unowned.MINI
    if row.state is State.SYN_RECV:
        return Unowned.HALF_OPEN
    if row.inode == 0 and row.state in NOT_ACCEPTED_STATES:
        return Unowned.NOT_ACCEPTED
    return Unowned.ORPHAN if row.inode == 0 and row.state in ORPHAN_STATES else None


def counted(rows: Iterable[Row]) -> Counted:
    sockets: Counter[tuple[Family, State]] = Counter()
    unowned: Counter[Unowned] = Counter()
    for row in rows:
        sockets[row.family, row.state] += 1
        if (kind := unowned_kind(row)) is not None:
            unowned[kind] += 1
    return Counted(sockets, unowned)


SS_STATES: Final = {
    "ESTAB": State.ESTABLISHED,
    "SYN-SENT": State.SYN_SENT,
    "SYN-RECV": State.SYN_RECV,
    "FIN-WAIT-1": State.FIN_WAIT1,
    "FIN-WAIT-2": State.FIN_WAIT2,
    "TIME-WAIT": State.TIME_WAIT,
    "UNCONN": State.CLOSE,
    "CLOSE-WAIT": State.CLOSE_WAIT,
    "LAST-ACK": State.LAST_ACK,
    "LISTEN": State.LISTEN,
    "CLOSING": State.CLOSING,
}
SS_FAMILIES: Final = {Family.INET: "-4", Family.INET6: "-6"}

# All that -a stood for before iproute2 6.8, which added the sockets that are only bound to it.
SS_FILTER: Final = (
    *("state", "established", "state", "syn-sent", "state", "syn-recv", "state", "time-wait"),
    *("state", "fin-wait-1", "state", "fin-wait-2", "state", "closing", "state", "last-ack"),
    *("state", "close-wait", "state", "listening", "state", "closed"),
)


def ss_rows() -> Iterator[Row]:
    for family, option in SS_FAMILIES.items():
        # As people type it, and: -e for inodes, -o for timers, -H for no heading.
        for line in _output("ss", "-tan", "-eoH", option, *SS_FILTER).splitlines():
            inode = re.search(r"\bino:(\d+)", line)
            state = SS_STATES[line.split()[0]]
            yield Row(family, state, int(inode[1]) if inode else 0, "timer:(timewait" in line)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def pyroute2_rows() -> Iterator[Row]:
    with DiagSocket() as diag:
        diag.bind()
        for family in Family:
            for message in diag.get_sock_stats(family=family, states=TABLED_STATES):
                # It gives out the kernel's refusals as if they were rows.
                assert message["header"]["type"] == SOCK_DIAG_BY_FAMILY, message
                state, timer = State.of(message["idiag_state"]), message["idiag_timer"]
                seen = Family(message["idiag_family"])
                yield Row(seen, state, message["idiag_inode"], timer == TIMER_TIMEWAIT)


PROC_FILES: Final = {Family.INET: "tcp", Family.INET6: "tcp6"}


def proc_rows() -> Iterator[Row]:
    for family, name in PROC_FILES.items():
        for line in Path("/proc/thread-self/net", name).read_text().splitlines()[1:]:
            _, _, _, state, _, timer, _, _, _, inode = line.split()[:10]
            mini = int(timer.partition(":")[0]) == TIMER_TIMEWAIT
            yield Row(family, State.of(int(state, 16)), int(inode), mini)


def ss_counts() -> Counted:
    return counted(ss_rows())


def pyroute2_counts() -> Counted:
    return counted(pyroute2_rows())


def proc_counts() -> Counted:
    return counted(proc_rows())


ORACLES: Final = {"ss": ss_counts, "pyroute2": pyroute2_counts, "proc": proc_counts}


def netlink_counts() -> Counted:
    """What a census of sockwatch counts."""
    with closing(NetlinkSource()) as source:
        return _counts_of(source.census())


def watch_counts() -> Counted:
    """What a watch pass of sockwatch counts: less than all states, and nothing unowned."""
    with closing(NetlinkSource()) as source:
        return _counts_of(source.watch())


def psutil_counts() -> Counted:
    """What a census of sockwatch counts where netlink is refused."""
    return _counts_of(PsutilSource().census())


def _counts_of(reading: Reading) -> Counted:
    seen = view(reading, reading.bulk, lambda _: "", limit=1000)
    unowned = None if seen.unowned is None else Counter(seen.unowned)
    return Counted(Counter(seen.sockets), unowned)
