"""How long an embedding took on each phone: the distribution over its pictures, a line for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hetero.report.canvas import (
    COLOURS,
    INK,
    MUTED,
    NOTE,
    TEXT,
    Plot,
    linear_ticks,
    log_ticks,
    new_figure,
    plain,
    style,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 20
_ROW_IN = 0.74
_BINS = 80
_CURVE = 0.48  # of a row's height; the name stands above, clear of the percentiles' numbers
_LOG_FROM = 12.0  # times the fastest: on a linear axis the fast ones would all be one line


class Timing(NamedTuple):
    """Latencies of one cell: ``each`` picture's and their quantiles, all in milliseconds."""

    name: str
    each: Sequence[float]
    median: float
    p90: float
    p99: float


def plot_latency(timings: Sequence[Timing]) -> Plot:
    """The distributions beneath each other on one axis of milliseconds, with median, 90th and 99th percentile.

    Args:
        timings: at least one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    shown = timings[:SHOWN]
    figure = new_figure(_ROW_IN * len(shown) + 0.65)
    axes = figure.subplots()
    style(axes, grid="x")
    fastest = max(min(min(one.each, default=one.median) for one in shown), 1e-3)  # a microsecond: 0 has no logarithm
    slowest = max(1.05 * max(one.p99 for one in shown), 1.05 * fastest)
    logarithmic = slowest > _LOG_FROM * fastest
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(fastest / 1.1, slowest)
        axes.xaxis.set_major_locator(log_ticks())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        edges = np.geomspace(fastest / 1.1, slowest, _BINS + 1)
    else:
        axes.set_xlim(0, slowest)
        axes.xaxis.set_major_locator(linear_ticks(8))
        edges = np.linspace(0, slowest, _BINS + 1)
    axes.set_ylim(len(shown), 0)
    axes.set_yticks([])
    for place, one in enumerate(shown):
        _draw(axes, place + 1, one, edges)
    axes.set_xlabel(f"milliseconds an embedding{', logarithmic' if logarithmic else ''}", **TEXT)
    return Plot(to_svg(figure), _describe(shown), _caption(len(shown), len(timings)))


def _draw(axes: Axes, floor: int, one: Timing, edges: np.ndarray) -> None:
    """One row: its curve stands on ``floor`` (the axis points down), its name above it."""
    counts = np.histogram(np.clip(one.each, edges[0], None), edges)[
        0
    ]  # beyond the axis: not drawn, as the caption says
    tall = _CURVE * counts / max(counts.max(), 1)
    heights = np.where(counts > 0, floor - tall, np.nan)  # no line where no picture is
    colour = COLOURS["heterogeneous"]
    axes.stairs(heights, edges, baseline=floor, fill=True, color=colour, alpha=0.25, linewidth=0)
    axes.stairs(heights, edges, baseline=floor, color=colour, linewidth=1.0)
    axes.axhline(floor, color=MUTED, linewidth=0.6)
    axes.plot([one.median] * 2, [floor, floor - _CURVE], color=INK, linewidth=1.6)
    beside: dict[str, Any] = {"xytext": (3, 0), "ha": "left", "va": "top"}  # two close ones do not cover each other
    above: dict[str, Any] = {"xytext": (0, 1), "ha": "center", "va": "bottom"}
    for value, text, side in ((one.p90, "90", above), (one.p99, "99", beside)):
        place = min(int(np.searchsorted(edges, value, side="right")) - 1, len(tall) - 1)
        top = floor - max(0.2, tall[max(place - 1, 0) : place + 2].max() + 0.05)  # clear of the curve
        axes.plot([value] * 2, [floor, top], color=INK, linewidth=1.0)
        axes.annotate(text, (value, top), textcoords="offset points", **side, **NOTE)
    axes.annotate(
        f"{plain(one.name, 90)}: median {one.median:.3g} ms",
        (0, floor - 1),
        (2, -6),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="top",
        fontsize=8.5,
        color=INK,
    )


def _describe(shown: Sequence[Timing]) -> str:
    parts = (f"{one.name}: median {one.median:.3g} ms, p90 {one.p90:.3g} ms, p99 {one.p99:.3g} ms" for one in shown)
    return "Distributions of latency. " + "; ".join(parts) + "."


def _caption(shown: int, there: int) -> str:
    text = (
        "The curve’s height is how many pictures took that long, each curve scaled to its own peak. The tall line is "
        "the median, the short ones the 90th and the 99th percentile; the slowest pictures of the slowest cell may lie "
        "beyond the axis."
    )
    return f"The first {shown} of {there} cells. {text}" if there > shown else text
