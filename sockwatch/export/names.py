"""How services, listeners and their owners are called in text for people."""

from __future__ import annotations

from typing import Final

from sockwatch.export.terminal import display_width, printable
from sockwatch.observe.snapshot import OTHER, Listener, ServiceKey

_UNKNOWN: Final = frozenset({"", OTHER})
_ELLIPSIS: Final = "..."


def owner(unit: str) -> str:
    """Who has to act, within a sentence."""
    return "the application" if unit in _UNKNOWN else printable(unit)


def with_unit(name: str, unit: str) -> str:
    """A name and whose it is, as far as that is known."""
    return name if unit in _UNKNOWN else f"{name}, {printable(unit)}"


def service_name(key: ServiceKey) -> str:
    """A service in words, such as `inbound port 8080, app.service`."""
    port = "other ports" if key.port == OTHER else f"port {printable(key.port)}"
    return with_unit(f"{key.direction} {port}", key.unit)


def endpoint(listener: Listener) -> str:
    """Where it listens, as people write it."""
    address = printable(listener.address)
    return f"[{address}]:{listener.port}" if ":" in address else f"{address}:{listener.port}"


def clip(text: str, width: int) -> str:
    """The text in at most `width` columns, though never less than 3.

    Names differ at both ends, so the middle is left out.
    """
    text = printable(text)
    if display_width(text) <= width:
        return text
    room = max(width - len(_ELLIPSIS), 0)
    head, tail = text[: (room + 1) // 2], text[len(text) - room // 2 :]
    while head and display_width(head + _ELLIPSIS + tail) > width:
        head, tail = head[:-1], tail[1:]
    return head + _ELLIPSIS + tail
