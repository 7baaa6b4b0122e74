"""TLS on a connection: what it is served with, whose certificates are let in, what it may take."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from sockwatch.web.guard import Limits

Certificate = Mapping[str, Any]
"""As `ssl.SSLObject.getpeercert` gives it; empty if there is none that was verified."""

_AT_ONCE: Final = 1e-3
_NAMES: Final = frozenset({"DNS", "IP Address", "URI", "email"})


class Tls(NamedTuple):
    """What TLS is served with."""

    context: ssl.SSLContext
    allowed_sans: frozenset[str] = frozenset()
    """Names of which a client's certificate, if there is one, must have one; any if empty."""

    def admits(self, certificate: Certificate) -> bool:
        """Whether a client with this verified certificate, or with none, may go on."""
        if not certificate or not self.allowed_sans:
            return True
        return not self.allowed_sans.isdisjoint(_names(certificate))


class TlsProtocol(SSLProtocol):
    """asyncio's TLS, with buffers for what one scraper needs.

    asyncio keeps 256 KiB for each peer, which would be room for abuse. And to the protocol above it
    counts as sent what waits in the buffer of the connection below, so that a response would seem
    to be complete though its reader has stopped. Here the protocol above is paused and resumed by
    the connection below.

    Args:
        above: what speaks over TLS.
        context: what it is served with.
        limits: how long the handshake, and closing, may take.
        late: seconds that the handshake has taken already.
        shaken: done with the handshake; has the error if it failed.
    """

    max_size = 16 * 1024  # one record of TLS

    def __init__(
        self,
        above: asyncio.Protocol,
        context: ssl.SSLContext,
        limits: Limits,
        late: float,
        shaken: asyncio.Future[None],
    ) -> None:
        self._above = above
        self._paused = False
        super().__init__(
            asyncio.get_running_loop(),
            above,
            context,
            shaken,
            server_side=True,
            # A fraction will do; nothing is taken for its default.
            ssl_handshake_timeout=max(limits.handshake - late, _AT_ONCE),  # type: ignore[arg-type]
            ssl_shutdown_timeout=limits.linger,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  that of a socket
        transport.set_write_buffer_limits(high=1)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let go of the protocol above: holding each other, both would stay in memory."""
        super().connection_lost(exc)
        self._above = asyncio.Protocol()

    def pause_writing(self) -> None:
        """Some bytes wait until the peer reads."""
        self._paused = True
        super().pause_writing()
        self._above.pause_writing()

    def resume_writing(self) -> None:
        """All bytes have left; those that had to wait above follow, and may have to wait again."""
        self._paused = False
        super().resume_writing()
        if not self._paused:
            self._above.resume_writing()


def plain(name: str) -> str:
    """A name in the spelling in which names are compared: addresses have several."""
    try:
        return str(ip_address(name))
    except ValueError:
        return name


def _names(certificate: Certificate) -> Iterator[str]:
    for kind, value in certificate.get("subjectAltName", ()):
        if kind in _NAMES:
            yield plain(value) if kind == "IP Address" else value
