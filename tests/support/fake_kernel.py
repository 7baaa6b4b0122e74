"""A kernel that answers dump requests as the test says: a function stands behind the socket.

After mdlayher's nltest.Dial: what is under test sends its real requests, and gets real bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from replies import (
    NEWEST,
    SOCK_DIAG_BY_FAMILY,
    TCPDIAG_GETSOCK,
    Generation,
    delivered,
    done,
    packed,
    record,
)

from sockwatch.kernel.diag import Dumper, Query
from sockwatch.kernel.wire import Dump
from sockwatch.tcp.records import Row

Answer = Callable[[int, int], Iterable[bytes]]
"""From the mask of states and the sequence number to the datagrams of the reply."""

FIRST_SEQUENCE: Final = 1000


class FakeKernel:
    """A Dumper: one socket to a kernel of the test's making.

    Args:
        answer: to requests for TCP sockets.
        multipath: to requests for MPTCP sockets, whose families are not told apart; by default
            that of a kernel that does not know them.
    """

    def __init__(self, answer: Answer, multipath: Answer | None = None) -> None:
        self._answer = answer
        self._multipath = multipath or nobody
        self.queries: list[Query] = []
        """What was asked for."""
        self.open = True

    def dump(self, query: Query) -> Dump:
        assert self.open, "a closed socket was used"
        self.queries.append(query)
        sequence = FIRST_SEQUENCE + len(self.queries)
        answer = self._answer if query.multipath is None else self._multipath
        return Dump(sequence, delivered(answer(query.states, sequence)))

    def close(self) -> None:
        self.open = False

    @property
    def masks(self) -> list[int]:
        """The states that were asked for."""
        return [query.states for query in self.queries]


def nobody(_states: int, sequence: int) -> Iterable[bytes]:
    """The answer where a protocol has no handler: ENOENT at the end of an empty dump."""
    return [done(sequence, -2)]


class Sockets:
    """Makes a new FakeKernel for each connection, and remembers them all."""

    def __init__(self, *answers: Answer) -> None:
        """The last answer serves all further connections too."""
        self._answers = list(answers)
        self.made: list[FakeKernel] = []

    def __call__(self) -> Dumper:
        answer = self._answers[min(len(self.made), len(self._answers) - 1)]
        self.made.append(FakeKernel(answer))
        return self.made[-1]


def listing(
    rows: Sequence[Row],
    generation: Generation = NEWEST,
    *,
    mark: bool = False,
    size: int = 32_364,
    kind: int = TCPDIAG_GETSOCK,
) -> Answer:
    """Answers as the kernel does: with the rows whose state is in the mask, then the end."""

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        asked = (row for row in rows if states >> row.state & 1)
        records = (
            record(row, generation, mark=mark, sequence=sequence, kind=kind) for row in asked
        )
        return [*packed(records, size), done(sequence)]

    return answer


multipath_listing = partial(listing, kind=SOCK_DIAG_BY_FAMILY)
"""Answers likewise to requests for MPTCP sockets."""


def failing_at(nth: int, failure: Callable[[int], Iterable[bytes]], otherwise: Answer) -> Answer:
    """Answers the nth request (from 0) with what `failure` makes of its sequence number."""
    asked = 0

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        nonlocal asked
        asked += 1
        return failure(sequence) if asked == nth + 1 else otherwise(states, sequence)

    return answer
