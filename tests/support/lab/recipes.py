"""Live sockets in every TCP state, each made alone and kept there, to be counted.

A recipe brings one socket into its state, and no other: the far end of the connection vanishes
without a word, as if its power had failed (TCP_REPAIR lets close() send nothing). Where the socket
left behind would speak up and be reset for it, nftables rules for the recipe's own port drop those
packets, so that recipes do not disturb one another. Minis last 60 s, SYN_RECV 63 s, the others
100 s or more.

State CLOSE is in no table that a dump walks: sockets that are only bound, and sockets that a reset
left dead with their descriptor open, have recipes as well, and must be counted by nobody.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from lab.stage import Make, Recipe, Stage, reach, reset, vanish
from sockwatch.tcp.states import Family, State, Unowned

SYN: Final = "tcp dport {port} tcp flags & syn == syn drop"
FINAL_ACK: Final = "tcp dport {port} tcp flags & syn == 0x0 drop"
FIN_OF_CLIENT: Final = "tcp dport {port} tcp flags & fin == fin drop"
FIN_OF_SERVER: Final = "tcp sport {port} tcp flags & fin == fin drop"


def listening(stage: Stage, family: Family, port: int) -> socket.socket:
    return stage.listen(family)


def bound(stage: Stage, family: Family, port: int) -> socket.socket:
    return stage.bind(family)


def dead(stage: Stage, family: Family, port: int) -> socket.socket:
    client, server = stage.pair(family, port)
    reset(server)
    reach(State.CLOSE, client)
    return client


def syn_sent(stage: Stage, family: Family, port: int) -> socket.socket:
    client = stage.connect(family, port)
    reach(State.SYN_SENT, client)
    return client


def knocked(stage: Stage, family: Family, port: int) -> None:
    vanish(stage.knock(family, port))


def knocked_and_closed(stage: Stage, family: Family, port: int) -> None:
    client = stage.knock(family, port)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT2, client)
    vanish(client)


def established(stage: Stage, family: Family, port: int) -> socket.socket:
    client, server = stage.pair(family, port)
    vanish(client)
    return server


def close_wait(stage: Stage, family: Family, port: int) -> socket.socket:
    client, server = stage.pair(family, port)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT2, client)
    vanish(client)
    return server


def fin_wait1(stage: Stage, family: Family, port: int) -> socket.socket:
    client, server = stage.pair(family, port)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT1, client)
    vanish(server)
    return client


def fin_wait2(stage: Stage, family: Family, port: int) -> socket.socket:
    client, server = stage.pair(family, port)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT2, client)
    vanish(server)
    return client


def fin_wait2_for_long(stage: Stage, family: Family, port: int) -> socket.socket:
    """Beyond 60 s the kernel keeps an orphan as a full socket before it becomes a mini."""
    client = fin_wait2(stage, family, port)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 100)
    return client


def time_wait(stage: Stage, family: Family, port: int) -> None:
    client, server = stage.pair(family, port)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT2, client)
    server.close()
    reach(State.CLOSE, client)  # the mini has taken its place
    client.close()


def closing(stage: Stage, family: Family, port: int) -> socket.socket:
    client, server = stage.pair(family, port)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT1, client)
    server.shutdown(socket.SHUT_WR)
    reach(State.CLOSING, client)
    reach(State.FIN_WAIT2, server)  # else the client's ACK would find nobody and be reset
    vanish(server)
    return client


def last_ack(stage: Stage, family: Family, port: int) -> socket.socket:
    client, server = stage.pair(family, port)
    client.shutdown(socket.SHUT_WR)
    reach(State.FIN_WAIT2, client)
    server.shutdown(socket.SHUT_WR)
    reach(State.LAST_ACK, server)
    vanish(client)
    return server


def left(make: Callable[[Stage, Family, int], socket.socket]) -> Make:
    """The process closes the socket and leaves it to the kernel."""

    def make_and_leave(stage: Stage, family: Family, port: int) -> None:
        make(stage, family, port).close()

    return make_and_leave


ORPHAN, NOT_ACCEPTED, MINI = Unowned.ORPHAN, Unowned.NOT_ACCEPTED, Unowned.MINI

RECIPES: Final = (
    Recipe("listening", State.LISTEN, listening),
    Recipe("bound", State.CLOSE, bound, listed=False),
    Recipe("dead", State.CLOSE, dead, listed=False),
    Recipe("syn sent", State.SYN_SENT, syn_sent, drops=SYN),
    Recipe("half open", State.SYN_RECV, knocked, Unowned.HALF_OPEN, FINAL_ACK),
    Recipe("established", State.ESTABLISHED, established),
    Recipe("established, not accepted", State.ESTABLISHED, knocked, NOT_ACCEPTED),
    Recipe("close_wait", State.CLOSE_WAIT, close_wait),
    Recipe("close_wait, not accepted", State.CLOSE_WAIT, knocked_and_closed, NOT_ACCEPTED),
    Recipe("fin_wait1", State.FIN_WAIT1, fin_wait1, drops=FIN_OF_CLIENT),
    Recipe("fin_wait1, orphan", State.FIN_WAIT1, left(fin_wait1), ORPHAN, FIN_OF_CLIENT),
    Recipe("fin_wait2", State.FIN_WAIT2, fin_wait2),
    Recipe("fin_wait2, mini", State.FIN_WAIT2, left(fin_wait2), MINI),
    Recipe("fin_wait2, orphan", State.FIN_WAIT2, left(fin_wait2_for_long), ORPHAN),
    Recipe("closing", State.CLOSING, closing, drops=FIN_OF_CLIENT),
    Recipe("closing, orphan", State.CLOSING, left(closing), ORPHAN, FIN_OF_CLIENT),
    Recipe("last_ack", State.LAST_ACK, last_ack, drops=FIN_OF_SERVER),
    Recipe("last_ack, orphan", State.LAST_ACK, left(last_ack), ORPHAN, FIN_OF_SERVER),
    Recipe("time_wait", State.TIME_WAIT, time_wait, MINI),
)
