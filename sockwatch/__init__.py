"""Which TCP connections are stuck in which step of the handshake, since when, and whose."""

__version__ = "0.1.0"
