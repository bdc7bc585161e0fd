"""Putting a report together: the top-level copies, and training curves from ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hetero.report.fleet import Matrix, Tax
from hetero.report.schema import (
    Baselines,
    Check,
    CurvePoint,
    Example,
    Histogram,
    Report,
    Run,
    Student,
    Threshold,
    first_compatible,
)


def make_report(
    *,
    space_id: str,
    run: Run,
    students: Iterable[Student],
    baselines: Baselines | None = None,
    thresholds: Iterable[Threshold] = (),
    histograms: Iterable[Histogram] = (),
    examples: Iterable[Example] = (),
    curves: Iterable[CurvePoint] = (),
    checks: Iterable[Check] = (),
    matrix: Matrix | None = None,
    tax: Tax | None = None,
) -> Report:
    """Assemble a report; top-level ``cells``, ``rule`` and ``macs`` are the first compatible student's.

    Raises:
        ValueError: no compatible student, or parts that contradict each other (a pydantic error).
    """
    students = tuple(students)
    first = first_compatible(students)
    return Report(
        space_id=space_id,
        run=run,
        students=students,
        cells=first.cells,
        rule=first.rule,
        macs=first.macs,
        baselines=baselines or Baselines(),
        thresholds=tuple(thresholds),
        histograms=tuple(histograms),
        examples=tuple(examples),
        curves=tuple(curves),
        checks=tuple(checks),
        matrix=matrix,
        tax=tax,
    )


def curves_from_journal(lines: Iterable[Mapping[str, Any]], *, limit: int = 300) -> tuple[CurvePoint, ...]:
    """Curve points from the lines of ``metrics.jsonl``, thinned to ``limit`` a phase.

    The ``loss`` of a line maps each network in training to its ``total`` and its unweighted terms. A point's
    loss is the sum of the totals; its terms are ``term`` where one network trains, else ``network/term``.
    """
    return thin_curves((_curve_point(line) for line in lines), limit=limit)


def thin_curves(points: Iterable[CurvePoint], *, limit: int = 300) -> tuple[CurvePoint, ...]:
    """At most ``limit`` (≥ 2) evenly spaced points of each phase, its first and its last among them."""
    by_phase: dict[str, list[CurvePoint]] = {}
    for point in points:
        by_phase.setdefault(point.phase, []).append(point)
    kept: list[CurvePoint] = []
    for phase in by_phase.values():
        count = min(limit, len(phase))
        last = len(phase) - 1
        kept += [phase[round(i * last / max(count - 1, 1))] for i in range(count)]
    return tuple(kept)


def _curve_point(line: Mapping[str, Any]) -> CurvePoint:
    losses: Mapping[str, Mapping[str, float]] = line["loss"]
    if len(losses) == 1:
        [parts] = losses.values()
        terms = {name: value for name, value in parts.items() if name != "total"}
        if list(terms.values()) == [parts["total"]]:  # a loss of one term: the same curve twice
            terms = {}
    else:
        terms = {f"{who}/{name}": value for who, parts in losses.items() for name, value in parts.items()}
    return CurvePoint(
        phase=line["phase"],
        step=line["step"],
        epoch=line["epoch"],
        loss=sum(parts["total"] for parts in losses.values()),
        terms=terms,
        images_per_s=line.get("images_per_s"),
    )
