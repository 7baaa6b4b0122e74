"""Filters that the kernel applies while it dumps: inet_diag bytecode.

A program is a row of `struct inet_diag_bc_op` (`include/uapi/linux/inet_diag.h`): code, offset if
true, offset if false. A socket is dumped if the program is left exactly at its end; a jump beyond
the end rejects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

INET_DIAG_BC_JMP: Final = 1
INET_DIAG_BC_S_EQ: Final = 11

_OP: Final = Struct("=BBH")
_COMPARE: Final = 2 * _OP.size
"""A comparison and the operand that holds its port."""
_BEYOND: Final = _OP.size
"""What a jump must overshoot the end by to reject."""


def local_port_in(ports: Sequence[int]) -> bytes:
    """A program that accepts sockets whose local port is one of `ports`.

    For each port: if it is this one go on behind the comparison, where a jump leads to the end;
    else step over that jump to the next comparison. Behind the last one there is no jump, and no
    other port left.
    """
    program = b""
    for port in reversed(ports):
        leave = _OP.pack(INET_DIAG_BC_JMP, _OP.size, _OP.size + len(program)) if program else b""
        otherwise = _COMPARE + (len(leave) if program else _BEYOND)
        compare = _OP.pack(INET_DIAG_BC_S_EQ, _COMPARE, otherwise) + _OP.pack(0, 0, port)
        program = compare + leave + program
    return program
