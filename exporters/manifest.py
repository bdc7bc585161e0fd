"""``manifest.json`` of a bundle: its records, and reading them from bytes that nobody vouches for.

Specified in docs/bundle-spec.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from exporters.recipes import RECIPES, RUNTIMES, Format, Precision
from hetero.errors import BundleError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.verification import Threshold
from hetero.space import EmbeddingSpace

BUNDLE_SCHEMA = 2
MANIFEST, SEAL = "manifest.json", "bundle.sha256"
MAX_FILE_BYTES = (1 << 31) - 1  # the limit of a protobuf message, so of a one-file ONNX model
COPY_AGAIN = "copy the bundle again, or export it again"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MAX_PATH_CHARS = 200


def _safe_path(path: str) -> str:
    """Accept a relative POSIX path that means the same inside the bundle on every file system."""
    if len(path) > _MAX_PATH_CHARS or not all(PLAIN_NAME.fullmatch(part) for part in path.split("/")):
        raise ValueError("must be a relative path of plain names joined by '/', inside the bundle")
    return path


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SafePath = Annotated[str, AfterValidator(_safe_path)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]


class FileEntry(_Record):
    """One file by its path in the bundle, hash and size."""

    path: SafePath
    sha256: Sha256
    size_bytes: int = Field(gt=0, le=MAX_FILE_BYTES)


class Tool(_Record):
    """A program and its version."""

    name: str
    version: str


class Parity(_Record):
    """How far embeddings lie from others of the same pixels.

    ``max_abs`` is the largest difference of two components; the cosines are per picture. ``self_r_at_1`` is the share
    of the pictures to whose embedding none of the others is nearer than their own: where all pictures have much the
    same embedding, cosines say little, and a file that gives one embedding for everything still has a high one.
    """

    max_abs: float = Field(ge=0)
    min_cosine: float
    mean_cosine: float
    self_r_at_1: float = Field(ge=0, le=1)
    images: int = Field(gt=0)


RungName = Literal["tensor", "cosine", "retrieval", "flips", "thresholds"]
RUNGS: tuple[RungName, ...] = ("tensor", "cosine", "retrieval", "flips", "thresholds")
RUNG_OF: dict[str, RungName] = {
    "max_abs": "tensor",
    "min_cosine": "cosine",
    "mean_cosine": "cosine",
    "self_r_at_1": "cosine",
    "r_at_1": "retrieval",
    "r_at_1_delta": "retrieval",
    "r_at_1_low": "retrieval",
    "r_at_1_high": "retrieval",
    "map_at_r": "retrieval",
    "map_at_r_delta": "retrieval",
    "map_at_r_low": "retrieval",
    "map_at_r_high": "retrieval",
    "lost": "flips",
    "won": "flips",
    "true_accept_delta": "thresholds",
    "false_accept_ratio": "thresholds",
}
"""Every number of the ladder, and the rung that it belongs to."""
BOUNDED_ABOVE = frozenset({"max_abs", "lost", "false_accept_ratio"})
"""The numbers of which less is better: their limits bound them from above, those of all others from below."""


def _number(name: str) -> str:
    if name not in RUNG_OF:
        raise ValueError(f"is none of {', '.join(RUNG_OF)}")
    return name


Number = Annotated[str, AfterValidator(_number)]


Status = Literal["passed", "undecided", "no limit", "failed", "allowed", "not measured"]


class Rung(_Record):
    """One step of the parity ladder: what was measured against the torch model, and the limits it was held to.

    Limits of :data:`BOUNDED_ABOVE` bound the measured value of that name from above, others from below. A rung without
    limits only informs. One that breaks a limit is ``failed``, or ``allowed`` where whoever exported it said so; one
    that keeps them is ``undecided`` where a 95 % interval reaches beyond: too few queries to tell.
    """

    rung: RungName
    status: Status
    measured: dict[Number, float]
    limits: dict[Number, float]

    @model_validator(mode="after")
    def _follows(self) -> Rung:
        if any(RUNG_OF[name] != self.rung for name in (*self.measured, *self.limits)):
            raise ValueError(f"the rung {self.rung} has another rung's numbers")
        if self.limits.keys() - self.measured.keys():
            raise ValueError(f"the rung {self.rung} has a limit on what was not measured")
        status = status_of(self.measured, self.limits)
        if self.status != status and (self.status, status) != ("allowed", "failed"):
            raise ValueError(f"the rung {self.rung} is {self.status}, and by its numbers {status}")
        return self


def status_of(measured: Mapping[str, float], limits: Mapping[str, float]) -> Status:
    """What a rung's numbers say of it."""
    if not measured:
        return "not measured"
    if exceeded(measured, limits):
        return "failed"
    if not limits:
        return "no limit"
    low = {name: measured.get(name.replace("_delta", "_low"), math.inf) for name in limits if name.endswith("_delta")}
    return "undecided" if any(low[name] < limits[name] for name in low) else "passed"


def exceeded(measured: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """The names of the limits that measured numbers break, those of ``BOUNDED_ABOVE`` from above, others from below.

    A limit on what was not measured is not broken.
    """
    over = []
    for name, limit in limits.items():
        if name in measured:
            value = measured[name]
            if value > limit if name in BOUNDED_ABOVE else value < limit:
                over.append(name)
    return over


class RuntimeResult(_Record):
    """What one runtime made of a file when it was exported; ``right``: the file may be used with it.

    ``parity`` is against the torch model, None where the runtime did not answer; ``reason`` says why it is not right.
    """

    name: Literal["onnxruntime", "ai-edge-litert", "tensorflow", "tflite-runtime", "coreml", "mil-reference"]
    version: str
    right: bool
    parity: Parity | None
    reason: str | None


class FileInput(_Record):
    """How a file wants the picture's bytes: as they are (``uint8``), as numbers 0..255, or less 128 (``int8``).

    ``image``: as a picture of the platform's, such as a pixel buffer, RGB or grayscale.
    """

    dtype: Literal["uint8", "float32", "int8", "image"]
    layout: Literal["NHWC", "NCHW"]
    batch: Literal["free", "one"]


class FileOutput(_Record):
    """How a file gives the embedding: as it is, or as int8 to be brought back by ``scale · (q − zero_point)``.

    Eight bits do not hold a length of exactly 1: normalise what was brought back.
    """

    dtype: Literal["float32", "int8"] = "float32"
    scale: float | None = None
    zero_point: int | None = None

    @model_validator(mode="after")
    def _scaled(self) -> FileOutput:
        scaled = self.scale is not None and self.scale > 0 and self.zero_point is not None
        if scaled != (self.dtype == "int8") or (self.scale is None) != (self.zero_point is None):
            raise ValueError("an int8 output has a scale and a zero point, and no other has")
        return self


class LayerError(_Record):
    """How far the embedding moves when this layer alone is quantised: cosines to the float embedding.

    ``weights`` is how many numbers the layer holds, ``module`` which part of the network it came from.
    """

    name: str
    kind: str
    module: str
    weights: int = Field(ge=0)
    min_cosine: float
    mean_cosine: float


class Content(_Record):
    """What a file is made of: ``weight_bytes`` by type, and how many of its ``layers`` compute in int8.

    Layers are convolutions and products with a matrix.
    """

    weight_bytes: dict[str, int]
    layers: int = Field(ge=0)
    int8_layers: int = Field(ge=0)


class FileGolden(FileEntry):
    """The embeddings that this very file gives for the golden pixels, and how far another right runtime may be off."""

    max_abs: float = Field(gt=0)


class ModelFile(FileEntry):
    """One exported model; ``attempts``: the first of so many files, with other layers in float, that passed."""

    format: Format
    precision: Precision
    recipe: str
    opset: int | None
    ops: dict[str, int]
    content: Content
    kept_float: tuple[str, ...]
    fine_tuned: bool
    attempts: int = Field(gt=0)
    layers: tuple[LayerError, ...]
    input: FileInput
    output: FileOutput
    ladder: tuple[Rung, ...]
    similarities: Similarities | None
    runtimes: tuple[RuntimeResult, ...] = Field(min_length=1)
    golden: FileGolden

    @model_validator(mode="after")
    def _is_a_recipe(self) -> ModelFile:
        recipe = next((one for one in RECIPES if (one.format, one.precision) == (self.format, self.precision)), None)
        if recipe is None or recipe.name != self.recipe:
            raise ValueError(f"there is no {self.format} file of precision {self.precision} and recipe {self.recipe}")
        if not self.path.endswith(recipe.path[recipe.path.rindex("/model.") + len("/model." + recipe.precision) :]):
            raise ValueError(f"the path of a {self.format} file does not end as {recipe.path} does")
        if tuple(rung.rung for rung in self.ladder) != RUNGS:
            raise ValueError(f"the ladder is not {', '.join(RUNGS)}")
        for rung in self.ladder:
            if rung.status == "failed":
                raise ValueError(f"the rung {rung.rung} failed and was not allowed")
            if rung.status == "not measured":
                if rung.rung in ("tensor", "cosine"):
                    raise ValueError(f"the rung {rung.rung} was not measured")
                continue
            wanted = {name: limit for name, limit in recipe.limits.items() if RUNG_OF[name] == rung.rung}
            # A limit is looser if it breaks the recipe's: one file's own numbers cannot vouch for it.
            if wanted.keys() - rung.limits.keys() or exceeded(rung.limits, wanted):
                raise ValueError(f"the rung {rung.rung} has looser limits than the recipe {recipe.name}")
        if self.golden.max_abs > recipe.golden_max_abs:
            raise ValueError(f"its runtimes may differ by more than the recipe's {recipe.golden_max_abs:g}")
        if any(result.name not in RUNTIMES[self.format] for result in self.runtimes):
            raise ValueError(f"a runtime is none of {', '.join(RUNTIMES[self.format])}")
        if not any(result.right for result in self.runtimes):
            raise ValueError("no runtime computes the file rightly")
        if (self.opset is None) == (self.format == "onnx"):
            raise ValueError("an ONNX file has an opset, and no other has")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Every limit that the ladder holds the file to: those it may break are left out."""
        return {name: limit for rung in self.ladder if rung.status != "allowed" for name, limit in rung.limits.items()}

    def measured(self, name: Number) -> float:
        """A number of the ladder; NaN where it was not measured."""
        return next((rung.measured[name] for rung in self.ladder if name in rung.measured), math.nan)


class InputSpec(_Record):
    """What the graph takes: ``uint8 [batch, height, width, channels]``, decoded and resized, nothing more."""

    name: Literal["image"] = "image"
    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["uint8"] = "uint8"
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    channels: Literal[1, 3]

    @property
    def shape(self) -> tuple[int, int, int]:
        """One picture's shape, ``(height, width, channels)``."""
        return self.height, self.width, self.channels


class OutputSpec(_Record):
    """What the graph returns: ``float32 [batch, dim]``, rows of unit length."""

    name: Literal["embedding"] = "embedding"
    dtype: Literal["float32"] = "float32"
    dim: int = Field(gt=0)
    normalised: Literal[True] = True


class Model(_Record):
    """Which weights the files were made from; ``arch`` is the ArchSpec's JSON, None for a foreign network."""

    weights_sha256: Sha256
    arch: dict[str, JsonValue] | None


class Golden(_Record):
    """Pictures with the bytes and embeddings they must give; ``source`` says where the pictures come from."""

    source: str
    images: tuple[FileEntry, ...] = Field(min_length=2)
    pixels: FileEntry
    embeddings: FileEntry


class CalibrationRecord(_Record):
    """Which pictures int8 files were calibrated on: how many, how many were held back to measure on, and their hash.

    ``sha256`` is of the calibration pixels' bytes followed by the held-back ones'.
    """

    pictures: int = Field(gt=0)
    held_back: int = Field(ge=0)
    sha256: Sha256


class Similarities(_Record):
    """How many (query, gallery) pairs of the retrieval test have which cosine similarity.

    Bins of equal width from -1 to 1; ``matching`` counts pairs of one class, ``non_matching`` of two.
    """

    matching: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    non_matching: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _same_bins(self) -> Similarities:
        if len(self.matching) != len(self.non_matching):
            raise ValueError("matching and non-matching pairs are counted in different bins")
        return self


class RetrievalRecord(_Record):
    """In which test the files were searched with, and how good the torch model is in it."""

    data: str
    queries: int = Field(gt=0)
    gallery: int = Field(gt=0)
    torch_r_at_1: float = Field(ge=0, le=1)
    torch_map_at_r: float = Field(ge=0, le=1)
    torch_similarities: Similarities


class Blocked(_Record):
    """A file that was asked for and left out: the ladder it fell from, and which layers lose most.

    ``kept_float``: the layers that were in float in the last try, which did not save it.
    """

    format: Format
    precision: Precision
    recipe: str
    reason: str
    attempts: int = Field(gt=0)
    ladder: tuple[Rung, ...]
    layers: tuple[LayerError, ...]
    kept_float: tuple[str, ...]

    @model_validator(mode="after")
    def _climbed(self) -> Blocked:
        if tuple(rung.rung for rung in self.ladder) != RUNGS:
            raise ValueError(f"the ladder is not {', '.join(RUNGS)}")
        return self


class Provenance(_Record):
    """How the bundle was made. Deliberately without a clock, so that equal inputs give equal bundles."""

    created_by: str
    hetero_version: str
    tools: tuple[Tool, ...]


class Manifest(_Record):
    """``manifest.json``: everything a bundle says about itself."""

    schema_version: Literal[2] = 2
    name: Name
    licence: str = Field(min_length=1)
    space: EmbeddingSpace
    model: Model
    input: InputSpec
    output: OutputSpec
    preprocess: PreprocessSpec
    files: tuple[ModelFile, ...] = Field(min_length=1)
    thresholds: tuple[Threshold, ...]
    golden: Golden
    calibration: CalibrationRecord | None
    retrieval: RetrievalRecord | None
    blocked: tuple[Blocked, ...]
    documents: tuple[FileEntry, ...]
    provenance: Provenance

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        spec = self.preprocess
        if self.input.shape != (spec.height, spec.width, spec.channels):
            raise ValueError("input and preprocess name different picture sizes")
        if self.output.dim != self.space.dim:
            raise ValueError(f"output dim {self.output.dim} is not the space's dim {self.space.dim}")
        seen = {MANIFEST, SEAL}
        for entry in self.entries():
            key = entry.path.casefold()  # one file on a phone's or a Mac's file system
            if key in seen:
                raise ValueError(f"the path {entry.path!r} is listed twice or reserved")
            seen.add(key)
        kinds = [(file.format, file.precision) for file in self.files]
        if len(set(kinds)) != len(kinds):
            raise ValueError("two files have the same format and precision")
        return self

    def entries(self) -> Iterator[FileEntry]:
        """Every file of the bundle but ``manifest.json`` and ``bundle.sha256``."""
        yield from self.files
        yield from (file.golden for file in self.files)
        yield from self.golden.images
        yield self.golden.pixels
        yield self.golden.embeddings
        yield from self.documents


def parse_manifest(raw: bytes, *, where: str = MANIFEST) -> Manifest:
    """Read a manifest from its bytes.

    Raises:
        BundleError: not UTF-8 JSON, a key twice, NaN, another schema version, unknown, missing or wrong keys.
    """
    try:
        content = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique_keys,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BundleError(f"{where} is not valid JSON", got=ascii(str(error)), fix=COPY_AGAIN) from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version != BUNDLE_SCHEMA:
        raise BundleError(
            f"{where} has an unknown schema",
            got=f"schema_version {ascii(version)[:80]}",
            expected=f"schema_version {BUNDLE_SCHEMA}",
            fix="use a hetero release that knows this schema, or export again with this one",
        )
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise BundleError(f"{where} does not fit the schema", got=_lines(error), fix=COPY_AGAIN) from error
    plain = manifest.model_dump(mode="json")
    if plain != content:  # a default left out, a number as text: other languages' readers would differ
        raise BundleError(
            f"{where} leaves keys out or writes values in another form",
            got=", ".join(key for key in plain if plain[key] != content.get(key)),
            expected="every key of the schema, numbers as numbers",
            fix=COPY_AGAIN,
        )
    return manifest


def entry_of(path: str, data: bytes) -> FileEntry:
    """The manifest's entry for a file with this content."""
    return FileEntry(path=path, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object names a key twice")
    return content


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not a finite number")
    return value


def _lines(error: ValidationError) -> str:
    found = [f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}" for item in error.errors()]
    return ascii("; ".join(found[:5]))
