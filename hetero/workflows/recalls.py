"""R@k of a preset's ranks in every cell of a student."""

from __future__ import annotations

from hetero.report import schema
from hetero.retrieval.compat import CompatReport
from hetero.retrieval.config import EvaluationConfig
from hetero.retrieval.presets import find_preset, recalls


def with_recalls(student: schema.Student, scored: CompatReport, evaluation: EvaluationConfig) -> schema.Student:
    """The student with R@k at the ranks of ``evaluation.preset`` in each cell; unchanged without a preset."""
    if evaluation.preset is None:
        return student
    ranks = find_preset(evaluation.preset).ranks
    measured = {
        cell: recalls(scores, ranks, seed=scored.seed, resamples=scored.resamples)
        for cell, scores in scored.scores.items()
    }
    content = {cell: {k: interval.to_json() for k, interval in found.items()} for cell, found in measured.items()}
    return schema.Student.model_validate({**student.model_dump(), "recalls": content})
