"""What must hold for a run to count as good: the compatibility rule, and what the config expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hetero.config import RunConfig
from hetero.report.fleet import Matrix
from hetero.report.schema import Baselines, Check, Student


def make_checks(
    config: RunConfig,
    students: Sequence[Student],
    baselines: Baselines,
    stopped: Mapping[str, str] | None = None,
    matrix: Matrix | None = None,
) -> list[Check]:
    """One check a statement; ``hetero compat`` exits with 1 where one does not hold.

    Args:
        stopped: students that diverged in training, with what happened.
        matrix: of all models of the space, where there are several students.
    """
    expect = config.evaluation.expect
    checks: list[Check] = []
    for student in students:
        heterogeneous, paragon = student.cells.heterogeneous.r_at_1.value, student.cells.paragon.r_at_1.value
        if student.role == "compatible":
            checks.append(_rule(student))
            if expect.share_of_paragon is not None:
                checks.append(
                    _at_least(
                        f"{student.name}: heterogeneous R@1 / paragon R@1",
                        heterogeneous / paragon if paragon else 0.0,
                        expect.share_of_paragon,
                    )
                )
            if expect.macs_ratio is not None:
                checks.append(_at_least(f"{student.name}: fewer MACs, times", student.macs.ratio, expect.macs_ratio))
        elif expect.control_times_chance is not None and baselines.chance is not None:
            checks.append(_near_chance(student, expect.control_times_chance, baselines.chance.r_at_1.value))
    for name, reason in (stopped or {}).items():
        checks.append(Check(name=f"{name}: training, {reason}", passed=False, value=0.0, expected="a trained student"))
    if matrix is not None and expect.minimum_cell is not None:
        worst, paragon = matrix.minimum, matrix.cells[0].r_at_1.value
        checks.append(
            _at_least(
                f"minimum cell, {worst.query} searches {worst.gallery}: R@1 / paragon R@1",
                worst.r_at_1.value / paragon if paragon else 0.0,
                expect.minimum_cell,
            )
        )
    if students:
        checks += _paragon(config, students, baselines)
    return checks


def failed(checks: Iterable[Check]) -> list[Check]:
    """Those that do not hold."""
    return [check for check in checks if not check.passed]


def _rule(student: Student) -> Check:
    result = student.rule.map_at_r
    return Check(
        name=f"{student.name}: compatibility rule, heterogeneous − homogeneous mAP@R",
        passed=result.satisfied,
        value=result.difference,
        expected=f"95 % interval above 0 (it is {result.low:+.4f} to {result.high:+.4f})",
    )


def _near_chance(control: Student, times: float, chance: float) -> Check:
    """Embeddings that lie in clumps leave chance by luck: where rotations were tried, what they reach is no failure."""
    limit, expected = times * chance, f"{times:g} × chance"
    if control.rotated is not None and control.rotated.r_at_1[1] > limit:
        limit = control.rotated.r_at_1[1]
        expected = f"97.5 % of {control.rotated.rotations} random rotations"
    value = control.cells.heterogeneous.r_at_1.value
    return Check(
        name=f"{control.name}: a control's R@1 against the gallery is near chance",
        passed=value <= limit,
        value=value,
        expected=f"≤ {limit:.4f} ({expected})",
    )


def _paragon(config: RunConfig, students: Sequence[Student], baselines: Baselines) -> list[Check]:
    expect, paragon = config.evaluation.expect, students[0].cells.paragon.r_at_1.value
    checks = []
    if expect.paragon_r_at_1 is not None:
        checks.append(_at_least("paragon R@1", paragon, expect.paragon_r_at_1))
    if expect.paragon_over_pixels is not None and baselines.raw_pixels is not None:
        gain = paragon - baselines.raw_pixels.r_at_1.value
        checks.append(_at_least("paragon R@1 − raw pixels' R@1", gain, expect.paragon_over_pixels))
    return checks


def _at_least(name: str, value: float, limit: float) -> Check:
    return Check(name=name, passed=value >= limit, value=value, expected=f"≥ {limit:g}")
