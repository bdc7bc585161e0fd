"""A summary of several seeds as Markdown, and the curve of accuracy against cost as an SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from hetero.report import words
from hetero.report.canvas import (
    COLOURS,
    CONTROL_COLOUR,
    MARKERS,
    TEXT,
    TITLE,
    Plot,
    log_ticks,
    new_figure,
    plain,
    style,
    to_svg,
)
from hetero.report.cost_plot import name_students
from hetero.report.schema import METRICS, RULE_METRICS

CONTROL_MARKERS = ("x", "+", "*", "2", "p", "h")


def summary_markdown(summary: Any) -> str:
    """Means over the seeds with their range, and every comparison with its interval and seeds.

    Args:
        summary: a :class:`hetero.workflows.summary.Summary`.
    """
    data, macs, seeds = summary.report.run.dataset, summary.report.macs, ", ".join(map(str, summary.seeds))
    count = len(summary.seeds)
    told = f"One seed ({seeds})" if count == 1 else f"Means over seeds {seeds}, their range"
    lines = [
        f"{data.name}, split `{data.split}`: {words.searched(data)}. "
        + (f"{told}: no ordering is claimed." if count < 3 else f"{told}."),
        *(_differing(key, of) for key, of in summary.arithmetic.items()),
        "",
        "| Model | MACs | Fewer | Seeds | R@1 in the gallery model's gallery | mAP@R there | R@1 in its own "
        "| mAP@R there |",
        "|---|---|---|---|---|---|---|---|",
        _row(summary, "paragon", macs.gallery, 1.0, (None, "paragon")),
    ]
    if summary.rival is not None:
        rival = summary.rival
        lines.append(_row(summary, rival.series, rival.macs.query, rival.macs.ratio, (None, rival.series)))
    for student in sorted(summary.students, key=lambda one: (one.role == "control", -one.macs.query)):
        name = student.name + (" (control)" if student.role == "control" else "")
        series = (student.name, f"{student.name}/homogeneous")
        lines.append(_row(summary, name, student.macs.query, student.macs.ratio, series))
        mapped = f"{student.name}/mapped"
        if summary.seeds_of(mapped):
            shown = f"{name}, best rotation fitted on train"
            lines.append(_row(summary, shown, student.macs.query, student.macs.ratio, (mapped, series[1])))
    lines += [
        "",
        "| First − second | Metric | Difference [95 % over these queries] | Over trainings, 95 % | Seeds | Ordering |",
        "|---|---|---|---|---|---|",
    ]
    for one in summary.comparisons:
        value, low, high = one.difference
        verdict = ("above" if value > 0 else "below") if one.claimed else "not claimed"
        shown = ", ".join(f"{seed:+.4f}" for seed in one.by_seed)
        trained = f"{one.over_trainings.low:+.4f} to {one.over_trainings.high:+.4f}" if one.over_trainings else ""
        lines.append(
            f"| {one.first} − {one.second} | {METRICS[one.metric]} | {value:+.4f} [{low:+.4f}, {high:+.4f}] "
            f"| {trained} | {shown} | {verdict} |"
        )
    if summary.turned:
        lines += ["", *_turned_table(summary)]
    return "\n".join(lines) + "\n"


def plot_summary(summary: Any) -> Plot:
    """R@1 and mAP@R against the query model's MACs, means over seeds with their range."""
    figure = new_figure(6.6)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, metric in zip(panels, RULE_METRICS, strict=True):
        name = METRICS[metric]
        style(axes, grid="y")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(log_ticks())
        axes.minorticks_off()
        axes.axhline(summary.mean("paragon", metric), color=COLOURS["paragon"], linewidth=0.9, linestyle=(0, (4, 3)))
        compatible = sorted((s for s in summary.students if s.role == "compatible"), key=lambda s: s.macs.query)
        for cell, suffix in (("heterogeneous", ""), ("homogeneous", "/homogeneous")):
            family = [s for s in compatible if s.name not in summary.mismatched]
            points = [(float(s.macs.query), summary.by_seed(s.name + suffix, metric)) for s in family]
            _line(axes, points, COLOURS[cell], MARKERS[cell], f"{cell}, trained to be compatible")
            others = [s for s in compatible if s.name in summary.mismatched]
            for student in others:
                point = (float(student.macs.query), summary.by_seed(student.name + suffix, metric))
                _line(axes, [point], COLOURS[cell], "v", f"{cell}, mismatched" if student is others[0] else None)
        controls = [s for s in summary.students if s.role == "control"]
        beside = Counter[int]()
        for student, marker in zip(controls, cycle(CONTROL_MARKERS), strict=False):
            beside[student.macs.query] += 1
            shown = student.macs.query * 1.05 ** beside[student.macs.query]
            point = (shown, summary.by_seed(f"{student.name}/homogeneous", metric))
            _line(axes, [point], CONTROL_COLOUR, marker, f"{plain(student.name, 24)}, homogeneous")
        if summary.rival is not None:
            point = (float(summary.rival.macs.query), summary.by_seed(summary.rival.series, metric))
            _line(axes, [point], COLOURS["paragon"], MARKERS["paragon"], plain(summary.rival.series, 40))
        axes.set_title(f"{name}; dashed: paragon", **TITLE)
    if compatible:
        left, right = panels[0].get_xlim()
        name_students(panels[0], compatible, left, right)
    panels[0].legend(fontsize=8, frameon=False, loc="lower right")
    panels[1].set_xlabel("MACs of the query model for one image (log scale)", **TEXT)
    panels[1].xaxis.set_major_formatter(lambda value, _: words.count(value))
    alt = f"Accuracy against MACs of the query model over seeds {', '.join(map(str, summary.seeds))}. " + " ".join(
        f"{s.name}: {words.ratio(s.macs.ratio)} fewer MACs, R@1 {summary.mean(s.name, 'r_at_1'):.4f} in the gallery "
        f"model's gallery, {summary.mean(s.name + '/homogeneous', 'r_at_1'):.4f} in its own."
        for s in summary.students
    )
    if summary.rival is not None:
        alt += f" {summary.rival.series}: R@1 {summary.mean(summary.rival.series, 'r_at_1'):.4f}."
    return Plot(
        to_svg(figure),
        alt,
        "Marks are means over the seeds, bars reach from the least to the greatest; controls stand beside their cost.",
    )


def _line(
    axes: Any, points: list[tuple[float, tuple[float, ...]]], colour: str, marker: str, label: str | None
) -> None:
    costs = [cost for cost, _ in points]
    means = [sum(values) / len(values) for _, values in points]
    joined = "-" if len(set(costs)) == len(costs) else ""  # several students of one cost are no curve
    axes.plot(costs, means, joined, marker=marker, color=colour, markersize=5, linewidth=1.2, label=label)
    for cost, values in points:
        axes.plot([cost, cost], [min(values), max(values)], color=colour, linewidth=2.2)


def _differing(key: str, seeds_of: Mapping[str, Sequence[int]]) -> str:
    """A line about a precision that the runs do not share."""
    told = [f"{name} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" for name, seeds in seeds_of.items()]
    return f"`{key}` differs: {', '.join(told)}."


def _row(summary: Any, name: str, macs: int, ratio: float, series: tuple[str | None, str]) -> str:
    cells = ["" if one is None else _spread(summary, one, metric) for one in series for metric in RULE_METRICS]
    count = len(summary.seeds_of(series[1]))
    return f"| {name} | {macs:,} | {words.ratio(ratio)} | {count} | {' | '.join(cells)} |"


def _turned_table(summary: Any) -> list[str]:
    lines = [
        "| Control | Seed | R@1 in the gallery | Its embeddings turned | mAP@R | Turned |",
        "|---|---|---|---|---|---|",
    ]
    for one in sorted(summary.turned, key=lambda turned: (turned.student, turned.seed)):
        cells = []
        for metric in RULE_METRICS:
            low, high = getattr(one.band, metric)
            where = "within" if one.within(metric) else "**outside**"
            cells += [f"{one.score[metric]:.5f}", f"{low:.5f} to {high:.5f}, {where}"]
        lines.append(f"| {one.student} | {one.seed} | {' | '.join(cells)} |")
    count = " or ".join(map(str, sorted({one.band.rotations for one in summary.turned})))
    total = len(summary.turned)
    outside = (f"{sum(not t.within(key) for t in summary.turned)} in {METRICS[key]}" for key in RULE_METRICS)
    return [
        *lines,
        "",
        f"The central 95 % of {count} random rotations. Outside: {' and '.join(outside)}, of {total}; of controls that "
        f"have nothing to do with each other, {total / 20:g} would be by chance.",
    ]


def _spread(summary: Any, series: str, metric: str) -> str:
    values = summary.by_seed(series, metric)
    mean = f"{summary.mean(series, metric):.4f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.4f}, {max(values):.4f}]"
