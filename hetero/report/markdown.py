"""The table of a report as Markdown, for pages such as docs/results/."""

from __future__ import annotations

from hetero.report import words
from hetero.report.numbers import Interval
from hetero.report.schema import Metrics, Report, RuleResult

_ROWS = ("heterogeneous", "homogeneous", "reverse")


def render_markdown(report: Report) -> str:
    """Cells of every student with 95 % intervals, the rule, costs, baselines and checks, as Markdown tables."""
    data = report.run.dataset
    lines = [
        f"{data.name}, split `{data.split}`: {words.searched(data)}.",
        f"Space `{report.space_id}`, seed {report.run.seed}, config SHA-256 `{report.run.config_sha256[:16]}…`.",
        "",
        "| Model | Cell | MACs | R@1 | R@5 | mAP@R |",
        "|---|---|---|---|---|---|",
        f"| gallery model | paragon | {report.macs.gallery:,} | {_cells(report.cells.paragon)} |",
    ]
    for student in report.students:
        name = f"{student.name} ({student.role})"
        cost = f"{student.macs.query:,} ({words.ratio(student.macs.ratio)})"
        for cell in _ROWS:
            lines.append(f"| {name} | {cell} | {cost} | {_cells(getattr(student.cells, cell))} |")
    pixels, chance = report.baselines.raw_pixels, report.baselines.chance
    if pixels is not None:
        middle = _value(pixels.r_at_5) if pixels.r_at_5 else ""
        last = _value(pixels.map_at_r) if pixels.map_at_r else ""
        lines.append(f"| raw pixels | | | {_value(pixels.r_at_1)} | {middle} | {last} |")
    if chance is not None:
        lines.append(f"| chance | | | {chance.r_at_1.value:.5f} | | |")
    if ranks := report.students[0].recall_ranks:
        lines += ["", f"{words.recall_title(report)}:", "", f"| | {' | '.join(f'R@{rank}' for rank in ranks)} |"]
        lines.append("|---" * (1 + len(ranks)) + "|")
        for label, found in words.recall_rows(report):
            lines.append(f"| {label} | {' | '.join(_value(found[rank]) for rank in ranks)} |")
    if report.matrix is not None:
        lines += ["", f"{words.MATRIX_TITLE}:", "", f"| query by | {' | '.join(report.matrix.models)} |"]
        lines.append("|---" * (1 + len(report.matrix.models)) + "|")
        for name, cells in report.matrix.rows():
            lines.append(f"| {name} | {' | '.join(words.matrix_cell(cell) for cell in cells)} |")
        lines += ["", words.minimum(report)]
    for line in words.controls(report) + ([words.tax(report.tax)] if report.tax is not None else []):
        lines += ["", line]
    lines += ["", "| Student | Rule: heterogeneous − homogeneous | Difference | Satisfied |", "|---|---|---|---|"]
    for student in report.students:
        for metric, result in (("R@1", student.rule.r_at_1), ("mAP@R", student.rule.map_at_r)):
            verdict = "yes" if result.satisfied else "no"
            lines.append(f"| {student.name} | {metric} | {_difference(result)} | {verdict} |")
    lines += ["", "| Threshold at false accept rate | Similarity | True accept rate | Measured false accept rate |"]
    lines.append("|---|---|---|---|")
    for threshold in report.thresholds:
        measured = threshold.measured_false_accept_rate
        lines.append(
            f"| {threshold.student}, {threshold.false_accept_rate:g} on {threshold.impostor_pairs:,} training pairs "
            f"| {threshold.similarity:.4f} | {threshold.true_accept_rate:.4f} | "
            f"{'' if measured is None else f'{measured:.5f}'} |"
        )
    lines += ["", "| Check | Value | Expected | |", "|---|---|---|---|"]
    for check in report.checks:
        value = f"{check.value:.4f}" if isinstance(check.value, float) else check.value
        lines.append(f"| {check.name} | {value} | {check.expected} | {'holds' if check.passed else 'FAILS'} |")
    speeds = ", ".join(
        f"{phase} {words.duration(seconds)} at {report.run.images_per_s.get(phase, 0):.0f} images/s"
        for phase, seconds in report.run.durations_s.items()
    )
    lines += ["", f"Training: {speeds}, {report.run.threads} threads, {report.run.device}."]
    return "\n".join(lines) + "\n"


def _cells(metrics: Metrics) -> str:
    return " | ".join(_value(score) for score in (metrics.r_at_1, metrics.r_at_5, metrics.map_at_r))


def _value(score: Interval) -> str:
    return f"{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]"


def _difference(result: RuleResult) -> str:
    return f"{result.difference:+.4f} [{result.low:+.4f}, {result.high:+.4f}]"
