"""Asking the daemon of this host, or whoever else answers at its address."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from sockwatch.config.addresses import Address

TIMEOUT: Final = 5.0
"""Seconds to wait for a connection, and for each part of an answer."""
LARGEST: Final = 64 << 20
"""Bytes of an answer; ten thousand connections take four million."""
_SHOWN: Final = 200
"""Characters of a refusal that are passed on."""
_EVERYWHERE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  to connect


class Unanswered(Exception):
    """There is no answer; the message says why in a clause for people, names unescaped."""


def urls(addresses: Iterable[Address]) -> list[str]:
    """Where a daemon that listens on these addresses is asked from its own host."""
    known = (address for address in addresses if address.port)
    return [f"http://{Address(_EVERYWHERE.get(one.host, one.host), one.port)}" for one in known]


def ask(url: str, target: str) -> object:
    """What JSON there is.

    Args:
        url: of a server, `http://host:port`.
        target: path and query.

    Raises:
        Unanswered: nobody is there, or whoever is gives no JSON.
    """
    parts = urlsplit(url)
    client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    with closing(client):
        try:
            client.request("GET", target)
            answer = client.getresponse()
            body = answer.read(LARGEST)
        except OSError as error:
            why = error.strerror or str(error) or type(error).__name__
            raise Unanswered(f"no daemon answers at {url} ({why})") from error
        except http.client.HTTPException as error:
            raise Unanswered(f"what answers at {url} does not speak HTTP") from error
    return _content(url, answer.status, body)


def _content(url: str, status: int, body: bytes) -> object:
    if status != http.client.OK:
        said = " ".join(body[:_SHOWN].decode(errors="replace").split())
        raise Unanswered(f"{url} answers with {status}: {said}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unanswered(f"what answers at {url} is not sockwatch") from error
