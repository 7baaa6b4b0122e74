"""Listen addresses as Prometheus exporters write them: "host:port", ":port", "[::1]:port"."""

import ipaddress
import re
from typing import NamedTuple

from sockwatch.config.problems import shown

PATTERN = re.compile(r"(?:\[(?P<ipv6>[^]]+)]|(?P<host>[^][:]*)):(?P<port>[0-9]{1,5})")
# RFC 1123 section 2.1, and the underscores that are met in practice.
LABEL = r"\w(?:[\w-]{0,61}\w)?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}$){LABEL}(?:\.{LABEL})*", re.ASCII)
HIGHEST_PORT = 65535
RULE = 'must be "host:port", ":port" or "[IPv6]:port" with a port from 0 (any free one) to 65535'


class Address(NamedTuple):
    """A host to listen on, without brackets, "" for all of this machine's; and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that `text` stands for; ValueError says which rule it breaks."""
    match = PATTERN.fullmatch(text)
    if not match or int(match["port"]) > HIGHEST_PORT or not is_host(match["host"], match["ipv6"]):
        raise ValueError(f"{shown(text)} {RULE}")
    return Address(match["ipv6"] or match["host"], int(match["port"]))


def is_host(host: str | None, ipv6: str | None) -> bool:
    """Tell whether one can listen on the given `host` or `ipv6` address; no name is looked up."""
    if ipv6 is not None:
        return is_ip(ipaddress.IPv6Address, ipv6)
    if host and re.fullmatch("[0-9.]+", host):  # 127.1 and 0177.0.0.1 mean too many things
        return is_ip(ipaddress.IPv4Address, host)
    return not host or HOST_NAME.fullmatch(host) is not None


def is_ip(version: type[ipaddress.IPv4Address | ipaddress.IPv6Address], text: str) -> bool:
    """Tell whether `text` is an address of that version."""
    try:
        version(text)
    except ValueError:
        return False
    return True
