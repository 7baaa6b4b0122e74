"""Names and labels of the metrics that sockwatch exports, read from what exports them.

Rules, dashboards and runbooks may use these and no other: they are the metric catalogue.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Final

from everything import EVERYTHING

from sockwatch.export.families import families
from sockwatch.export.own import HttpCounts, Reloads, own_families


def _exported() -> Iterator[tuple[str, frozenset[str]]]:
    own = own_families(Reloads(successful=True, success_time=0), HttpCounts(0, {"limit": 0}))
    for family in chain(families(EVERYTHING), own):
        for sample in family.samples:
            yield sample.name, frozenset(sample.labels)


METRICS: Final = {**dict(_exported()), "up": frozenset[str]()}
"""Labels by metric; `up` is Prometheus' own."""

TARGET_LABELS: Final = frozenset({"job", "instance"})
"""Prometheus adds these to every series."""
