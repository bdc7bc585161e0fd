"""Similarity histograms of matching and non-matching pairs, with the calibrated thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hetero.report import words
from hetero.report.canvas import COLOURS, INK, NOTE, TEXT, TITLE, Plot, new_figure, plain, style, to_svg
from hetero.report.schema import Histogram, Report, Threshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_histograms(report: Report) -> Plot:
    """Similarities of matching and non-matching pairs, one panel a student, with its thresholds."""
    columns = min(2, len(report.histograms))
    lines = -(-len(report.histograms) // columns)
    figure = new_figure(2.75 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    panels = list(grid.flat)
    for axes in panels[len(report.histograms) :]:
        axes.set_axis_off()
    limits = _similarity_limits(report.histograms)
    for axes, histogram in zip(panels, report.histograms, strict=False):
        axes.set_xlim(*limits)
        same = (histogram.student, histogram.cell)
        marks = [one for one in report.thresholds if (one.student, one.cell) == same]
        _draw_histogram(axes, histogram, marks)
    for row in grid:
        row[0].set_ylabel("density of pairs", **TEXT)
    for axes in grid[-1]:
        axes.set_xlabel("cosine similarity", **TEXT)
    alt = "Similarity histograms. " + " ".join(_describe_histogram(one) for one in report.histograms)
    return Plot(
        to_svg(figure),
        alt,
        "Densities of the cosine similarity between a query and a gallery image of the same class (matching) "
        "and of another class (non-matching); each curve has area 1, though non-matching pairs are far more. "
        "Vertical lines: thresholds calibrated at a stated false accept rate (FAR), with their true accept "
        "rate (TAR).",
    )


def _draw_histogram(axes: Axes, histogram: Histogram, marks: Sequence[Threshold]) -> None:
    style(axes, grid=None)
    edges = np.asarray(histogram.edges)
    centres = (edges[1:] + edges[:-1]) / 2
    peaks: list[float] = []
    top = 0.0
    for counts, colour, text in (
        (histogram.non_matching, COLOURS["homogeneous"], "non-matching"),
        (histogram.matching, COLOURS["heterogeneous"], "matching"),
    ):
        density = _density(counts, edges)
        if not density.any():
            continue
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.16, linewidth=0)
        axes.stairs(density, edges, color=colour, linewidth=1.4)
        peak = int(np.argmax(density))
        top = max(top, float(density[peak]))
        at, offset, side = (centres[peak], density[peak]), (0, 4), "center"
        if any(abs(centres[peak] - other) < 0.3 for other in peaks):  # label beside the slope, not on the other curve
            slope = int(np.flatnonzero(density >= density[peak] / 2)[-1])
            at, offset, side = (edges[slope + 1], density[slope]), (6, 0), "left"
        peaks.append(float(centres[peak]))
        axes.annotate(text, at, offset, textcoords="offset points", ha=side, fontsize=9.0, color=colour)
    axes.set_ylim(0, max(top, 1e-9) * (1.22 + 0.14 * len(marks)))
    _mark_thresholds(axes, marks)
    axes.set_yticks([])
    cell = "" if histogram.cell == "heterogeneous" else f", {histogram.cell}"
    axes.set_title(plain(histogram.student, 28) + cell, **TITLE)


def _mark_thresholds(axes: Axes, marks: Sequence[Threshold]) -> None:
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


def _similarity_limits(histograms: Sequence[Histogram]) -> tuple[float, float]:
    """The range that holds 99.98 % of either kind of pair in every panel."""
    lows, highs = [], []
    for histogram in histograms:
        for counts in (histogram.matching, histogram.non_matching):
            total = np.cumsum(np.asarray(counts, dtype=np.float64))
            if total[-1] > 0:
                share = total / total[-1]
                lows.append(histogram.edges[int(np.searchsorted(share, 1e-4))])
                highs.append(histogram.edges[int(np.searchsorted(share, 1 - 1e-4)) + 1])
    return (min(lows), max(highs)) if lows else (-1.0, 1.0)


def _density(counts: Sequence[int], edges: np.ndarray) -> np.ndarray:
    values = np.asarray(counts, dtype=np.float64)
    total = values.sum()
    return values / (np.diff(edges) * total) if total > 0 else values


def _describe_histogram(histogram: Histogram) -> str:
    edges = np.asarray(histogram.edges)
    centres = (edges[1:] + edges[:-1]) / 2
    parts = []
    for name, counts in (("matching", histogram.matching), ("non-matching", histogram.non_matching)):
        if sum(counts):
            parts.append(f"{sum(counts):,} {name} pairs with mean {np.average(centres, weights=counts):.2f}")
    return f"{histogram.student}, {histogram.cell}: {' and '.join(parts) or 'no pairs'}."
