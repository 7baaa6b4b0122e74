"""The dump request, byte for byte."""

from struct import Struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.kernel.diag import Query, dump_request
from sockwatch.kernel.netlink import BULK, LISTENERS, WATCHED
from sockwatch.kernel.wire import mask
from sockwatch.tcp.states import State

# include/uapi/linux/netlink.h: struct nlmsghdr
HEADER = Struct("=IHHII")
# include/uapi/linux/inet_diag.h: struct inet_diag_req (family to ext; struct inet_diag_sockid;
# states and dbs)
REQUEST = Struct("=4B 48s II")
NLM_F_REQUEST, NLM_F_ROOT, NLM_F_MATCH = 0x1, 0x100, 0x200
TCPDIAG_GETSOCK = 18


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_a_request_asks_for_states_and_nothing_else(states: int, sequence: int) -> None:
    flags = NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
    header = HEADER.pack(HEADER.size + REQUEST.size, TCPDIAG_GETSOCK, flags, sequence, 0)
    body = REQUEST.pack(0, 0, 0, 0, bytes(48), states, 0)
    assert dump_request(Query(states), sequence) == header + body


def test_a_request_has_the_size_that_the_kernel_expects() -> None:
    assert len(dump_request(Query(1), 1)) == 76


QUERIES = [LISTENERS, WATCHED, *(Query(mask(state)) for state in BULK)]
SKMEMINFO = 1 << 6
"""The bit of INET_DIAG_SKMEMINFO, which takes no lock."""


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.states:#x}")
def test_no_pass_asks_for_what_locks_sockets_or_is_dear(query: Query) -> None:
    """INET_DIAG_INFO is a bit of idiag_ext; bound sockets are bit 13 of the states."""
    request = dump_request(query, 1)
    _, _, _, extensions, _, asked, _ = REQUEST.unpack_from(request, HEADER.size)
    assert extensions in {0, SKMEMINFO}
    assert asked < 1 << len(State)


def test_only_of_listeners_the_memory_is_asked_for() -> None:
    asked = [query for query in QUERIES if query.memory]
    assert asked == [LISTENERS]
