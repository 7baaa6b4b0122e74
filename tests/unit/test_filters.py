"""The filter by local port, run by the rules of the kernel."""

from struct import Struct
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockwatch.kernel.filters import INET_DIAG_BC_JMP, INET_DIAG_BC_S_EQ, local_port_in

OP: Final = Struct("=BBH")  # struct inet_diag_bc_op: code, yes, no
PORT = st.integers(0, 65_535)
LONGEST: Final = 5_000
"""Ports up to which offsets fit their 16 bits, more or less."""


def ops(program: bytes) -> dict[int, tuple[int, int, int]]:
    return {at: OP.unpack_from(program, at) for at in range(0, len(program), OP.size)}


def accepted(program: bytes, port: int) -> bool:
    """As inet_diag_bc_run() of net/ipv4/inet_diag.c does it."""
    at = 0
    while at < len(program):
        code, yes, no = OP.unpack_from(program, at)
        assert code in {INET_DIAG_BC_JMP, INET_DIAG_BC_S_EQ}
        operand = OP.unpack_from(program, at + OP.size)[2] if code == INET_DIAG_BC_S_EQ else None
        at += yes if operand == port else no
    return at == len(program)


def audited(program: bytes) -> bool:
    """As inet_diag_bc_audit() does it, which the kernel runs before any filter."""
    at, reached = 0, set[int]()
    size = len(program)
    while at < size:
        code, yes, no = OP.unpack_from(program, at)
        reached.add(at)
        least = 2 * OP.size if code == INET_DIAG_BC_S_EQ else OP.size
        well = no >= least and not no % OP.size and at + no <= size + OP.size
        if not well or yes < least or yes % OP.size or at + yes > size + OP.size:
            return False
        at += yes
    jumps = {at + OP.unpack_from(program, at)[2] for at in reached}
    return at == size and jumps <= {*reached, size, size + OP.size}


@given(st.lists(PORT, min_size=1, max_size=80), st.lists(PORT))
def test_a_socket_passes_if_its_port_is_one_of_them(wanted: list[int], others: list[int]) -> None:
    program = local_port_in(wanted)
    assert audited(program)
    for port in [*wanted, *others]:
        assert accepted(program, port) == (port in wanted)


def test_one_port_needs_one_comparison() -> None:
    program = local_port_in([443])
    assert ops(program) == {0: (INET_DIAG_BC_S_EQ, 8, 12), 4: (0, 0, 443)}


@pytest.mark.parametrize("ports", [[7, 7], [0], [65_535, 0, 65_535]])
def test_ports_may_come_twice_and_at_either_end(ports: list[int]) -> None:
    program = local_port_in(ports)
    assert audited(program)
    assert {port for port in range(65_536) if accepted(program, port)} == {*ports}


def test_thousands_of_ports_still_fit() -> None:
    ports = range(1, LONGEST + 1)
    program = local_port_in(ports)
    assert audited(program)
    assert accepted(program, 1)
    assert accepted(program, LONGEST)
    assert not accepted(program, LONGEST + 1)
