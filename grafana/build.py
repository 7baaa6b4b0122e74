"""Writes the Grafana dashboards: `python grafana/build.py`, or with `--check` only compares.

The JSON is committed, because it is what users load.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Final, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from grafana_foundation_sdk.cog.builder import Builder

    from grafana.overview import ROWS
    from grafana.panels import Entry, Figure, Graph, Listing
else:  # a script has its own folder on the path
    from overview import ROWS
    from panels import Entry, Figure, Graph, Listing

OUTPUT: Final = Path(__file__).parent / "dashboards" / "sockwatch-overview.json"
DATASOURCE: Final = options.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLOURS: Final = ("blue", "orange", "red")
ALL: Final = model.VariableOption(text=["All"], value=["$__all"], selected=True)
VARIABLES: Final = {
    "job": "label_values(sockwatch_build_info, job)",
    "instance": 'label_values(sockwatch_build_info{job=~"$job"}, instance)',
}

AnyPanel = TypeVar("AnyPanel", stat.Panel, timeseries.Panel, table.Panel)


def described(panel: AnyPanel, entry: Entry, height: int) -> AnyPanel:
    """What every panel has; the height in grid units of about 30 pixels."""
    panel.title(entry.title).description(entry.description).datasource(DATASOURCE)
    panel.span(entry.width).height(height).unit(entry.unit)
    return panel


def query(ref: str, expression: str, legend: str = "__auto") -> prometheus.Dataquery:
    """A query by the letter that Grafana knows it by within its panel."""
    return prometheus.Dataquery().ref_id(ref).expr(expression).legend_format(legend)


def limits(values: tuple[float, ...]) -> dashboard.ThresholdsConfig:
    """Blue below the first value, orange from there, red from the second."""
    steps = [
        model.Threshold(value=value, color=colour)
        for value, colour in zip((None, *values), COLOURS, strict=False)
    ]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def figure(entry: Figure) -> stat.Panel:
    """The newest value over its course."""
    return (
        described(stat.Panel(), entry, height=4)
        .with_target(query("A", entry.expression).range())
        .thresholds(limits(entry.limits))
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .graph_mode(options.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def graph(entry: Graph) -> timeseries.Panel:
    """Lines from zero, no line where nothing was scraped."""
    panel = (
        described(timeseries.Panel(), entry, height=8)
        .color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .min(0)
        .line_width(1)
        .fill_opacity(10)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(options.TooltipDisplayMode.MULTI)
            .sort(options.SortOrder.DESCENDING)
        )
    )
    for ref, (legend, expression) in zip(ascii_uppercase, entry.series.items(), strict=False):
        panel.with_target(query(ref, expression, legend).range())
    return panel


def listing(entry: Listing) -> table.Panel:
    """Where a label is pivoted, the browser makes its values columns, and rows of the others."""
    target = query("A", entry.expression).instant()
    panel = described(table.Panel(), entry, height=10).thresholds(limits(()))
    panel.sort_by([common.TableSortByFieldState().display_name(entry.first).desc(desc=True)])
    if entry.pivot:
        target.format(PromQueryFormat.TIME_SERIES)
        panel.with_transformation(transformation("labelsToFields", valueLabel=entry.pivot))
        panel.with_transformation(transformation("merge"))
    else:
        target.format(PromQueryFormat.TABLE)
    columns = {name: place for place, name in enumerate(entry.columns)}
    settings = {
        "excludeByName": {"Time": True, "Value": not entry.value},
        "indexByName": columns,
        "renameByName": {"Value": entry.value} if entry.value else {},
    }
    panel.with_transformation(transformation("organize", **settings))
    return panel.with_target(target)


def transformation(name: str, **settings: object) -> model.DataTransformerConfig:
    """A step between query and table, with the names Grafana has for its settings."""
    return model.DataTransformerConfig(id_val=name, options=settings)


def panel(entry: Entry) -> Builder[model.Panel]:
    """The panel of an entry."""
    match entry:
        case Figure():
            return figure(entry)
        case Graph():
            return graph(entry)
        case Listing():
            return listing(entry)


def variable(name: str, values: str) -> dashboard.QueryVariable:
    """A choice of targets: all of them unless some are chosen."""
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(values)
        .definition(values)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
        .current(ALL)
    )


def overview() -> model.Dashboard:
    """The whole dashboard, in the classic model that Grafana 10 and later load."""
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    board = (
        dashboard.Dashboard("sockwatch: overview")
        .uid("sockwatch-overview")
        .description("Where the TCP connections of these hosts stand in the handshake.")
        .tags(["sockwatch"])
        .timezone("browser")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-1h", "now")
        .with_variable(source)
    )
    for name, values in VARIABLES.items():
        board.with_variable(variable(name, values))
    for title, entries in ROWS.items():
        board.with_row(dashboard.Row(title))
        for entry in entries:
            board.with_panel(panel(entry))
    return numbered(board.build())


def numbered(board: model.Dashboard) -> model.Dashboard:
    """Give each panel an id, by which links to single panels know it."""
    for number, entry in enumerate(board.panels or [], start=1):
        entry.id_val = number
    return board


def main() -> int:
    """Write the dashboard, or with --check say whether it is up to date; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboards as JSON.")
    parser.add_argument("--check", action="store_true", help="only compare, exit 1 if different")
    text = json.dumps(overview(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
    if not parser.parse_args().check:
        OUTPUT.write_text(text)
        return 0
    if OUTPUT.exists() and OUTPUT.read_text() == text:
        return 0
    print(f"{OUTPUT.name} is not what the generator writes: run python grafana/build.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
