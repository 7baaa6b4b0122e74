"""Metric families as bytes, in the formats that Prometheus reads.

prometheus_client writes what describes a family, and histograms. A family whose samples have not
changed since the last rendering keeps its bytes; of one that has changed each line of a series
keeps its beginning, which is most of it. Those lines are written here: prometheus_client looks
into every character of every label each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from threading import Lock
from typing import Final, NamedTuple

from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from sockwatch.export.families import families
from sockwatch.export.formats import Format
from sockwatch.observe.snapshot import Snapshot

_END: Final = b"# EOF\n"
"""Ends an OpenMetrics exposition, once."""


class _One:
    """A registry of one family, which is what prometheus_client renders."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


Writer = Callable[[_One], bytes]

_WRITERS: Final[dict[Format, Writer]] = {
    Format.OPENMETRICS_1_0_0: generate_openmetrics,
    Format.TEXT_1_0_0: generate_latest,  # 1.0.0 differs from 0.0.4 only in names that we do not use
    Format.TEXT_0_0_4: generate_latest,
}


_Series = tuple[str, ...]
"""Name, names of labels, and their values."""

_LINE_BY_LINE: Final = frozenset({"gauge", "counter"})
"""Types of families whose samples are a line each, in the same order in every format."""


class _Block(NamedTuple):
    samples: list[Sample]
    rendered: bytes
    series: Mapping[_Series, str]
    """How the line of each begins."""


class Exposition:
    """Renders Snapshots; safe to use from several threads.

    Args:
        extras: families that are not part of a Snapshot, collected anew for each rendering.
    """

    def __init__(self, extras: Callable[[], Iterable[Metric]] = tuple) -> None:
        self._extras = extras
        self._lock = Lock()
        self._blocks: dict[tuple[Writer, str], _Block] = {}

    def render(self, snapshot: Snapshot, fmt: Format) -> bytes:
        """The exposition of a Snapshot and of the extras; takes milliseconds."""
        with self._lock:
            return self._page(snapshot, fmt)

    def _page(self, snapshot: Snapshot, fmt: Format) -> bytes:
        writer = _WRITERS[fmt]
        everything = chain(families(snapshot), self._extras())
        body = b"".join(self._block(writer, family) for family in everything if family.samples)
        return body + _END if fmt is Format.OPENMETRICS_1_0_0 else body

    def _block(self, writer: Writer, family: Metric) -> bytes:
        block = self._blocks.get((writer, family.name))
        if block is None or block.samples != family.samples:
            block = _written(writer, family, block.series if block else {})
            self._blocks[writer, family.name] = block
        return block.rendered


def _written(writer: Writer, family: Metric, known: Mapping[_Series, str]) -> _Block:
    if family.type not in _LINE_BY_LINE:
        return _Block(family.samples, writer(_One(family)).removesuffix(_END), {})
    bare = Metric(family.name, family.documentation, family.type, family.unit)
    head = writer(_One(bare)).removesuffix(_END)
    series: dict[_Series, str] = {}
    lines: list[str] = []
    for name, labels, value, *_ in family.samples:
        one = (name, *labels, *labels.values())
        begin = series[one] = known.get(one) or _beginning(name, labels)
        lines.append(f"{begin} {floatToGoString(value)}\n")  # type: ignore[no-untyped-call]
    return _Block(family.samples, head + "".join(lines).encode(), series)


def _beginning(name: str, labels: Mapping[str, str]) -> str:
    """All of a line but the value."""
    if not labels:
        return name
    pairs = [f'{label}="{_escaped(text)}"' for label, text in sorted(labels.items())]
    return f"{name}{{{','.join(pairs)}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
