"""The numbers of a report: counts, shares, and values with their intervals."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

TOLERANCE: Final = 1e-6  # sums in another order may differ in the last bits; anything more is a mistake
STRICT: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

Share = Annotated[float, Field(ge=-TOLERANCE, le=1 + TOLERANCE)]
Count = Annotated[int, Field(ge=0, le=2**53)]  # beyond that, readers with only doubles lose digits
PositiveCount = Annotated[int, Field(gt=0, le=2**53)]
Similarity = Annotated[float, Field(ge=-1.001, le=1.001)]  # float32 dot products of unit vectors overshoot a little


class Interval(BaseModel):
    """A score in 0..1 with its 95 % bootstrap interval; an exact number has ``low == value == high``."""

    model_config = STRICT
    value: Share
    low: Share
    high: Share

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        require_inside(self.value, self.low, self.high)
        return self

    @classmethod
    def exact(cls, value: float | int) -> Interval:
        """A number without sampling error, such as chance."""
        return cls(value=value, low=value, high=value)


class Difference(BaseModel):
    """A difference of scores with its 95 % interval."""

    model_config = STRICT
    value: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Difference:
        require_inside(self.value, self.low, self.high)
        return self


def require_inside(value: float, low: float, high: float) -> None:
    """A ``ValueError`` where an interval does not hold its value."""
    if not low - TOLERANCE <= value <= high + TOLERANCE:
        raise ValueError(f"the interval {low}..{high} does not hold its value {value}")
