"""Listening sockets: opened from addresses, or inherited from systemd."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from sockwatch.config.addresses import Address

BACKLOG: Final = 2048
"""Connections that wait to be accepted; a SYN beyond is dropped, and sent again a second later.

We accept as many in less than half a second.
"""

_WHAT_TO_DO: Final = {
    errno.EADDRINUSE: "stop what listens there (`ss -ltnp` names it), "
    "or choose another address with --web.listen-address",
    errno.EADDRNOTAVAIL: "choose one that this host has; `ip address` lists them",
    errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one",
    errno.EAFNOSUPPORT: "choose an address of the other family, "
    "or use systemd's socket with --web.systemd-socket",
}
_ABSENT: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""A name such as localhost may stand for addresses that this host does not have."""


class ListenError(Exception):
    """What should be listened on cannot be; the message says which, why and what to do."""


class Place(NamedTuple):
    """Where one socket is bound."""

    family: int
    address: tuple[Any, ...]
    dual_stack: bool = False


def open_sockets(addresses: Iterable[Address]) -> list[socket.socket]:
    """Listen on every address, or on none.

    A host of "" is every address of this machine, of both families on one socket; "::" is every
    IPv6 address only. A name is every address it resolves to that this host has.

    Raises:
        ListenError: one of them cannot be listened on.
    """
    with ExitStack() as opened:
        sockets = [
            opened.enter_context(listener) for address in addresses for listener in _open(address)
        ]
        opened.pop_all()
    return sockets


def _open(address: Address) -> list[socket.socket]:
    """Listen on all places of an address that this host has, at least one."""
    absent: OSError | None = None
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for place in _places(address):
            try:
                sockets.append(opened.enter_context(_listen(place)))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise _explained(address, error) from error
                absent = error
        if absent is not None and not sockets:
            raise _explained(address, absent) from absent
        opened.pop_all()
    return sockets


def _listen(place: Place) -> socket.socket:
    return socket.create_server(
        place.address, family=place.family, backlog=BACKLOG, dualstack_ipv6=place.dual_stack
    )


def _places(address: Address) -> list[Place]:
    if address.host:
        return _resolved(address)
    if socket.has_dualstack_ipv6():
        return [Place(socket.AF_INET6, ("::", address.port), dual_stack=True)]
    return [Place(socket.AF_INET, ("0.0.0.0", address.port))]  # noqa: S104


def _resolved(address: Address) -> list[Place]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {address}: its name does not resolve ({error.strerror}); "
            "give an IP address or mend /etc/hosts"
        ) from error
    return list(dict.fromkeys(Place(family, where) for family, _, _, _, where in found))


def _explained(address: Address, error: OSError) -> ListenError:
    code = error.errno or 0
    what_to_do = _WHAT_TO_DO.get(code, "choose another with --web.listen-address")
    return ListenError(f"cannot listen on {address}: {os.strerror(code)}; {what_to_do}")
