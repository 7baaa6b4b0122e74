"""Results as text, as a Markdown table and as a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log10
from statistics import median
from typing import Final, NamedTuple

from subjects import Cost

BAR_HEIGHT: Final = 22
LABEL_WIDTH: Final = 220
BAR_WIDTH: Final = 420
WIDTH: Final = 820


class Line(NamedTuple):
    """One look at one population."""

    population: str
    sockets: int
    look: str
    cpu: float
    """Median seconds."""
    wall: float
    peak_rss: int | None
    """Bytes."""
    ratio: float
    """CPU as a multiple of the floor's in the same run."""


class Bound(NamedTuple):
    """What the daemon takes, and the most that it may."""

    what: str
    value: float
    unit: str
    most: float

    @property
    def met(self) -> bool:
        """Whether it takes no more."""
        return self.value <= self.most

    def __str__(self) -> str:
        """In one line."""
        return f"{self.what}: {self.value:.1f} {self.unit} (at most {self.most:g})"


def lines(population: str, sockets: int, costs: Mapping[str, Sequence[Cost]]) -> list[Line]:
    """Medians of what was measured; the look called `floor` is what others are compared with."""
    floor = median(cost.cpu for cost in costs["floor"])
    return [
        Line(
            population,
            sockets,
            look,
            cpu=median(cost.cpu for cost in some),
            wall=median(cost.wall for cost in some),
            peak_rss=max((cost.peak_rss or 0 for cost in some), default=0) or None,
            ratio=median(cost.cpu for cost in some) / floor,
        )
        for look, some in costs.items()
    ]


HEADINGS: Final = ("population", "sockets", "look", "CPU ms", "wall ms", "peak RSS MB", "x floor")


def cells(line: Line) -> tuple[str, ...]:
    """A line as it is printed."""
    rss = "" if line.peak_rss is None else f"{line.peak_rss / 1e6:.0f}"
    wall = "" if line.wall != line.wall else f"{line.wall * 1e3:.1f}"  # nan
    cpu = f"{line.cpu * 1e3:.1f}"
    return (
        line.population,
        f"{line.sockets:,}",
        line.look,
        cpu,
        wall,
        rss,
        f"{line.ratio:.2f}",
    )


def markdown(results: Iterable[Line]) -> str:
    """The table of looks for the documentation."""
    return _rows([HEADINGS, ("---",) * 3 + ("---:",) * 4, *map(cells, results)])


def markdown_of_bounds(bounds: Iterable[Bound]) -> str:
    """The table of what the daemon takes."""
    figures = (
        (one.what, f"{one.value:.1f} {one.unit}", f"{one.most:g} {one.unit}") for one in bounds
    )
    return _rows([("what", "measured", "at most"), ("---", "---:", "---:"), *figures])


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def svg(title: str, results: Sequence[Line]) -> str:
    """Horizontal bars of CPU time, on a logarithmic scale from 1 ms."""
    top = max(log10(max(line.cpu * 1e3, 1.0)) for line in results) or 1.0
    bars = []
    for row, line in enumerate(results):
        y = 48 + row * BAR_HEIGHT
        length = max(2.0, log10(max(line.cpu * 1e3, 1.0)) / top * BAR_WIDTH)
        ours = line.look.startswith(("census", "watch"))
        bars.append(
            f'<text x="{LABEL_WIDTH - 8}" y="{y + 14}" text-anchor="end">{line.look}</text>'
            f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.0f}" height="{BAR_HEIGHT - 6}" '
            f'class="{"ours" if ours else "theirs"}"/>'
            f'<text x="{LABEL_WIDTH + length + 6:.0f}" y="{y + 14}">'
            f"{line.cpu * 1e3:,.0f} ms, {line.ratio:.2f} x</text>"
        )
    height = 60 + len(results) * BAR_HEIGHT
    style = (
        "text{font:13px sans-serif;fill:#444}.ours{fill:#1b7f5a}.theirs{fill:#9aa5b1}"
        "@media(prefers-color-scheme:dark){text{fill:#ccc}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"<title>{title}</title><style>{style}</style>"
        f'<text x="8" y="22" font-weight="bold">{title}</text>'
        f'<text x="8" y="40">CPU time per look, logarithmic; x = multiple of the bare dump</text>'
        + "".join(bars)
        + "</svg>\n"
    )
