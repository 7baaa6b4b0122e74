"""A look at stuck connections by somebody who has no memory of them.

Only the kernel's timers tell an age at once. Of other states no more can be said than that a
connection has not moved while one looked, so those that no timer ends count as stuck after a
moment. FIN_WAIT1, LAST_ACK and CLOSING keep their limits and so are not found: the kernel ends
them by itself, and every busy host has young ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Final

from sockwatch.config import AgesConfig, Config
from sockwatch.observe.snapshot import NamespaceView, PassKind, Snapshot
from sockwatch.poll.owners import OwnerWatch
from sockwatch.poll.poller import Poller
from sockwatch.poll.sources import NoSource

LOOKS: Final = 3
"""Two for the states of a watch pass, and a third as it begins to look for connections that wait
for accept() only when some have done so twice."""
PAUSE: Final = 1.0
"""Seconds from one look to the next."""
OWNER_BUDGET: Final = 2.0
"""Seconds that it may take to find the processes."""


def look_closely(
    config: Config, pause: float = PAUSE, sleep: Callable[[float], None] = time.sleep
) -> Snapshot:
    """Look `LOOKS` times, `pause` seconds apart; ages are lower bounds.

    Raises:
        NoSource: nothing can be read here.
    """
    with closing(Poller(replace(config, ages=_impatient(config.ages, pause)))) as poller:
        good = poller.step(PassKind.WATCH)
        for _ in range(LOOKS - 1):
            sleep(pause)
            good = poller.step(PassKind.WATCH)
        snapshot = poller.snapshot()
    if not good:
        raise NoSource(f"the watch pass failed ({snapshot.passes[PassKind.WATCH].last_failure})")
    return replace(snapshot, namespaces=tuple(map(_named, snapshot.namespaces)))


def _impatient(ages: AgesConfig, pause: float) -> AgesConfig:
    return replace(
        ages,
        close_wait=min(ages.close_wait, pause),
        fin_wait2=min(ages.fin_wait2, pause),
        not_accepted=min(ages.not_accepted, pause),
    )


def _named(view: NamespaceView) -> NamespaceView:
    """With processes: whoever asks by hand wants them if he may see them."""
    if view.stuck is None:
        return view
    owners = OwnerWatch(OWNER_BUDGET)
    owners.switch(on=True)
    try:
        return replace(view, stuck=owners.named(view.stuck, view.stuck.taken))
    finally:
        owners.switch(on=False)
