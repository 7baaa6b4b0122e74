"""A kernel that answers dump requests as the test says: a function stands behind the socket.

After mdlayher's nltest.Dial: what is under test sends its real requests, and gets real bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from replies import NEWEST, Generation, delivered, done, packed, record

from sockwatch.kernel.diag import Query
from sockwatch.kernel.netlink import Dumper
from sockwatch.kernel.wire import Dump
from sockwatch.tcp.records import Row

Answer = Callable[[int, int], Iterable[bytes]]
"""From the mask of states and the sequence number to the datagrams of the reply."""

FIRST_SEQUENCE: Final = 1000


class FakeKernel:
    """A Dumper: one socket to a kernel of the test's making."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.queries: list[Query] = []
        """What was asked for."""
        self.open = True

    def dump(self, query: Query) -> Dump:
        assert self.open, "a closed socket was used"
        self.queries.append(query)
        sequence = FIRST_SEQUENCE + len(self.queries)
        return Dump(sequence, delivered(self._answer(query.states, sequence)))

    def close(self) -> None:
        self.open = False

    @property
    def masks(self) -> list[int]:
        """The states that were asked for."""
        return [query.states for query in self.queries]


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
) -> Answer:
    """Answers as the kernel does: with the rows whose state is in the mask, then the end."""

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        asked = (row for row in rows if states >> row.state & 1)
        records = (record(row, generation, mark=mark, sequence=sequence) for row in asked)
        return [*packed(records, size), done(sequence)]

    return answer


def failing_at(nth: int, failure: Callable[[int], Iterable[bytes]], otherwise: Answer) -> Answer:
    """Answers the nth request (from 0) with what `failure` makes of its sequence number."""
    asked = 0

    def answer(states: int, sequence: int) -> Iterable[bytes]:
        nonlocal asked
        asked += 1
        return failure(sequence) if asked == nth + 1 else otherwise(states, sequence)

    return answer
