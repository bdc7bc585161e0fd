"""The evaluation section of a config: what ``hetero compat`` measures, and what must hold."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from hetero.errors import ConfigError
from hetero.retrieval.presets import find_preset
from hetero.validation import Section

FEWEST_ROTATIONS = 39  # with 2.5 % on either side, one of them is the least that is outside


class ExpectConfig(Section):
    """What must hold for every compatible student, beside the rule; ``hetero compat`` exits with 1 where it does not.

    Attributes:
        share_of_paragon: heterogeneous R@1 / paragon R@1, at least.
        macs_ratio: the gallery model's MACs / the student's, at least.
        paragon_r_at_1: at least.
        paragon_over_pixels: paragon R@1 − R@1 of raw pixels, at least.
        control_times_chance: R@1 of a control against the gallery / chance, at most; more, where 2.5 % of ``rotations``
            reach more.
        minimum_cell: R@1 of the worst pair of models of the space / paragon R@1, at least; with two students or more.
    """

    share_of_paragon: float | None = Field(default=None, ge=0, le=2)
    macs_ratio: float | None = Field(default=None, ge=0)
    paragon_r_at_1: float | None = Field(default=None, ge=0, le=1)
    paragon_over_pixels: float | None = Field(default=None, ge=-1, le=1)
    control_times_chance: float | None = Field(default=3.0, ge=1)
    minimum_cell: float | None = Field(default=0.5, ge=0, le=2)


class EvaluationConfig(Section):
    """What ``hetero compat`` measures.

    Attributes:
        preset: the evaluation of a published data set, see :mod:`hetero.retrieval.presets`: sets the split, and R@k at
            the ranks of its paper is measured, too.
        split: whose classes. exclude_groups: whether images of one group never match each other.
        false_accept_rates: rates per (query, gallery) impostor pair at which thresholds are set on ``train``.
        resamples: of the bootstrap.
        rotations: for each control, so many random rotations of its embeddings show what chance is for it; 0: none,
            else 39 or more: fewer have no central 95 %.
        procrustes: score each control also after the best rotation towards the gallery model, fitted on ``train``.
        matrix: search every model's gallery with every other; off, where there are many students, it is left out.
    """

    preset: str | None = None
    split: str = "test"
    exclude_groups: bool = True
    false_accept_rates: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (1e-3,)
    resamples: int = Field(default=2000, ge=100)
    rotations: int = Field(default=0, ge=0, le=10_000)
    procrustes: bool = False
    matrix: bool = True
    expect: ExpectConfig = ExpectConfig()

    @model_validator(mode="after")
    def _enough_rotations(self) -> EvaluationConfig:
        if 0 < self.rotations < FEWEST_ROTATIONS:
            raise ValueError(
                f"evaluation.rotations: {self.rotations} show no central 95 %: set {FEWEST_ROTATIONS} or more, or 0"
            )
        return self

    @model_validator(mode="after")
    def _a_matrix_to_look_at(self) -> EvaluationConfig:
        unasked = (None, ExpectConfig.model_fields["minimum_cell"].default)
        if not self.matrix and self.expect.minimum_cell not in unasked:
            raise ValueError("evaluation.expect.minimum_cell is of the matrix: remove it, or matrix: false")
        return self

    @model_validator(mode="before")
    @classmethod
    def _split_of_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("preset"), str):
            return values
        try:
            preset = find_preset(values["preset"])
        except ConfigError as error:
            raise ValueError(str(error)) from None
        values = {"split": preset.split, **values}
        if values["split"] != preset.split:
            raise ValueError(f"preset {preset.name} searches the split {preset.split}, not {values['split']!r}")
        return values
