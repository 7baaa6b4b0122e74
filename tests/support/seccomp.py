"""Sandboxes that refuse netlink, as RestrictAddressFamilies= or a container's profile do.

A seccomp filter stays with the process that set it: set it in a child.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys
from typing import Final

# include/uapi/linux/prctl.h, include/uapi/linux/seccomp.h
PR_SET_SECCOMP: Final = 22
PR_SET_NO_NEW_PRIVS: Final = 38
SECCOMP_MODE_FILTER: Final = 2
SECCOMP_RET_ALLOW: Final = 0x7FFF_0000
SECCOMP_RET_ERRNO: Final = 0x0005_0000
# include/uapi/linux/filter.h and bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET
LOAD, JUMP_IF, RETURN = 0x20, 0x15, 0x06
# struct seccomp_data: number of the call, architecture, low half of its first argument
CALL_AT, ARCHITECTURE_AT = 0, 4
FIRST_ARGUMENT_AT: Final = 16 if sys.byteorder == "little" else 20

ARCHITECTURES: Final = {"x86_64": (0xC000_003E, 41), "aarch64": (0xC000_00B7, 198)}
"""By machine: AUDIT_ARCH_* of include/uapi/linux/audit.h, and the number of socket()."""


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def is_known() -> bool:
    """Whether there is a filter for this machine."""
    return platform.machine() in ARCHITECTURES


def refuse_netlink(error: int) -> None:
    """Make every further socket(AF_NETLINK) of this process fail with an errno."""
    program = _program(error)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(program) // 8, program)))


def _program(error: int) -> bytes:
    architecture, call = ARCHITECTURES[platform.machine()]
    steps = (  # code, steps to skip if true, if false, operand
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF, 0, 4, architecture),
        (LOAD, 0, 0, CALL_AT),
        (JUMP_IF, 0, 2, call),
        (LOAD, 0, 0, FIRST_ARGUMENT_AT),
        (JUMP_IF, 1, 0, socket.AF_NETLINK),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | error),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _prctl(option: int, value: int, argument: object = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(option, ctypes.c_ulong(value), argument, zero, zero) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")
