"""What is kept of records is what was in them, in a part of their room."""

from collections.abc import Sequence
from socket import htons

from hypothesis import given
from hypothesis import strategies as st
from mixtures import rows

from sockwatch.kernel.batches import RowBatch
from sockwatch.observe.packed import Ends, Packed
from sockwatch.tcp.records import Row
from sockwatch.tcp.states import Family, State


def packed(described: Sequence[Row]) -> Packed:
    return Packed.of(RowBatch(State.CLOSE_WAIT, described).records())


@given(st.lists(rows(), max_size=9))
def test_each_connection_is_as_its_record_has_it(described: list[Row]) -> None:
    """Whatever families there are beside its own."""
    kept = packed(described)
    assert [kept.ends(index) for index in range(len(described))] == [
        Ends(
            row.source,
            row.source_port,
            row.destination,
            row.destination_port,
            row.uid or 0,
            row.inode or 0,
        )
        for row in described
    ]
    assert kept.local_ports() == [htons(row.source_port) for row in described]
    assert kept.remote_ports() == [htons(row.destination_port) for row in described]
    assert kept.inode_numbers() == [row.inode or 0 for row in described]
    assert [*kept.remote_ends()] == [(row.destination, row.destination_port) for row in described]


def test_a_connection_takes_a_part_of_its_record_of_72_bytes() -> None:
    """With moments and cgroups that is 39 bytes, in the snapshot that is and the one that comes."""
    inet = Row(Family.INET, State.CLOSE_WAIT, bytes(4), 1, bytes(4), 2)
    inet6 = Row(Family.INET6, State.CLOSE_WAIT, bytes(16), 1, bytes(16), 2)
    for described, most in (([inet] * 100, 21), ([inet, inet6] * 50, 45)):
        kept = packed(described)
        columns = (kept.families, kept.ports, *kept.local, *kept.remote, kept.uids, kept.inodes)
        assert sum(map(len, columns)) == most * len(described)
