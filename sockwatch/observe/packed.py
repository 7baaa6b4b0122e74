"""What is kept of the records of stuck connections: columns that take a quarter of their room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from socket import ntohs
from struct import Struct
from typing import Final, NamedTuple

from sockwatch.tcp.states import Family

# Words of struct inet_diag_msg (`include/uapi/linux/inet_diag.h`).
_WORDS: Final = 18
_PORTS: Final = 1
"""Local and remote port, two bytes each."""
_LOCAL: Final = range(2, 6)
_REMOTE: Final = range(6, 10)
_UID: Final = 16
_INODE: Final = 17

_WORD: Final = 4
_SIZES: Final = {Family.INET.value: _WORD, Family.INET6.value: 4 * _WORD}
_BYTES: Final = Struct("4s")
_INET: Final = bytes([Family.INET])


class Ends(NamedTuple):
    """One connection."""

    local: bytes
    """4 or 16 bytes; likewise `remote`."""
    local_port: int
    remote: bytes
    remote_port: int
    uid: int
    inode: int


class Packed(NamedTuple):
    """Columns as in the records; position i of each is the same connection."""

    families: bytes
    ports: bytes
    """Local and remote in turn."""
    local: tuple[bytes, ...]
    """The first word of every address; all four in a tuple unless all of them are IPv4."""
    remote: tuple[bytes, ...]
    uids: bytes
    inodes: bytes

    @classmethod
    def of(cls, records: Iterable[bytes]) -> Packed:
        """What is kept of each `struct inet_diag_msg`."""
        joined = memoryview(b"".join(records))
        words = joined.cast("I")

        def column(at: int) -> bytes:
            return words[at::_WORDS].tobytes()

        families = bytes(joined[:: _WORDS * _WORD])
        size = 4 if families.strip(_INET) else 1
        local, remote = (tuple(map(column, side[:size])) for side in (_LOCAL, _REMOTE))
        return cls(families, column(_PORTS), local, remote, column(_UID), column(_INODE))

    def local_ports(self) -> list[int]:
        """As read natively: `ntohs` makes them numbers."""
        return memoryview(self.ports).cast("H")[0::2].tolist()

    def remote_ports(self) -> list[int]:
        """Likewise."""
        return memoryview(self.ports).cast("H")[1::2].tolist()

    def inode_numbers(self) -> list[int]:
        """0 where no process holds a connection."""
        return memoryview(self.inodes).cast("I").tolist()

    def remote_ends(self) -> Iterator[tuple[bytes, int]]:
        """Addresses, 4 or 16 bytes, and ports as numbers."""
        words = zip(*map(_BYTES.iter_unpack, self.remote), strict=True)
        for family, address, port in zip(self.families, words, self.remote_ports(), strict=True):
            yield b"".join(chain.from_iterable(address))[: _SIZES[family]], ntohs(port)

    def ends(self, index: int) -> Ends:
        """One of them, decoded."""
        word = slice(index * _WORD, (index + 1) * _WORD)
        size = _SIZES[self.families[index]]
        local_port, remote_port = memoryview(self.ports[word]).cast("H")
        (uid,), (inode,) = (memoryview(each[word]).cast("I") for each in (self.uids, self.inodes))
        return Ends(
            local=b"".join(each[word] for each in self.local)[:size],
            local_port=ntohs(local_port),
            remote=b"".join(each[word] for each in self.remote)[:size],
            remote_port=ntohs(remote_port),
            uid=uid,
            inode=inode,
        )
