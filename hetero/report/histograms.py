"""Similarity histograms of matching and non-matching pairs, with the calibrated thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hetero.report import words
from hetero.report.canvas import COLOURS, INK, NOTE, TEXT, TITLE, Plot, new_figure, plain, style, to_svg
from hetero.report.schema import Histogram, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Mark:
    """A calibrated threshold: similarity, the false accept rate it was set at, and its true accept rate."""

    similarity: float
    false_accept_rate: float
    true_accept_rate: float


@dataclass(frozen=True)
class Panel:
    """One histogram to draw: its title in bold, how it is called in words, pairs by bin, its thresholds.

    ``reference`` are the (matching, non-matching) pairs of what it is compared with, drawn as dashed outlines.
    """

    title: str
    name: str
    edges: Sequence[float]
    matching: Sequence[int]
    non_matching: Sequence[int]
    marks: Sequence[Mark] = ()
    reference: tuple[Sequence[int], Sequence[int]] | None = None


def plot_histograms(report: Report) -> Plot:
    """Similarities of matching and non-matching pairs, one panel a student, with its thresholds."""
    panels = []
    for histogram in report.histograms:
        same = (histogram.student, histogram.cell)
        marks = [
            Mark(one.similarity, one.false_accept_rate, one.true_accept_rate)
            for one in report.thresholds
            if (one.student, one.cell) == same
        ]
        cell = "" if histogram.cell == "heterogeneous" else f", {histogram.cell}"
        title, name = plain(histogram.student, 28) + cell, f"{histogram.student}, {histogram.cell}"
        panels.append(Panel(title, name, histogram.edges, histogram.matching, histogram.non_matching, marks))
    return draw_panels(panels)


def draw_panels(panels: Sequence[Panel], note: str = "") -> Plot:
    """Histograms beside and beneath each other on one scale of similarities; ``note`` ends the caption."""
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(2.75 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    places = list(grid.flat)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    limits = _similarity_limits(panels)
    for axes, panel in zip(places, panels, strict=False):
        axes.set_xlim(*limits)
        _draw_panel(axes, panel)
    for row in grid:
        row[0].set_ylabel("density of pairs", **TEXT)
    for axes in grid[-1]:
        axes.set_xlabel("cosine similarity", **TEXT)
    alt = "Similarity histograms. " + " ".join(_describe_panel(one) for one in panels)
    return Plot(
        to_svg(figure),
        alt,
        "Densities of the cosine similarity between a query and a gallery image of the same class (matching) "
        "and of another class (non-matching); each curve has area 1, though non-matching pairs are far more. "
        "Vertical lines: thresholds calibrated at a stated false accept rate (FAR), with their true accept "
        f"rate (TAR).{note}",
    )


def _draw_panel(axes: Axes, panel: Panel) -> None:
    style(axes, grid=None)
    edges = np.asarray(panel.edges)
    centres = (edges[1:] + edges[:-1]) / 2
    peaks: list[float] = []
    top = 0.0
    matching, other = panel.reference or ((), ())
    for counts, reference, colour, text in (
        (panel.non_matching, other, COLOURS["homogeneous"], "non-matching"),
        (panel.matching, matching, COLOURS["heterogeneous"], "matching"),
    ):
        if sum(reference):
            beneath = _density(reference, edges)
            axes.stairs(beneath, edges, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=3)
            top = max(top, float(beneath.max()))
        density = _density(counts, edges)
        if not density.any():
            continue
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.16, linewidth=0)
        axes.stairs(density, edges, color=colour, linewidth=1.4)
        peak = int(np.argmax(density))
        top = max(top, float(density[peak]))
        at, offset, side = (centres[peak], density[peak]), (0, 4), "center"
        if any(
            abs(centres[peak] - earlier) < 0.3 for earlier in peaks
        ):  # label beside the slope, not on the other curve
            slope = int(np.flatnonzero(density >= density[peak] / 2)[-1])
            at, offset, side = (edges[slope + 1], density[slope]), (6, 0), "left"
        peaks.append(float(centres[peak]))
        axes.annotate(text, at, offset, textcoords="offset points", ha=side, fontsize=9.0, color=colour)
    axes.set_ylim(0, max(top, 1e-9) * (1.22 + 0.14 * len(panel.marks)))
    _mark_thresholds(axes, panel.marks)
    axes.set_yticks([])
    axes.set_title(panel.title, **TITLE)


def _mark_thresholds(axes: Axes, marks: Sequence[Mark]) -> None:
    """Lines with their labels on the roomier side; a line ends at its label, so none crosses another's."""
    left, right = axes.get_xlim()
    to_left = bool(sum(one.similarity for one in marks) > len(marks) * (left + right) / 2)
    for level, mark in enumerate(sorted(marks, key=lambda one: one.similarity, reverse=to_left)):
        height = 0.985 - 0.085 * level
        axes.axvline(mark.similarity, ymax=height, color=INK, linewidth=1.0, linestyle=(0, (2, 2)))
        axes.annotate(
            f"FAR {mark.false_accept_rate:g}: ≥ {mark.similarity:.3f}, TAR {words.share(mark.true_accept_rate)}",
            (mark.similarity, height),
            (-4 if to_left else 4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="top",
            **NOTE,
        )


def _similarity_limits(panels: Sequence[Panel | Histogram]) -> tuple[float, float]:
    """The range that holds 99.98 % of either kind of pair in every panel."""
    lows, highs = [], []
    for panel in panels:
        for counts in (panel.matching, panel.non_matching):
            total = np.cumsum(np.asarray(counts, dtype=np.float64))
            if total[-1] > 0:
                share = total / total[-1]
                lows.append(panel.edges[int(np.searchsorted(share, 1e-4))])
                highs.append(panel.edges[int(np.searchsorted(share, 1 - 1e-4)) + 1])
    return (min(lows), max(highs)) if lows else (-1.0, 1.0)


def _density(counts: Sequence[int], edges: np.ndarray) -> np.ndarray:
    values = np.asarray(counts, dtype=np.float64)
    total = values.sum()
    return values / (np.diff(edges) * total) if total > 0 else values


def _describe_panel(panel: Panel) -> str:
    edges = np.asarray(panel.edges)
    centres = (edges[1:] + edges[:-1]) / 2
    parts = []
    for name, counts in (("matching", panel.matching), ("non-matching", panel.non_matching)):
        if sum(counts):
            parts.append(f"{sum(counts):,} {name} pairs with mean {np.average(centres, weights=counts):.2f}")
    return f"{panel.name}: {' and '.join(parts) or 'no pairs'}."
