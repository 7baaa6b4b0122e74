"""Who may see details: clients that have authenticated, else clients on this host only.

A loopback address alone does not prove that. A reverse proxy forwards for others from it, and a
foreign web page whose name resolves to 127.0.0.1 (DNS rebinding) makes a local browser ask from
it; the first shows in forwarding headers, the second in `Host`. nginx by default forwards without
such a header and names us in `Host`, but in HTTP/1.0 (before 1.29.7), which no browser speaks.
Behind a Unix socket there is no client address at all, and mostly a proxy: nobody is local there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from sockwatch.web.responses import Header

_FORWARDING: Final = (b"forwarded", b"via", b"x-forwarded-", b"x-real-ip")
"""What the names of a proxy's headers begin with; some set the protocol or the host only."""
_OF_PROXIES: Final = "1.0"
_OWN_BITS: Final = 64
_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[^]]*)]|(?P<name>[^:]*))(?::[0-9]*)?")


AUTHENTICATED: Final = "authenticated"
"""In a request's state: whether the client has shown a password or a certificate that we know."""


def may_see_details(scope: Mapping[str, Any]) -> bool:
    """Whether a request (its ASGI scope) may be answered with single connections."""
    return bool(scope["state"].get(AUTHENTICATED)) or is_local(scope)


def is_local(scope: Mapping[str, Any]) -> bool:
    """Whether a request (its ASGI scope) comes from this host and was meant for it."""
    client = scope.get("client")
    if client is None or not is_loopback(client[0]) or scope["http_version"] == _OF_PROXIES:
        return False
    headers: Iterable[Header] = scope["headers"]
    return all(_is_harmless(name, value.decode("latin-1")) for name, value in headers)


def is_loopback(address: str) -> bool:
    """Whether an IP address, also an IPv4 one mapped into IPv6, is this host's own."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return (mapped or ip).is_loopback


def site_of(address: str) -> str:
    """Whose an address is: of IPv6 a whole network is one client's to choose from."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or IPv6Network((ip, _OWN_BITS), strict=False))


def _is_harmless(name: bytes, value: str) -> bool:
    if name == b"host":
        return _is_local_name(value)
    return not name.startswith(_FORWARDING)


def _is_local_name(host: str) -> bool:
    match = _HOST.fullmatch(host.strip())
    if match is None:
        return False
    name = (match["ipv6"] or match["name"] or "").lower()
    return name == "localhost" or is_loopback(name)
