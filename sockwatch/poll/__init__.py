"""The two passes: their schedule, their CPU budget, the choice and re-check of the source."""

from sockwatch.poll.bell import Bell
from sockwatch.poll.poller import Clocks, Poller, look_once
from sockwatch.poll.sources import NoSource

__all__ = ["Bell", "Clocks", "NoSource", "Poller", "look_once"]
