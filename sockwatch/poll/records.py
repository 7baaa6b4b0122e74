"""How the passes of one kind have gone so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sockwatch.kernel.failures import Cause, PassFailure
from sockwatch.observe.snapshot import PassStatus


@dataclass(slots=True)
class PassRecord:
    """Mutable book-keeping behind a PassStatus."""

    passes: int = 0
    failures: Counter[Cause] = field(default_factory=Counter)
    last_failure: str | None = None
    last_success: float | None = None
    duration: float | None = None
    cpu_seconds: float = 0.0

    def succeeded(self, wall: float, duration: float, cpu: float) -> None:
        """Note a good pass that ended at Unix time `wall`."""
        self.passes += 1
        self.cpu_seconds += cpu
        self.last_success, self.duration, self.last_failure = wall, duration, None

    def included(self, wall: float) -> None:
        """Note that a pass of another kind, ended at Unix time `wall`, did this one's work."""
        self.last_success, self.last_failure = wall, None

    def failed(self, failure: PassFailure, cpu: float) -> None:
        """Note a failed one; what the last good one measured stays."""
        self.passes += 1
        self.cpu_seconds += cpu
        self.failures[failure.cause] += 1
        self.last_failure = f"{failure.cause}: {failure}"

    def status(self, configured_interval: float, interval: float) -> PassStatus:
        """The immutable copy for a Snapshot; seconds."""
        return PassStatus(
            configured_interval=configured_interval,
            interval=interval,
            passes=self.passes,
            failures={cause.value: self.failures[cause] for cause in Cause},
            last_failure=self.last_failure,
            last_success=self.last_success,
            duration=self.duration,
            cpu_seconds=self.cpu_seconds,
        )
