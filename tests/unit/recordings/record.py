"""Records dumps of live sockets: run as root, with the root and `tests/support` in PYTHONPATH.

Sockets in every state and family are made in a network namespace, and dumped by root,
who has CAP_NET_ADMIN there, and by nobody, who has not. The rows that are expected of them are what
pyroute2 makes of the replies, checked here against what `ss` lists.
"""

from __future__ import annotations

import platform
import socket
from contextlib import ExitStack
from itertools import product
from typing import Final

from lab import RECIPES, Namespace, Stage
from recorded import (
    TCPDIAG_GETSOCK,
    Recording,
    all_of,
    kind_of,
    messages,
    row_by_pyroute2,
    save,
)

from sockwatch.kernel.diag import DiagSocket, Query
from sockwatch.kernel.netlink import LISTENERS, WATCHED
from sockwatch.kernel.wire import mask
from sockwatch.tcp.states import Family, State

RELEASE: Final = platform.release().partition("-")[0]
LINE: Final = ".".join(RELEASE.split(".")[:2])
READERS: Final = {"root": None, "nobody": 65534}
DUMPS: Final = {
    "listeners": LISTENERS.states,
    "watched": WATCHED.states,
    "established": mask(State.ESTABLISHED),
    "time_wait": mask(State.TIME_WAIT),
}


def received(states: int) -> tuple[int, list[bytes]]:
    with DiagSocket(timeout=5) as diag:
        dump = diag.dump(Query(states))
        return dump.sequence, all_of(dump)


def record(namespace: Namespace, reader: str, states: int) -> Recording:
    sequence, datagrams = namespace.call(received, states, uid=READERS[reader])
    replies = [message for datagram in datagrams for message in messages(datagram)]
    rows = [row_by_pyroute2(each) for each in replies if kind_of(each) == TCPDIAG_GETSOCK]
    return Recording(
        kernel=f"{RELEASE} {platform.machine()}",
        privileged=reader == "root",
        states=states,
        sequence=sequence,
        datagrams=tuple(datagrams),
        rows=tuple(rows),
    )


def dual_stack(namespace: Namespace, held: ExitStack) -> None:
    """An IPv6 listener with a connection over IPv4, and one beside it that is IPv6-only."""
    with namespace.entered():
        both = socket.create_server(("::", 7900), family=socket.AF_INET6, dualstack_ipv6=True)
        only = socket.create_server(("::", 7901), family=socket.AF_INET6)
        client = socket.create_connection(("127.0.0.1", 7900), timeout=5)
    for each in (both, only, client, both.accept()[0]):
        held.enter_context(each)


def main() -> None:
    with Namespace() as namespace, Stage(namespace) as stage, ExitStack() as held:
        for recipe, family in product(RECIPES, Family):
            stage.play(recipe, family, 1)
        dual_stack(namespace, held)
        listed = len(namespace.run("ss", "-Htan").splitlines())
        for reader in READERS:
            taken = {name: record(namespace, reader, states) for name, states in DUMPS.items()}
            if sum(len(each.rows) for each in taken.values()) != listed:
                raise SystemExit(f"ss lists {listed} sockets, and {reader} was shown others")
            for name, each in taken.items():
                save(f"linux-{LINE}-{reader}-{name}", each)


if __name__ == "__main__":
    main()
