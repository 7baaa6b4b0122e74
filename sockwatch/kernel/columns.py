"""From reply bytes to counts without an object per socket: the bulk path.

Theory of operation. A dump of one state holds messages of one length, because what the kernel
appends to a record depends only on the kind of socket and on our capabilities. A datagram of such
messages is a table: every field is a column, a slice of the buffer with the message length as
its stride. Columns are compared, looked up and counted by loops that run in C, and so a row costs
a fraction of what the kernel spends on it.

Nothing is assumed. The first message is taken apart attribute by attribute; then every header in
it, those of the attributes included, must have the same value in all other messages of the
datagram. A datagram that fails this goes to the general path (`rows`), whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sockwatch.kernel.rows import attributes
from sockwatch.kernel.wire import (
    HEADER,
    INET_DIAG_CGROUP_ID,
    STATE_AT,
    Kind,
    check_message,
)

_WORD: Final = 4
_FAMILY_AT: Final = HEADER.size
_PORTS_AT: Final = HEADER.size + 4
"""Where struct inet_diag_sockid begins: source and destination port, two bytes each."""
ADDRESSES: Final = range(6, 14)
"""Words of the source and the destination address, four each."""
ADDRESSES_INET: Final = (6, 10)
"""The words of them that IPv4 uses."""
INODE: Final = 21
"""Word of the inode."""

_CGROUP_ID: Final = (INET_DIAG_CGROUP_ID, 2 * _WORD)
"""Type and size of the cgroup id."""
_HEADER_WORDS: Final = (0, 1, 2)
"""Length; type and flags; sequence."""


@dataclass(frozen=True, slots=True)
class Table:
    """A datagram whose messages all have one layout."""

    datagram: memoryview
    length: int
    """Bytes per message."""
    cgroup: int | None
    """Word of the low half of the cgroup id, if the messages carry one."""

    @classmethod
    def of(cls, datagram: memoryview, sequence: int, state: int) -> Table | None:
        """The datagram as a table, `None` unless every message is a row of one layout and state.

        Raises:
            PassFailure: the first message is broken, foreign, or carries an error.
        """
        length, kind = check_message(datagram, 0, sequence)
        if kind is not Kind.ROW or length % _WORD or len(datagram) % length:
            return None
        found = [*attributes(datagram, 0, length)]
        headers = (*_HEADER_WORDS, *(at // _WORD for _, at, _ in found))
        words = datagram.cast("I")
        stride = length // _WORD
        if not all(_constant(words[at::stride]) for at in headers):
            return None
        if bytes(datagram[STATE_AT::length]).strip(bytes([state])):
            return None
        ids = [at // _WORD + 1 for kind, at, size in found if (kind, size) == _CGROUP_ID]
        return cls(datagram, length, ids[-1] if ids else None)

    def __len__(self) -> int:
        """The number of messages."""
        return len(self.datagram) // self.length

    def families(self) -> bytes:
        """The address family of each row."""
        return bytes(self.datagram[_FAMILY_AT :: self.length])

    def local_ports(self) -> list[int]:
        """The local port of each row, its two bytes read natively."""
        return self._half_words(_PORTS_AT // 2)

    def remote_ports(self) -> list[int]:
        """The remote port of each row, its two bytes read natively."""
        return self._half_words(_PORTS_AT // 2 + 1)

    def _half_words(self, at: int) -> list[int]:
        return self.datagram.cast("H")[at :: self.length // 2].tolist()

    def words(self, at: int) -> list[int]:
        """The column of 32-bit words at word `at`."""
        return self.datagram.cast("I")[at :: self.length // _WORD].tolist()

    def cgroups(self) -> Sequence[int]:
        """The cgroup id of each row, 0 where the records carry none."""
        if self.cgroup is None:
            return bytes(len(self))
        low, high = self.words(self.cgroup), self.words(self.cgroup + 1)
        if any(high):
            return [upper << 32 | lower for lower, upper in zip(low, high, strict=True)]
        return low


def _constant(column: memoryview) -> bool:
    """Whether all values of a column are equal: each equals its neighbour."""
    return column[1:] == column[:-1]
