"""Numbers and verdicts in words: every view of a report writes them the same way."""

from __future__ import annotations

from collections.abc import Iterator

from hetero.report.fleet import MatrixCell, Tax
from hetero.report.numbers import Interval
from hetero.report.schema import (
    METRICS,
    RULE_METRICS,
    DataDescription,
    Report,
    RuleResult,
    Student,
    first_compatible,
)

MINUS = "\N{MINUS SIGN}"


def share(value: float | int) -> str:
    """A score in 0..1: three decimals, four below 0.01, where chance lives and three would hide it."""
    text = f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.4f}"
    return text.replace("-", MINUS)


def interval(score: Interval) -> str:
    """``0.871 [0.865, 0.877]``, or the value alone where it is exact."""
    if score.low == score.high:
        return share(score.value)
    return f"{share(score.value)} [{share(score.low)}, {share(score.high)}]"


def difference(result: RuleResult) -> str:
    """``+0.031 [+0.025, +0.037]``."""
    return f"{signed(result.difference)} [{signed(result.low)}, {signed(result.high)}]"


def signed(value: float | int) -> str:
    """A difference of scores with its sign."""
    return ("+" if value >= 0 else MINUS) + share(abs(value))


def ratio(value: float | int) -> str:
    """``23×``: two significant digits below 10, whole numbers above."""
    return (f"{value:.1f}" if value < 10 else f"{value:,.0f}") + "×"


def count(value: float | int) -> str:
    """``52.1 M`` with a decimal prefix: k, M, G, T."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.3g} {prefix}" if scaled < 999.5 else f"{scaled:,.0f} {prefix}"
    return f"{value:.3g}"


def duration(seconds: float | int) -> str:
    """``1 h 02 min``, ``3 min 20 s`` or ``4.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def shorten(text: str, characters: int) -> str:
    """``text`` on one line of so many characters, an ellipsis for its middle: both ends of a path matter.

    Control characters, also those that turn the writing direction, are dropped.
    """
    text = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    if len(text) <= characters:
        return text
    head = (characters - 1) // 2
    tail = characters - 1 - head
    return text[:head] + "…" + text[len(text) - tail :]


def verdict(student: Student) -> str:
    """What the compatibility rule says of one student, by metric."""
    told = {metric: getattr(student.rule, metric) for metric in RULE_METRICS}
    parts = [
        f"{'satisfied' if result.satisfied else 'not satisfied'} for {METRICS[metric]} ({difference(result)})"
        for metric, result in told.items()
    ]
    return "Compatibility rule: " + ", ".join(parts) + "."


def searched(data: DataDescription) -> str:
    """What was searched and how: ``6,140 queries of 307 classes; leave-one-out: …``, and what was left out of it."""
    parts = [f"{data.queries:,} queries of {data.classes:,} classes", data.protocol]
    if data.queries_without_match:
        parts.append(f"{data.queries_without_match:,} more queries have no possible match and are left out")
    if data.unusable_images:
        parts.append(f"{data.unusable_images:,} pictures of the data could not be used")
    return "; ".join(parts)


def recall_title(report: Report) -> str:
    """What stands above the table of R@k."""
    preset = report.run.dataset.preset
    return "R@k" if preset is None else f"R@k of the evaluation preset {preset}"


def recall_rows(report: Report) -> Iterator[tuple[str, dict[int, Interval]]]:
    """Rows of the table of R@k, by rank: the gallery model's search, then those that each student takes part in.

    None without a preset.
    """
    for number, student in enumerate(student for student in report.students if student.recalls):
        if number == 0:
            yield "gallery model: paragon", student.recalls["paragon"]
        for cell in ("heterogeneous", "homogeneous", "reverse"):
            yield f"{student.name}: {cell}", student.recalls[cell]


def summary(report: Report) -> str:
    """The result of the run in a few sentences: the first compatible student and the first control."""
    student = first_compatible(report.students)
    paragon, hetero = student.cells.paragon.r_at_1, student.cells.heterogeneous.r_at_1
    kept = f" ({hetero.value / paragon.value:.1%} of it)" if paragon.value > 0 else ""
    sentences = [
        f"Student {student.name}, at {ratio(student.macs.ratio)} fewer MACs, retrieves from the gallery "
        f"model's gallery with R@1 {interval(hetero)}; the gallery model itself reaches "
        f"{interval(paragon)}{kept}.",
        verdict(student),
    ]
    control = next((one for one in report.students if one.role == "control"), None)
    if control is not None:
        chance = report.baselines.chance
        beside = f" (chance: {interval(chance.r_at_1)})" if chance else ""
        sentences.append(
            f"The negative control {control.name}, never told where the space lies, gets R@1 "
            f"{interval(control.cells.heterogeneous.r_at_1)} from the same gallery{beside}."
        )
    failed = [check.name for check in report.checks if not check.passed]
    if failed:
        sentences.append(f"{len(failed)} of {len(report.checks)} checks failed: {', '.join(failed)}.")
    return " ".join(sentences)


MATRIX_TITLE = "all models of the space against each other, R@1 / mAP@R"


def matrix_cell(cell: MatrixCell) -> str:
    """``0.874 / 0.662``."""
    return f"{cell.r_at_1.value:.4f} / {cell.map_at_r.value:.4f}"


def minimum(report: Report) -> str:
    """The sentence about the worst pair of models, empty without a matrix."""
    if report.matrix is None:
        return ""
    worst, paragon = report.matrix.minimum, report.cells.paragon.r_at_1.value
    share = f", {worst.r_at_1.value / paragon:.1%} of the paragon's" if paragon else ""
    return f"Minimum cell: {worst.query} searches {worst.gallery}'s gallery with R@1 {interval(worst.r_at_1)}{share}."


def controls(report: Report) -> list[str]:
    """Whether the scores of each turned control are those of chance, and what each mapped one scored."""
    lines = []
    for student in report.students:
        if student.mapped is not None:
            lines.append(
                f"{student.name}, after the best rotation towards the gallery model (fitted on train): "
                f"R@1 {interval(student.mapped.r_at_1)}, mAP@R {interval(student.mapped.map_at_r)}."
            )
        band = student.rotated
        if band is None:
            continue
        for metric, name in (("r_at_1", "R@1"), ("map_at_r", "mAP@R")):
            (low, high), value = getattr(band, metric), getattr(student.cells.heterogeneous, metric).value
            where = band.place(metric, value).replace("above", "ABOVE")
            lines.append(
                f"{student.name}: {name} {value:.5f} against the gallery, {where} the central 95 % of "
                f"{band.rotations} random rotations of its embeddings, {low:.5f} to {high:.5f}."
            )
    return lines


def tax(found: Tax) -> str:
    """What its tuning cost the gallery model."""
    parts = [
        f"{name} {one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
        for name, one in (("R@1", found.r_at_1), ("mAP@R", found.map_at_r))
    ]
    return f"Tuning the gallery model towards its students cost it {', '.join(parts)} (before − after)."
