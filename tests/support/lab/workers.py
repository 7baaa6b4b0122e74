"""What processes of a server do that share its listener."""

from __future__ import annotations

import signal
import socket


def work(listener: socket.socket, number: int, leaks: bool) -> None:
    """Accept so many connections, wait until the peers have closed, and leak or close."""
    peers = [listener.accept()[0] for _ in range(number)]
    for peer in peers:
        peer.recv(1)
        if not leaks:
            peer.close()
    signal.pause()
