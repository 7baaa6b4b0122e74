"""Dumps recorded from live kernels, with the rows that an independent decoder found in them.

Each is two files in `tests/unit/recordings`: the datagrams one after the other in `.bin`, and in
`.json` their sizes, where they come from, and the rows. `record.py` there makes them anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from pyroute2.netlink.diag import inet_diag_msg

from sockwatch.kernel.wire import Dump
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State

FOLDER: Final = Path(__file__).parents[1] / "unit/recordings"

# include/uapi/linux/inet_diag.h
TCPDIAG_GETSOCK: Final = 18
# include/uapi/linux/netlink.h
NLMSG_DONE: Final = 3

FAMILIES: Final = {family.label: family for family in Family}
STATES: Final = {state.label: state for state in State}


class Recording(NamedTuple):
    """The replies to one dump request."""

    kernel: str
    privileged: bool
    """Whether the reader had CAP_NET_ADMIN."""
    states: int
    """The mask that was asked for."""
    sequence: int
    datagrams: tuple[bytes, ...]
    rows: tuple[Row, ...]


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.bin"))


def load(name: str) -> Recording:
    about = json.loads((FOLDER / f"{name}.json").read_text())
    content = (FOLDER / f"{name}.bin").read_bytes()
    sizes = about.pop("datagrams")
    if sum(sizes) != len(content):
        raise ValueError(f"{name}.bin has {len(content)} bytes, {name}.json tells {sum(sizes)}")
    ends = pairwise(accumulate(sizes, initial=0))
    datagrams = tuple(content[begin:end] for begin, end in ends)
    rows = tuple(_row_from_json(row) for row in about.pop("rows"))
    return Recording(**about, datagrams=datagrams, rows=rows)


def save(name: str, recording: Recording) -> None:
    about = recording._asdict()
    about["datagrams"] = [len(datagram) for datagram in recording.datagrams]
    about["rows"] = [_row_to_json(row) for row in recording.rows]
    (FOLDER / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
    (FOLDER / f"{name}.bin").write_bytes(b"".join(recording.datagrams))


def _row_to_json(row: Row) -> dict[str, Any]:
    return row._asdict() | {
        "family": row.family.label,
        "state": row.state.label,
        "source": str(ip_address(row.source)),
        "destination": str(ip_address(row.destination)),
    }


def _row_from_json(row: dict[str, Any]) -> Row:
    return Row(
        **row
        | {
            "family": FAMILIES[row["family"]],
            "state": STATES[row["state"]],
            "source": ip_address(row["source"]).packed,
            "destination": ip_address(row["destination"]).packed,
        }
    )


def messages(datagram: bytes) -> Iterator[bytes]:
    """The messages of a datagram that is known to be whole."""
    while datagram:
        length = int.from_bytes(datagram[:4], sys.byteorder)
        yield datagram[:length]
        datagram = datagram[(length + 3) & ~3 :]


def kind_of(message: bytes) -> int:
    return int.from_bytes(message[4:6], sys.byteorder)


def all_of(dump: Dump) -> list[bytes]:
    """The replies of a whole dump, its end apart."""
    found: list[bytes] = []
    while not found or kind_of(found[-1]) != NLMSG_DONE:
        reply = bytes(next(iter(dump.datagrams)))
        *_, last = messages(reply)
        end = last if kind_of(last) == NLMSG_DONE else b""
        found += filter(None, [reply.removesuffix(end), end])
    return found


def row_by_pyroute2(message: bytes) -> Row:
    """What pyroute2 makes of the record of a socket."""
    found = inet_diag_msg(message)
    found.decode()
    shown = found.get_attr("INET_DIAG_SKV6ONLY")
    return Row(
        family=Family(found["idiag_family"]),
        state=State(found["idiag_state"]),
        source=ip_address(found["idiag_src"]).packed,
        source_port=found["idiag_sport"],
        destination=ip_address(found["idiag_dst"]).packed,
        destination_port=found["idiag_dport"],
        timer=found["idiag_timer"],
        retransmits=found["idiag_retrans"],
        expires=found["idiag_expires"],
        receive_queue=found["idiag_rqueue"],
        send_queue=found["idiag_wqueue"],
        uid=found["idiag_uid"],
        inode=found["idiag_inode"],
        cookie=found["idiag_cookie"],
        cgroup=found.get_attr("INET_DIAG_CGROUP_ID"),
        v6_only=None if shown is None else bool(shown),
        drops=_drops(found.get_attr("INET_DIAG_SKMEMINFO")),
    )


def _drops(memory: str | None) -> int | None:
    """The ninth number of INET_DIAG_SKMEMINFO, which pyroute2 leaves in hexadecimal."""
    if memory is None:
        return None
    return int.from_bytes(bytes.fromhex(memory.replace(":", ""))[32:36], sys.byteorder)
