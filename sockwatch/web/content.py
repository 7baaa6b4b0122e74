"""What the web side serves, seen from there."""

from typing import Protocol

from sockwatch.export.formats import Format
from sockwatch.observe.snapshot import Snapshot


class Content(Protocol):
    """Where answers come from; every method may be called from any thread."""

    def snapshot(self) -> Snapshot | None:
        """The current snapshot, `None` before the first pass has ended."""

    def render(self, fmt: Format) -> bytes:
        """The metrics of the current snapshot. Takes milliseconds of CPU: not for an event loop."""

    def ready(self) -> tuple[bool, str]:
        """Whether figures are there and not stale, and why, in a sentence for people."""
