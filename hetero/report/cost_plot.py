"""Accuracy against MACs: what each student keeps of the gallery model, and for how much work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hetero.report import words
from hetero.report.canvas import (
    COLOURS,
    CONTROL_COLOUR,
    GRID,
    INK,
    MARKERS,
    NOTE,
    TEXT,
    TITLE,
    WIDTH_IN,
    Plot,
    log_ticks,
    new_figure,
    plain,
    spread,
    style,
    to_svg,
)
from hetero.report.numbers import Interval
from hetero.report.schema import METRICS, Report, Student

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_cost(report: Report) -> Plot:
    """R@1 and mAP@R against the query model's MACs (log scale): what each student keeps of the paragon."""
    students = sorted(report.students, key=lambda student: student.macs.query)
    lightest = students[0].macs.query
    figure = new_figure(6.6)
    panels = figure.subplots(2, 1, sharex=True)
    heaviest = max(report.macs.gallery, students[-1].macs.query)
    span = max(heaviest / lightest, 10.0)
    left, right = lightest / span**0.12, heaviest * span**0.18
    off_scale: list[str] = []
    for axes, metric in zip(panels, ("r_at_1", "map_at_r"), strict=True):
        style(axes, grid="y")
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        axes.xaxis.set_major_locator(log_ticks())
        axes.minorticks_off()
        _draw_cost(axes, report, students, metric, off_scale)
    name_students(panels[0], students, left, right)
    panels[1].set_xlabel("MACs of the query model for one image (log scale)", **TEXT)
    panels[1].xaxis.set_major_formatter(lambda value, _: words.count(value))
    notes = f" Below the axis: {'; '.join(off_scale)}." if off_scale else ""
    alt = "Accuracy against MACs of the query model. " + " ".join(
        f"{one.name}: {words.count(one.macs.query)} MACs, {words.ratio(one.macs.ratio)} fewer than the "
        f"gallery model, heterogeneous R@1 {words.share(one.cells.heterogeneous.r_at_1.value)} and mAP@R "
        f"{words.share(one.cells.heterogeneous.map_at_r.value)}."
        for one in students
    )
    return Plot(
        to_svg(figure),
        alt,
        "Filled: the student's queries in the gallery model's gallery; open: the student on both sides. The "
        "dashed line is the gallery model on both sides. The vertical axis does not start at 0." + notes,
    )


def _draw_cost(axes: Axes, report: Report, students: Sequence[Student], metric: str, off_scale: list[str]) -> None:
    """One panel of the cost plot; controls that would flatten it are named in ``off_scale`` instead."""
    paragon: Interval = getattr(report.cells.paragon, metric)
    compatible = [one for one in students if one.role == "compatible"]
    controls = [one for one in students if one.role == "control"]
    shown: list[Interval] = [paragon]
    for cell in ("homogeneous", "heterogeneous"):
        scores = [getattr(getattr(one.cells, cell), metric) for one in compatible]
        shown += scores
        _series(axes, [one.macs.query for one in compatible], scores, cell)
    for control in controls:
        alone: Interval = getattr(control.cells.homogeneous, metric)
        shown.append(alone)
        _points(axes, control.macs.query, alone, CONTROL_COLOUR, "v", filled=False)
    floor = min(one.low for one in shown)
    for control in controls:
        across: Interval = getattr(control.cells.heterogeneous, metric)
        if across.value < floor:
            name = words.shorten(control.name, 24)
            off_scale.append(f"{name} in the gallery, {METRICS[metric]} {words.share(across.value)}")
        else:
            shown.append(across)
            _points(axes, control.macs.query, across, CONTROL_COLOUR, "v", filled=True)
    low, high = min(one.low for one in shown), max(one.high for one in shown)
    margin = max(high - low, 0.02) * 0.14
    bottom = max(low - margin, -0.02)
    axes.set_ylim(bottom, min(high + margin, 1.02))
    axes.axhline(paragon.value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes.plot([report.macs.gallery], [paragon.value], MARKERS["paragon"], color=INK, markersize=7, zorder=4)
    text = f"paragon {words.share(paragon.value)}"
    at = (report.macs.gallery, paragon.value)
    axes.annotate(text, at, (0, -15), textcoords="offset points", ha="center", **TEXT)
    heaviest = compatible[-1]
    labels = [
        (getattr(getattr(heaviest.cells, cell), metric).value, heaviest, cell, COLOURS[cell])
        for cell in ("heterogeneous", "homogeneous")
    ]
    labels += [
        (getattr(one.cells.homogeneous, metric).value, one, "control, homogeneous", CONTROL_COLOUR)
        for one in controls[-1:]
    ]
    low, high = axes.get_ylim()
    heights = spread([value for value, *_ in labels], 0.075 * (high - low), low, high)
    for (_, student, text, colour), height in zip(labels, heights, strict=True):
        at = (student.macs.query, height)
        axes.annotate(text, at, (10, 0), textcoords="offset points", va="center", fontsize=9.0, color=colour)
    axes.set_title(METRICS[metric], **TITLE)


def name_students(axes: Axes, students: Sequence[Student], left: float | int, right: float | int) -> None:
    """Names and ratios above the upper panel, stacked where neighbours on the log axis would overlap."""
    by_cost: dict[int, list[Student]] = {}
    for student in students:
        by_cost.setdefault(student.macs.query, []).append(student)
    ends: list[float] = []  # right end of the last label on each level, in inches from the left
    for macs, group in by_cost.items():
        more = f" and {len(group) - 3} others" if len(group) > 4 else ""
        named = group[:3] if more else group
        text = " / ".join(plain(one.name, 22) for one in named) + f"{more} ({words.ratio(group[0].macs.ratio)})"
        centre = np.log(macs / left) / np.log(right / left) * (WIDTH_IN - 0.9)
        half = 0.033 * len(text) + 0.05
        level = next((i for i, end in enumerate(ends) if end <= centre - half), len(ends))
        ends[level : level + 1] = [centre + half]
        axes.annotate(
            text,
            (macs, 1),
            (0, 6 + 13 * level),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            arrowprops={"arrowstyle": "-", "color": GRID, "shrinkA": 0, "shrinkB": 0},
            **NOTE,
        )
        for panel in axes.figure.axes:
            panel.axvline(macs, color=GRID, linewidth=0.8, zorder=0)
    axes.set_title(axes.get_title(loc="left"), **TITLE, pad=12 + 13 * len(ends))


def _series(axes: Axes, macs: Sequence[int], scores: Sequence[Interval], cell: str) -> None:
    colour = COLOURS[cell]
    axes.plot(macs, [one.value for one in scores], color=colour, linewidth=1.2, alpha=0.55, zorder=2)
    for x, score in zip(macs, scores, strict=True):
        _points(axes, x, score, colour, MARKERS[cell], filled=cell == "heterogeneous")


def _points(axes: Axes, x: int, score: Interval, colour: str, marker: str, *, filled: bool) -> None:
    axes.plot([x, x], [score.low, score.high], color=colour, linewidth=1.4, zorder=3, solid_capstyle="butt")
    face = colour if filled else "white"
    axes.plot([x], [score.value], marker, color=colour, markerfacecolor=face, markersize=6.5, zorder=4)
