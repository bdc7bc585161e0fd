"""Training curves: loss, its terms and the speed by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hetero.report.canvas import (
    LINES,
    TEXT,
    TITLE,
    Plot,
    linear_ticks,
    new_figure,
    plain,
    spread,
    style,
    to_svg,
)
from hetero.report.schema import CurvePoint, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = dict[str, tuple[list[int], list[float]]]
"""Name of a line to its steps and heights."""


def plot_curves(report: Report) -> Plot:
    """Loss, its terms and the speed by step, one row a phase."""
    phases = list(dict.fromkeys(point.phase for point in report.curves))
    plans = [_curve_panels([one for one in report.curves if one.phase == phase]) for phase in phases]
    columns = min(3, max(len(plan) for plan in plans))
    lines = [-(-len(plan) // columns) for plan in plans]
    figure = new_figure(2.45 * sum(lines))
    grid = figure.subplots(sum(lines), columns, squeeze=False)
    top = 0
    for phase, plan, used in zip(phases, plans, lines, strict=True):
        panels = list(grid[top : top + used].flat)
        top += used
        for axes, (title, series) in zip(panels, plan, strict=False):
            _draw_lines(axes, f"{plain(phase, 24)}: {plain(title, 24)}", series)
        for axes in panels[len(plan) :]:
            axes.set_axis_off()
    alt = "Training curves. " + " ".join(
        f"{phase}: loss from {first.loss:.4g} at step {first.step} to {last.loss:.4g} at step {last.step}."
        for phase in phases
        for first, last in [_ends([one for one in report.curves if one.phase == phase])]
    )
    caption = (
        "Loss (a student's total is the weighted sum of its terms), the terms before their weights, and training speed "
        "by step, one row a phase."
    )
    return Plot(to_svg(figure), alt, caption)


def _curve_panels(points: Sequence[CurvePoint]) -> list[tuple[str, Series]]:
    """Panels of one phase: the loss with its terms, a panel for each student's terms, the speed."""
    panels: dict[str, Series] = {"loss": {}}
    for point in points:
        values = {("loss", "loss"): point.loss}
        for key, value in point.terms.items():
            group, _, name = key.rpartition("/")
            values.setdefault((group or "loss", name), value)
        for (group, name), value in values.items():
            steps, heights = panels.setdefault(group, {}).setdefault(name, ([], []))
            steps.append(point.step)
            heights.append(value)
    timed = [point for point in points if point.images_per_s is not None]
    if timed:
        speeds = [float(point.images_per_s or 0.0) for point in timed]
        panels["images/s"] = {"images/s": ([point.step for point in timed], speeds)}
    return list(panels.items())


def _draw_lines(axes: Axes, title: str, series: Series) -> None:
    style(axes, grid="y")
    colours = [LINES[index % len(LINES)] for index in range(len(series))]
    for colour, (steps, heights) in zip(colours, series.values(), strict=True):
        axes.plot(steps, heights, color=colour, linewidth=1.4, marker="." if len(steps) < 2 else "")
    axes.margins(x=0.02)
    if title.endswith("images/s"):
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(linear_ticks(5, integer=True))
    axes.set_xlabel("step", **TEXT)
    axes.set_title(title, **TITLE)
    if len(series) > 1:
        low, high = axes.get_ylim()
        span = (high - low) * max(1.0, 0.11 * len(series))
        axes.set_ylim(low, low + span)
        heights_at_end = [heights[-1] for _, heights in series.values()]
        places = spread(heights_at_end, 0.1 * span, low, low + 0.93 * span)
        for name, colour, height in zip(series, colours, places, strict=True):
            axes.annotate(
                plain(name, 22),
                (0.98, height),
                (0, 5),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                fontsize=8.5,
                color=colour,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            )


def _ends(points: Sequence[CurvePoint]) -> tuple[CurvePoint, CurvePoint]:
    return points[0], points[-1]
