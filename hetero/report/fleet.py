"""What a report says beyond single students: all against all, controls turned or mapped, the tuning's tax."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

from hetero.report.numbers import STRICT, Difference, Interval, PositiveCount, Share


class Band(BaseModel):
    """The central 95 % of a student's scores under random rotations of its embeddings: what chance is for it."""

    model_config = STRICT
    rotations: PositiveCount
    r_at_1: tuple[Share, Share]
    map_at_r: tuple[Share, Share]

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        for name, (low, high) in (("r_at_1", self.r_at_1), ("map_at_r", self.map_at_r)):
            if low > high:
                raise ValueError(f"{name} ends at {high}, before it begins at {low}")
        return self

    def place(self, metric: str, value: float) -> str:
        """Where a score lies: ``below``, ``within`` or ``above``."""
        low, high = getattr(self, metric)
        return "below" if value < low else "above" if value > high else "within"


class Mapped(BaseModel):
    """A control's scores against the gallery after the best rotation towards the gallery model, fitted on ``train``."""

    model_config = STRICT
    r_at_1: Interval
    map_at_r: Interval


class MatrixCell(BaseModel):
    """One model of the space searching another's gallery."""

    model_config = STRICT
    query: str
    gallery: str
    r_at_1: Interval
    map_at_r: Interval


class Matrix(BaseModel):
    """All pairs of models of the space, the gallery model first; ``minimum`` is the cell of the lowest R@1."""

    model_config = STRICT
    models: tuple[str, ...] = Field(min_length=2)
    cells: tuple[MatrixCell, ...]
    minimum: MatrixCell

    @model_validator(mode="after")
    def _whole(self) -> Matrix:
        pairs = [(cell.query, cell.gallery) for cell in self.cells]
        if pairs != [(query, gallery) for query in self.models for gallery in self.models]:
            raise ValueError("cells must be all pairs of models, in their order")
        if self.minimum not in self.cells or self.minimum.r_at_1.value > min(c.r_at_1.value for c in self.cells):
            raise ValueError("minimum must be the cell with the lowest r_at_1")
        return self

    def rows(self) -> list[tuple[str, tuple[MatrixCell, ...]]]:
        """Each query model with its cells, in the order of the gallery models."""
        width = len(self.models)
        return [(name, self.cells[row * width : (row + 1) * width]) for row, name in enumerate(self.models)]


class Tax(BaseModel):
    """What its tuning towards its students cost the gallery model: M(untuned) − M(tuned), each on itself, paired."""

    model_config = STRICT
    r_at_1: Difference
    map_at_r: Difference
