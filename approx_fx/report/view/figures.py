"""The HTML page's bokeh figures, without data: the page's JavaScript fills them.

bokeh is used because it draws thousands of shapes on a canvas, with hover, tap, pan and zoom and a sortable table, and
ships its JavaScript inside the Python package: 2 MB in the file, where plotly needs 5 MB and vega a download.
"""

from __future__ import annotations

from typing import Any

from .colours import KINDS
from .page_data import COLUMNS

GREY = "#777777"
TIP = "<div style='max-width:34em;white-space:normal'><b>@title</b><br>{lines}</div>"
ARC_TIP = ("shape", "coding", "bytes", "made", "read", "source", "error")
# The table has a document of its own, which CSS variables reach: they give it the page's colours.
TABLE_STYLE = """
.slick-header-column, .slick-header-columns { background: var(--card) !important; color: var(--ink) !important; }
.slick-row { background: var(--paper); } .slick-row.odd { background: var(--card) !important; }
.slick-cell { color: var(--ink); border-color: var(--edge); }
.slick-cell.selected { background: var(--edge) !important; }
.slick-viewport { background: var(--paper) !important; }
"""
WIDE = {"module": 190, "read by": 150, "read in": 180, "source": 260}


def figures() -> dict[str, Any]:
    """Name -> bokeh model, for 'ribbon', 'timeline', 'graph' and 'table'."""
    return {"ribbon": _ribbon(), "timeline": _timeline(), "graph": _graph(), "table": _table()}


def _source(name: str, *columns: str) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource({column: [] for column in columns}, name=name)


def _figure(name: str, height: int, y: tuple[float, float], tools: str, **options: Any) -> Any:
    from bokeh.models import Range1d
    from bokeh.plotting import figure

    plot = figure(
        name=name, height=height, sizing_mode="stretch_width", tools=tools, toolbar_location="above",
        y_range=Range1d(start=y[0], end=y[1]), background_fill_alpha=0, border_fill_alpha=0,
        outline_line_color=None, **options,
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.grid.visible = False
    return plot


def _hover(renderers: list[Any], lines: tuple[str, ...], **options: Any) -> Any:
    from bokeh.models import HoverTool

    body = "<br>".join(f"{line}: @{line}" for line in lines)
    return HoverTool(renderers=renderers, tooltips=TIP.format(lines=body), **options)


def _ribbon() -> Any:
    from bokeh.models import Range1d, TapTool

    plot = _figure("ribbon", 600, (1, 0), "pan,wheel_zoom,reset,save", x_range=Range1d(start=-0.4, end=1.4))
    plot.axis.visible = False
    slots = _source("slots", "left", "right", "top", "bottom", "title", "hint")
    names = _source("names", "x", "y", "text", "align")
    arcs = _source("arcs", "xs", "ys", "colour", "title", *ARC_TIP)
    arc_patches = plot.patches("xs", "ys", source=arcs, color="colour", fill_alpha=0.75, line_alpha=0.75, line_width=1,
                         hover_fill_alpha=1, hover_line_color=GREY)  # fmt: skip
    boxes = plot.quad("left", "right", "top", "bottom", source=slots, fill_color=GREY, line_color=None)
    boxes.nonselection_glyph = boxes.selection_glyph = None
    arc_patches.nonselection_glyph = arc_patches.selection_glyph = None
    plot.text("x", "y", "text", source=names, text_align="align", text_baseline="middle", text_font_size="11px",
              text_color=GREY)  # fmt: skip
    plot.add_tools(_hover([arc_patches], ARC_TIP), _hover([boxes], ("hint",)), TapTool(renderers=[boxes]))
    plot.toolbar.active_scroll = None
    return plot


def _timeline() -> Any:
    from bokeh.models import NumeralTickFormatter, Range1d

    plot = _figure("timeline", 340, (0, 1), "xpan,xwheel_zoom,xbox_zoom,reset,save", x_range=Range1d(start=0, end=2))
    plot.yaxis.axis_label = "MiB alive"
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    plot.xaxis.axis_label = "ops in their order"
    edges = [f"{end}{index}" for index in range(len(KINDS)) for end in ("low", "high")]
    live = _source("live", "x", "top", "title", "alive", *edges)
    live.data = {column: [0.0, 0.0] for column in live.data}  # an empty step area hangs bokeh 3.9's scripts
    for index, colour in enumerate(KINDS.values()):
        plot.varea_step("x", f"low{index}", f"high{index}", source=live, fill_color=colour, fill_alpha=0.85,
                        step_mode="after")  # fmt: skip
    line = plot.line("x", "top", source=live, line_alpha=0, line_width=8)
    plot.step("x", "top", source=_source("ghost", "x", "top"), mode="after", line_color=GREY, line_width=1.5,
              line_dash="dashed")  # fmt: skip
    peak = _source("peak", "x", "y", "text", "align")
    plot.scatter("x", "y", source=peak, marker="inverted_triangle", size=11, color=GREY)
    plot.text("x", "y", "text", source=peak, text_align="align", y_offset=-10, text_font_size="12px", text_color=GREY,
              background_fill_color="#ffffff", background_fill_alpha=0.8, padding=2)  # fmt: skip
    plot.add_tools(_hover([line], ("alive",), mode="vline", line_policy="prev"))
    plot.toolbar.active_scroll = None
    return plot


def _graph() -> Any:
    from bokeh.models import Range1d, TapTool

    plot = _figure("graph", 640, (28, -1), "pan,wheel_zoom,reset,save", x_range=Range1d(start=-3.6, end=3.6))
    plot.axis.visible = False
    chains = _source("chains", "left", "right", "top", "bottom")
    thin, bold = _source("thin", "xs", "ys"), _source("bold", "xs", "ys", "colour")
    units = _source("units", "x", "y", "w", "fill", "line", "width", "dash", "title", "shape", "role", "hint")
    plot.quad("left", "right", "top", "bottom", source=chains, fill_color="#CC79A7", fill_alpha=0.22, line_color=None)
    plot.multi_line("xs", "ys", source=thin, line_color=GREY, line_alpha=0.45, line_width=0.8)
    plot.multi_line("xs", "ys", source=bold, line_color="colour", line_alpha=0.8, line_width=2.6)
    boxes = plot.rect("x", "y", "w", 0.66, source=units, fill_color="fill", line_color="line", line_width="width",
                      line_dash="dash")  # fmt: skip
    boxes.nonselection_glyph = None
    boxes.selection_glyph = boxes.glyph.clone(line_color="#F0E442", line_width=4)
    words = plot.text("x", "y", "title", source=units, text_align="center", text_baseline="middle",
                      text_font_size="11px", text_color="#111111")  # fmt: skip
    words.nonselection_glyph = words.selection_glyph = None
    plot.add_tools(_hover([boxes], ("shape", "role", "hint")), TapTool(renderers=[boxes]))
    plot.toolbar.active_scroll = None
    return plot


def _table() -> Any:
    from bokeh.models import InlineStyleSheet
    from bokeh.models.widgets.tables import DataTable, NumberFormatter, StringFormatter, TableColumn

    columns = []
    for title in COLUMNS:
        number = title in ("bits", "bytes before", "bytes after", "error %", "measured %", "early")
        form = NumberFormatter(format="0,0.[00]") if number else StringFormatter()
        columns.append(TableColumn(field=title, title=title, formatter=form, width=WIDE.get(title, 90)))
    return DataTable(
        source=_source("rows", *COLUMNS), columns=columns, name="table", height=460, sizing_mode="stretch_width",
        index_position=None, autosize_mode="none", row_height=24, reorderable=False,
        stylesheets=[InlineStyleSheet(css=TABLE_STYLE)],
    )  # fmt: skip
