"""The report as one HTML file that needs no server or network: summary, ribbon, timeline, graph and table."""

from __future__ import annotations

import html
import json
from importlib import resources
from string import Template
from typing import Any

from ...errors import ApproxFxError
from ..data import Report
from .colours import KINDS, LEGEND
from .merge import merged
from .page_data import COLUMNS, page_data
from .summary import summary

# Concatenated in this order inside one JavaScript function, so that they define no globals.
SCRIPTS = ("shared", "ribbon", "timeline", "layout", "graph", "table", "page")
COMPONENTS: list[Any] = ["bokeh", "bokeh-widgets", "bokeh-tables"]


def page(report: Report) -> str:
    """The text of the HTML file. Raises ApproxFxError if bokeh is missing, or the report holds no graph to draw."""
    picture = merged(report)
    try:
        from bokeh.embed import components
        from bokeh.resources import Resources
    except ImportError as error:
        raise ApproxFxError(f"{error}: the page needs bokeh; pip install 'approx_fx[view]'.") from error
    from .figures import figures

    script, divs = components(figures())
    data = {**page_data(picture, report.about.parameters), "columns": COLUMNS, "kinds": list(KINDS)}
    assets = resources.files(__package__) / "assets"
    return Template((assets / "page.html").read_text()).substitute(
        title=html.escape(f"{report.about.model or 'model'}: saved for backward"),
        summary=_terms(summary(report)),
        legend=_legend(LEGEND),
        kinds=_legend((colour, kind) for kind, colour in KINDS.items()),
        resources=Resources(mode="inline", minified=True, components=COMPONENTS).render(),
        data=_embedded(data),
        page_script="\n".join((assets / f"{name}.js").read_text() for name in SCRIPTS),
        script=script,
        **divs,
    )


def _terms(strip: dict[str, str]) -> str:
    escaped = [(html.escape(term), html.escape(value)) for term, value in strip.items()]
    wide = {"command": " class=wide"}
    return "".join(f"<div{wide.get(term, '')}><dt>{term}</dt><dd>{value}</dd></div>" for term, value in escaped)


def _legend(entries: Any) -> str:
    return "".join(f'<li><i style="background:{colour}"></i>{html.escape(label)}</li>' for colour, label in entries)


def _embedded(data: dict[str, Any]) -> str:
    """JSON with <, > and & escaped, so that no text in it can end the script element."""
    return (
        json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    )
