"""The plots of a report: each is one self-contained SVG with a text alternative and a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hetero.report import words
from hetero.report.canvas import (
    COLOURS,
    INK,
    MARKERS,
    TITLE,
    Plot,
    linear_ticks,
    new_figure,
    plain,
    style,
    to_svg,
)
from hetero.report.cost_plot import plot_cost
from hetero.report.curves import plot_curves
from hetero.report.histograms import plot_histograms
from hetero.report.numbers import Interval
from hetero.report.schema import METRICS, Report, Student

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Plot", "plot_cells", "plot_cost", "plot_curves", "plot_histograms"]

PAIRS = {"paragon": "φg → φg", "heterogeneous": "φq → φg", "homogeneous": "φq → φq", "reverse": "φg → φq"}


def plot_cells(report: Report) -> Plot:
    """Every cell of every student with its 95 % interval, one panel a metric."""
    metrics = [key for key in METRICS if _present(report, key)][:3]
    rows: list[tuple[str, str | None, Student]] = [("gallery model", None, report.students[0])]
    rows.append(("", "paragon", report.students[0]))
    for student in report.students:
        role = "" if student.role == "compatible" else ", control"
        rows.append((plain(student.name, 24) + role, None, student))
        rows += [("", cell, student) for cell in ("heterogeneous", "homogeneous", "reverse")]
    figure = new_figure(0.235 * len(rows) + 0.75)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        style(axes, grid="x")
        paragon = getattr(report.cells.paragon, metric)
        axes.axvspan(paragon.low, paragon.high, color=COLOURS["paragon"], alpha=0.10, linewidth=0)
        axes.axvline(paragon.value, color=COLOURS["paragon"], linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(*_limits(_on_scale(report, metric)))
        for y, (_, cell, student) in enumerate(rows):
            if cell is not None:
                _whisker(axes, y, getattr(getattr(student.cells, cell), metric), cell)
        axes.xaxis.set_major_locator(linear_ticks(4))
        axes.set_title(METRICS[metric], **TITLE)
    _label_rows(panels[0], rows)
    alt = "Retrieval scores with 95 percent intervals. " + " ".join(
        f"{student.name}: "
        + ", ".join(
            f"{cell} {METRICS[metric]} {words.interval(getattr(getattr(student.cells, cell), metric))}"
            for cell in PAIRS
            for metric in metrics
        )
        + "."
        for student in report.students
    )
    return Plot(
        to_svg(figure),
        alt,
        "Each mark is the mean over the queries, each bar its 95 % bootstrap interval; the dashed line and "
        "its band are the paragon. A → B: queries embedded by A search a gallery embedded by B "
        "(φg gallery model, φq student). The axes do not start at 0; an arrow marks a value left of "
        "them.",
    )


def _whisker(axes: Axes, y: int, score: Interval, cell: str) -> None:
    """One row of a panel: interval, mark, and the number in a column right of the panel."""
    colour, (left, _) = COLOURS[cell], axes.get_xlim()
    if score.value < left:
        axes.plot([0.015], [y], "<", color=colour, markersize=6, transform=axes.get_yaxis_transform(), clip_on=False)
    else:
        axes.plot([score.low, score.high], [y, y], "|-", color=colour, linewidth=1.6, markersize=7, zorder=3)
        axes.plot([score.value], [y], MARKERS[cell], color=colour, markersize=4.5, zorder=4)
    place = axes.get_yaxis_transform()
    axes.text(1.03, y, words.share(score.value), transform=place, va="center", fontsize=9.0, color=INK)


def _label_rows(axes: Axes, rows: Sequence[tuple[str, str | None, Student]]) -> None:
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [title if cell is None else f"{cell}  {PAIRS[cell]}" for title, cell, _ in rows])
    for label, (_, cell, _) in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontsize(9.0)
        label.set_color(INK if cell is None else COLOURS[cell])
        label.set_fontweight("bold" if cell is None else "normal")


def _on_scale(report: Report, metric: str) -> list[Interval]:
    """What the axes must hold: all but the controls' searches across models, where those are at chance."""
    held: list[Interval] = []
    across: list[Interval] = []
    for student in report.students:
        for cell in PAIRS:
            apart = student.role == "control" and cell in ("heterogeneous", "reverse")
            (across if apart else held).append(getattr(getattr(student.cells, cell), metric))
    low = min(one.low for one in held)
    return held + [one for one in across if one.value >= low]


def _limits(scores: Sequence[Interval]) -> tuple[float, float]:
    low, high = min(one.low for one in scores), max(one.high for one in scores)
    margin = max(high - low, 0.02) * 0.08
    return low - margin, high + margin


def _present(report: Report, metric: str) -> bool:
    cells = [getattr(student.cells, cell) for student in report.students for cell in PAIRS]
    return all(getattr(one, metric) is not None for one in cells)
