"""``report.json``: what one run measured, checked when made and when read; see docs/report-spec.md."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, JsonValue, model_validator

from hetero.report.fleet import Band, Mapped, Matrix, Tax
from hetero.report.numbers import (
    STRICT,
    TOLERANCE,
    Count,
    Interval,
    PositiveCount,
    Share,
    Similarity,
    require_inside,
)

REPORT_SCHEMA: Final = 1
METRICS: Final = {"r_at_1": "R@1", "r_at_5": "R@5", "map_at_r": "mAP@R", "map": "mAP", "mrr": "MRR"}
"""Keys of the metrics in the order of the tables, and how they are written for people."""
CELLS: Final = ("paragon", "heterogeneous", "homogeneous", "reverse")
RULE_METRICS: Final = ("r_at_1", "map_at_r")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_PICTURE_CHARACTERS = 200_000  # about 150 kB: a thumbnail, so that a page stays small

Cell = Literal["paragon", "heterogeneous", "homogeneous", "reverse"]
Rank = Annotated[int, Field(ge=1, le=1_000_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _require_png(text: str) -> str:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"a picture must be base64 without line breaks ({error})") from None
    if not data.startswith(_PNG_SIGNATURE):
        raise ValueError("a picture must be a PNG file in base64")
    return text


def _replace_surrogates(value: object) -> object:
    """A file name that is not UTF-8 reaches Python with lone surrogates, which no JSON file can hold."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


FileText = Annotated[str, BeforeValidator(_replace_surrogates)]
PngBase64 = Annotated[str, Field(max_length=_MAX_PICTURE_CHARACTERS), AfterValidator(_require_png)]


class Metrics(BaseModel):
    """Retrieval scores of one cell, each the mean over the queries."""

    model_config = STRICT
    r_at_1: Interval
    r_at_5: Interval
    map_at_r: Interval
    map: Interval | None = None
    mrr: Interval | None = None

    @model_validator(mode="after")
    def _monotone(self) -> Metrics:
        if self.r_at_1.value > self.r_at_5.value + TOLERANCE:
            raise ValueError(f"r_at_1 ({self.r_at_1.value}) is above r_at_5 ({self.r_at_5.value})")
        return self


class Cells(BaseModel):
    """The four (query model, gallery model) pairs: paragon (φ_g, φ_g), heterogeneous (φ_q, φ_g), homogeneous
    (φ_q, φ_q), reverse (φ_g as query, φ_q as gallery).
    """

    model_config = STRICT
    paragon: Metrics
    heterogeneous: Metrics
    homogeneous: Metrics
    reverse: Metrics


class RuleResult(BaseModel):
    """M(φ_q, φ_g) − M(φ_q, φ_q) with its paired 95 % interval; satisfied where all of that is above 0."""

    model_config = STRICT
    satisfied: bool
    difference: float
    low: float
    high: float

    @model_validator(mode="after")
    def _consistent(self) -> RuleResult:
        require_inside(self.difference, self.low, self.high)
        if self.satisfied != (self.low > 0):
            raise ValueError(f"satisfied is {self.satisfied}, but low is {self.low}; satisfied means low > 0")
        return self


class Rule(BaseModel):
    """The compatibility rule by metric."""

    model_config = STRICT
    r_at_1: RuleResult
    map_at_r: RuleResult


class Cost(BaseModel):
    """MACs for one image, or parameters, of the gallery and the query model; ``ratio`` = gallery / query."""

    model_config = STRICT
    gallery: PositiveCount
    query: PositiveCount
    ratio: float = Field(gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Cost:
        if not math.isclose(self.ratio, self.gallery / self.query, rel_tol=TOLERANCE):
            raise ValueError(f"ratio is {self.ratio}, but gallery / query is {self.gallery / self.query}")
        return self

    @classmethod
    def of(cls, gallery: int, query: int) -> Cost:
        """The cost of these two models with its ratio filled in."""
        return cls(gallery=gallery, query=query, ratio=gallery / query)


class Student(BaseModel):
    """One query model against the gallery model; a ``control`` was never told where the space lies."""

    model_config = STRICT
    name: str = Field(min_length=1)
    role: Literal["compatible", "control"]
    description: str = ""
    cells: Cells
    rule: Rule
    macs: Cost
    params: Cost
    recalls: dict[Cell, dict[Rank, Interval]] = {}
    rotated: Band | None = None
    mapped: Mapped | None = None

    @model_validator(mode="after")
    def _recalls_of_cells(self) -> Student:
        if self.recalls and set(self.recalls) != set(CELLS):
            raise ValueError(f"recalls are of the cells {sorted(self.recalls)}, not of all of {', '.join(CELLS)}")
        for cell, found in self.recalls.items():
            metrics: Metrics = getattr(self.cells, cell)
            if sorted(found) != list(self.recall_ranks):
                raise ValueError(f"recalls of {cell} are at {sorted(found)}, others at {list(self.recall_ranks)}")
            for rank, known in ((1, metrics.r_at_1), (5, metrics.r_at_5)):
                if rank in found and abs(found[rank].value - known.value) > TOLERANCE:
                    raise ValueError(f"recalls of {cell} at {rank}: {found[rank].value}, but r_at_{rank} {known.value}")
            at_rank = {1: metrics.r_at_1, 5: metrics.r_at_5, **found}
            values = [at_rank[rank].value for rank in sorted(at_rank)]
            if any(low > high + TOLERANCE for low, high in pairwise(values)):
                raise ValueError(f"R@k of {cell} falls with the rank: {values} at {sorted(at_rank)}")
        return self

    @property
    def recall_ranks(self) -> tuple[int, ...]:
        """The ranks k at which every cell has R@k, increasing; none without a preset."""
        return tuple(sorted(self.recalls.get("paragon", ())))

    @model_validator(mode="after")
    def _rule_from_cells(self) -> Student:
        for metric in RULE_METRICS:
            expected = getattr(self.cells.heterogeneous, metric).value - getattr(self.cells.homogeneous, metric).value
            got = getattr(self.rule, metric).difference
            if abs(got - expected) > TOLERANCE:
                raise ValueError(
                    f"rule.{metric}.difference of student {self.name!r} is {got}, but its cells differ by "
                    f"{expected} (heterogeneous - homogeneous)"
                )
        return self


class DataDescription(BaseModel):
    """What was searched: counts of the scored split, and the protocol in words."""

    model_config = STRICT
    name: str
    split: str
    preset: str | None = None
    images: PositiveCount
    classes: PositiveCount
    queries: PositiveCount
    queries_without_match: Annotated[int, Field(ge=0)] = 0
    unusable_images: Annotated[int, Field(ge=0)] = 0
    protocol: str
    train_images: PositiveCount | None = None
    train_classes: PositiveCount | None = None


class Run(BaseModel):
    """How the run was made; durations and speeds are by phase."""

    model_config = STRICT
    name: str = Field(min_length=1)
    command: FileText
    config: dict[str, JsonValue]
    config_sha256: Sha256
    hetero_version: str
    versions: dict[str, str]
    seed: int
    device: str
    threads: PositiveCount
    dataset: DataDescription
    durations_s: dict[str, Annotated[float, Field(ge=0)]]
    images_per_s: dict[str, Annotated[float, Field(ge=0)]]


class Baseline(BaseModel):
    """What needs no model: a reference below the cells."""

    model_config = STRICT
    description: str = ""
    r_at_1: Interval
    r_at_5: Interval | None = None
    map_at_r: Interval | None = None
    map: Interval | None = None
    mrr: Interval | None = None


class Baselines(BaseModel):
    """Raw pixels as embeddings, and chance: the expected score of a constant embedding."""

    model_config = STRICT
    raw_pixels: Baseline | None = None
    chance: Baseline | None = None


class Threshold(BaseModel):
    """A similarity threshold: set at a false accept rate on training classes, tested on test classes."""

    model_config = STRICT
    student: str
    cell: Cell = "heterogeneous"
    false_accept_rate: float = Field(gt=0, lt=1)
    similarity: Similarity
    impostor_pairs: PositiveCount
    true_accept_rate: Share
    measured_false_accept_rate: Share | None = None


class Histogram(BaseModel):
    """Counts of pair similarities; bin i is [edges[i], edges[i+1])."""

    model_config = STRICT
    student: str
    cell: Cell = "heterogeneous"
    edges: tuple[Similarity, ...] = Field(min_length=2)
    matching: tuple[Count, ...]
    non_matching: tuple[Count, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Histogram:
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must increase")
        bins = len(self.edges) - 1
        if len(self.matching) != bins or len(self.non_matching) != bins:
            raise ValueError(
                f"{bins} bins need {bins} counts, got {len(self.matching)} matching and "
                f"{len(self.non_matching)} non_matching"
            )
        return self


class Picture(BaseModel):
    """The query of an example."""

    model_config = STRICT
    id: FileText
    class_name: FileText
    image_png: PngBase64 | None = None


class Match(BaseModel):
    """One gallery image found for a query; ``correct`` where it is of the query's class."""

    model_config = STRICT
    id: FileText
    class_name: FileText
    similarity: Similarity
    correct: bool
    image_png: PngBase64 | None = None


class Example(BaseModel):
    """A query and its top matches, best first."""

    model_config = STRICT
    student: str
    query: Picture
    matches: tuple[Match, ...] = Field(min_length=1)


class CurvePoint(BaseModel):
    """One logged training step; ``terms`` are the loss's, ``student/term`` where students train jointly."""

    model_config = STRICT
    phase: str
    step: Count
    epoch: float = Field(ge=0)
    loss: float
    terms: dict[str, float] = {}
    images_per_s: float | None = Field(default=None, ge=0)


class Check(BaseModel):
    """A statement about the run that holds or not; where one does not, the command exits with 1."""

    model_config = STRICT
    name: str
    passed: bool
    value: float | str | None
    expected: str


class Report(BaseModel):
    """The whole of ``report.json``. ``hetero.report.assemble.make_report`` fills in
    the top-level copies.
    """

    model_config = STRICT
    schema_version: Literal[1] = Field(default=REPORT_SCHEMA, alias="schema")
    space_id: str = Field(min_length=1)
    run: Run
    students: tuple[Student, ...]
    cells: Cells
    rule: Rule
    macs: Cost
    baselines: Baselines = Baselines()
    thresholds: tuple[Threshold, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    examples: tuple[Example, ...] = ()
    curves: tuple[CurvePoint, ...] = ()
    checks: tuple[Check, ...] = ()
    matrix: Matrix | None = None
    tax: Tax | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Report:
        first = first_compatible(self.students)
        for key in ("cells", "rule", "macs"):
            if getattr(self, key) != getattr(first, key):
                raise ValueError(f"top-level {key} must equal {key} of {first.name!r}, the first compatible student")
        names = [student.name for student in self.students]
        if len(set(names)) != len(names):
            raise ValueError(f"two students have the same name ({', '.join(sorted(names))})")
        for student in self.students:
            _require_same_gallery_model(first, student)
        if self.matrix is not None and not set(self.matrix.models[1:]) <= set(names):
            raise ValueError(f"the matrix names models that are no students: {', '.join(self.matrix.models[1:])}")
        for key, parts in (
            ("thresholds", self.thresholds),
            ("histograms", self.histograms),
            ("examples", self.examples),
        ):
            for part in parts:
                if part.student not in names:
                    raise ValueError(f"{key} name the student {part.student!r}; the students are {', '.join(names)}")
        return self


def first_compatible(students: Iterable[Student]) -> Student:
    """The student that the top-level keys speak of; a ``ValueError`` where all are controls."""
    for student in students:
        if student.role == "compatible":
            return student
    raise ValueError("a report needs at least one student with role 'compatible'")


def json_schema() -> Mapping[str, Any]:
    """JSON Schema (draft 2020-12) of ``report.json``; it does not state the rules between keys."""
    return Report.model_json_schema(by_alias=True)


def _require_same_gallery_model(first: Student, other: Student) -> None:
    if (first.macs.gallery, first.params.gallery) != (other.macs.gallery, other.params.gallery):
        raise ValueError(f"students {first.name!r} and {other.name!r} name gallery models of different cost")
    if first.recalls.get("paragon") != other.recalls.get("paragon"):
        raise ValueError(f"students {first.name!r} and {other.name!r} disagree on the paragon's recalls")
    for metric in METRICS:
        one, two = getattr(first.cells.paragon, metric), getattr(other.cells.paragon, metric)
        if one is not None and two is not None and abs(one.value - two.value) > TOLERANCE:
            raise ValueError(
                f"students {first.name!r} and {other.name!r} disagree on the paragon's {metric}: "
                f"{one.value} and {two.value}"
            )
