"""What a finding is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sockwatch.observe.snapshot import Listener, ServiceKey


class Kind(StrEnum):
    """What was found, in the order in which it is told."""

    STALE = "stale"
    ACCEPT_QUEUE = "accept_queue"
    SYN_QUEUE = "syn_queue"
    SYN_FLOOD = "syn_flood"
    CLOSE_WAIT = "close_wait"
    EPHEMERAL_PORTS = "ephemeral_ports"
    UNANSWERED = "unanswered"
    SYN_SENT = "syn_sent"
    FIN_WAIT2 = "fin_wait2"
    MEMORY = "memory"
    TIME_WAIT = "time_wait"
    ORPHANS = "orphans"
    SOURCE = "source"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that looks wrong; `None` where a field does not apply or is not known."""

    kind: Kind
    message: str
    """What was seen and whose it is, safe to print."""
    meaning: str
    """What it means and who has to act, safe to print."""
    count: int | None = None
    limit: int | None = None
    service: ServiceKey | None = None
    """Whose it is; its unit is as the source names it, unescaped."""
    listener: Listener | None = None
    destination: str | None = None
    """Address and port."""
    netns: str | None = None
