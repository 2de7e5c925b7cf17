"""Plotly figures without colours: each trace says its role, and the page's script knows what colour that has.

Names are escaped, as plotly.js reads some tags in them.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, Literal

from gepa_loop.scores.numbers import decimal
from gepa_loop.show.report.axis import score_ticks, steps_between, top_of

Role = Literal["accent", "other", "warn"]
Points = Sequence[tuple[int, float]]
"""(step, value)."""

DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
HEIGHT = 300
"""Pixels."""
HOVER = "step %{x}: %{text}<extra>%{fullData.name}</extra>"
UNSAFE = {
    ord("<"): "\\u003c",
    ord(">"): "\\u003e",
    ord("&"): "\\u0026",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
"""Of JSON within a page: what could end its element or, in older scripts, a line."""


def nats(value: float) -> str:
    """As the terminal prints it."""
    return f"{value:.3f}"


def score_line(name: str, points: Points, role: Role, number: int) -> Any:
    """A student's scores; `number` tells it from the others without colour."""
    return _line(name, points, role, number, [decimal(score) for _, score in points])


def nats_line(name: str, points: Points, role: Role, number: int) -> Any:
    """A student's divergences."""
    return _line(name, points, role, number, [nats(value) for _, value in points])


def thin_line(name: str, points: Points, role: Role, say: Callable[[float], str] = nats) -> Any:
    """Values behind the others, by default divergences of every step; `say` prints one."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=html.escape(name),
        mode="lines" if len(points) > 1 else "markers",
        showlegend=False,
        line={"dash": "dot", "width": 1.5},
        meta={"role": role},
        text=[say(value) for _, value in points],
        hovertemplate=HOVER,
    )


def rings(name: str, points: Points, role: Role) -> Any:
    """Marks around some points of score lines."""
    return _marks(name, points, role, "circle-open", 16)


def crosses(name: str, points: Points) -> Any:
    """Marks on points where score lines end."""
    return _marks(name, points, "warn", "x-thin-open", 12)


def score_figure(traces: Sequence[Any], title: str, most: float | None = None) -> str:
    """Scores by step, from 0 to what holds `most`, by default the largest of them, as JSON that can stand within a page."""
    if most is None:
        most = max((value for trace in traces for value in trace.y), default=1.0)
    top = top_of(most)
    ticks = score_ticks(top)
    axis = {
        "range": [-0.03 * top, 1.04 * top],  # a line along the edge is not cut in half
        "tickvals": [value for value, _ in ticks],
        "ticktext": [text for _, text in ticks],
    }
    return _figure(traces, title, axis)


def nats_figure(traces: Sequence[Any], most: float | None = None) -> str:
    """Divergences by step, from 0 on and to `most` where there is one, as JSON that can stand within a page."""
    end = {"range": [-0.03 * most, 1.04 * most]} if most else {"rangemode": "tozero"}
    return _figure(traces, "nats a token", {**end, "nticks": 6})


def _line(name: str, points: Points, role: Role, number: int, texts: Sequence[str]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=html.escape(name),
        mode="lines+markers",
        line={"dash": DASHES[number % len(DASHES)], "width": 2.5 if role == "accent" else 1.75},
        marker={"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 7},
        meta={"role": role},
        text=texts,
        hovertemplate=HOVER,
    )


def _marks(name: str, points: Points, role: Role, symbol: str, size: int) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[step for step, _ in points],
        y=[value for _, value in points],
        name=html.escape(name),
        mode="markers",
        marker={"symbol": symbol, "size": size, "line": {"width": 2}},
        meta={"role": role},
        text=[decimal(score) for _, score in points],
        hovertemplate=HOVER,
    )


def _figure(traces: Sequence[Any], title: str, axis: dict[str, Any]) -> str:
    import plotly.graph_objects as go

    figure = go.Figure(list(traces))
    figure.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 52, "r": 12, "t": 12, "b": 44},
        showlegend=len(traces) > 1,
        legend={"orientation": "h", "y": -0.34, "x": 0},
        hovermode="closest",
    )
    last = max((step for trace in traces for step in trace.x), default=1)
    figure.update_xaxes(
        title_text="step", rangemode="tozero", zeroline=False, automargin=True, dtick=steps_between(last)
    )
    figure.update_yaxes(title_text=html.escape(title), zeroline=False, automargin=True, **axis)
    return str(figure.to_json()).translate(UNSAFE)
