"""Run configs: YAML in, frozen pydantic records out; a typo fails, and ``${NAME}`` means an environment variable."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from hetero.data.open import DataConfig
from hetero.errors import ConfigError
from hetero.losses.config import FREE, PLACING, LossConfig, SoftmaxConfig
from hetero.models.arch import ArchSpec, require_fitting
from hetero.models.cost import cost
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.config import EvaluationConfig
from hetero.retrieval.presets import find_preset
from hetero.training.config import (
    FrozenConfig,
    GalleryTrainConfig,
    OptimizerConfig,
    StudentTrainConfig,
    TogetherConfig,
    TunedConfig,
)
from hetero.validation import Section, validation_lines

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class GalleryConfig(Section):
    """The large model that defines the space: trained here, or a finished one.

    Attributes:
        checkpoint: directory of a gallery model that was trained before; it is copied into the run.
        arch, train: of a gallery model to be trained.
    """

    checkpoint: Path | None = None
    arch: ArchSpec | None = None
    train: GalleryTrainConfig | None = None
    loss: LossConfig = LossConfig(softmax=SoftmaxConfig())

    @model_validator(mode="after")
    def _has_classifier(self) -> GalleryConfig:
        if self.loss.terms != ("softmax",):
            raise ValueError("gallery.loss: the gallery model trains with the softmax term alone")
        if self.checkpoint is not None and (self.arch is not None or self.train is not None):
            raise ValueError("gallery: a checkpoint has its architecture and training behind it: remove arch and train")
        if self.checkpoint is None and (self.arch is None or self.train is None):
            raise ValueError("gallery: arch and train are missing, or the checkpoint of a finished gallery model")
        return self


class BudgetConfig(Section):
    """What one picture may cost a student; a student that costs more is refused before anything is trained."""

    macs: int | None = Field(default=None, ge=1)
    params: int | None = Field(default=None, ge=1)


class StudentConfig(Section):
    """One query model. A ``control`` never learns where the gallery model's space lies: the report's negative control.

    Attributes:
        matched: whether it must be of the gallery model's family; without, only channels, dim and a size that is not
            larger must agree.
        train: what differs from ``student_training`` for this student.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    role: Literal["compatible", "control"] = "compatible"
    arch: ArchSpec
    loss: LossConfig
    matched: bool = True
    budget: BudgetConfig = BudgetConfig()
    train: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _loss_fits_role(self) -> StudentConfig:
        if self.role == "control" and self.loss.places:
            raise ValueError(f"students.{self.name}: a control trains with {', '.join(FREE)} alone")
        if self.role == "compatible" and not self.loss.places:
            raise ValueError(f"students.{self.name}: a compatible student needs one of {', '.join(PLACING)}")
        found = cost(self.arch)
        for key, limit, value in (
            ("MACs", self.budget.macs, found.macs),
            ("parameters", self.budget.params, found.params),
        ):
            if limit is not None and value > limit:
                raise ValueError(f"students.{self.name}: {value:,} {key} are over its budget of {limit:,}")
        return self


class RunConfig(Section):
    """One experiment: data, one gallery model, students, evaluation.

    Attributes:
        joint: how gallery model and students come together: ``frozen``, ``together`` or ``tuned``.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: Annotated[DataConfig, Field(discriminator="format")]
    preprocess: PreprocessSpec
    gallery: GalleryConfig
    students: tuple[StudentConfig, ...] = ()
    student_training: StudentTrainConfig | None = None
    joint: Annotated[FrozenConfig | TogetherConfig | TunedConfig, Field(discriminator="kind")] = FrozenConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.evaluation.preset is not None:
            preset = find_preset(self.evaluation.preset)
            if self.data.format != preset.data_format:
                raise ValueError(
                    f"evaluation.preset {preset.name} belongs to data of format {preset.data_format}, not "
                    f"{self.data.format}: remove it, or correct data.format"
                )
        names = [student.name for student in self.students]
        if len(set(names)) != len(names):
            raise ValueError("students: two have the same name")
        for taken in {"gallery", "paragon"} & set(names):
            raise ValueError(f"students: the name {taken} is the gallery model's")
        if self.students and self.student_training is None:
            raise ValueError("student_training is missing: the students need epochs, lr and so on")
        for student in self.students:
            _require_trainable(student, self.student_training)
        if isinstance(self.joint, TogetherConfig):
            _require_together(self)
        if isinstance(self.joint, TunedConfig) and not any(s.role == "compatible" for s in self.students):
            raise ValueError("joint: tuned draws the gallery model towards compatible students, and there are none")
        try:
            if self.gallery.arch is not None:
                self.require_fitting(self.gallery.arch)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def require_fitting(self, gallery: ArchSpec) -> None:
        """Refuse a gallery model that takes other pictures than ``preprocess`` makes, or students that do not fit it.

        Raises:
            ConfigError: naming what differs.
        """
        spec = self.preprocess
        if (spec.height, spec.width, spec.channels) != (gallery.size, gallery.size, gallery.channels):
            raise ConfigError(
                "preprocess makes other pictures than gallery.arch takes",
                got=f"{spec.height}×{spec.width}×{spec.channels}",
                expected=f"{gallery.size}×{gallery.size}×{gallery.channels} (height, width, channels)",
                fix="correct preprocess, or size and channels of gallery.arch",
            )
        for student in self.students:
            require_fitting(student.arch, gallery, name=student.name, matched=student.matched)

    def preprocess_of(self, arch: ArchSpec) -> PreprocessSpec:
        """How a picture becomes the input of a student: as of the gallery model, at the student's own size."""
        return self.preprocess.model_copy(update={"height": arch.size, "width": arch.size})

    def tree(self) -> dict[str, Any]:
        """Plain values that validate to an equal config, without the keys that are null by default."""
        tree: dict[str, Any] = _told(self, self.model_dump(mode="json"))
        return tree

    def to_yaml(self) -> str:
        """YAML that :func:`parse_config` reads back to an equal config."""
        return yaml.safe_dump(self.tree(), sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """SHA-256 of the JSON without ``evaluation`` and ``device``: the same digest trains the same models."""
        return hashlib.sha256(self.model_dump_json(exclude={"evaluation", "device"}).encode("utf-8")).hexdigest()


def _told(value: Any, dumped: Any) -> Any:
    """A null that switches off what is on by default has to be told; others need not."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            key: _told(getattr(value, key), item)
            for key, item in dumped.items()
            if item is not None or fields[key].default is not None
        }
    if isinstance(value, tuple):
        return [_told(one, item) for one, item in zip(value, dumped, strict=True)]
    return dumped


def _require_trainable(student: StudentConfig, train: StudentTrainConfig | None) -> None:
    if train is None:
        return
    if student.loss.centroid and train.sampler.kind != "pk":
        raise ValueError(
            f"students.{student.name}.loss: centroid needs several pictures of a class in a batch: set "
            "student_training.sampler to {kind: pk, images_per_class: 4}"
        )
    structure, dim = student.loss.structure, student.arch.dim
    if structure is not None and dim % structure.parts:
        raise ValueError(
            f"students.{student.name}.loss.structure: {structure.parts} parts do not divide the dimension {dim}"
        )
    if student.train.epochs is not None and student.train.epochs > train.epochs:
        raise ValueError(
            f"students.{student.name}.train: {student.train.epochs} epochs are more than the "
            f"{train.epochs} of student_training"
        )


def _require_together(config: RunConfig) -> None:
    """Together there is one stream of batches, and nothing of the gallery model is known beforehand."""
    gallery, students = config.gallery.train, config.student_training
    if gallery is None or students is None or not config.students:
        raise ValueError(
            "joint: together trains gallery model and students from fresh weights: it needs gallery.arch, "
            "gallery.train and students"
        )
    for key in ("epochs", "batch_size", "sampler", "augment", "log_every_steps", "save_every_steps", "tensorboard"):
        if getattr(gallery, key) != getattr(students, key):
            raise ValueError(
                f"joint: together has one stream of batches: gallery.train.{key} must equal student_training.{key}"
            )
    if students.cache != "memory" or students.gallery_precision != "auto":
        raise ValueError("joint: together has no frozen gallery model: no cache and no gallery_precision")
    if students.view_epochs is not None:
        raise ValueError("joint: together cannot remember embeddings of a gallery model that changes: no view_epochs")
    for student in config.students:
        loss = student.loss
        if loss.needs_centres or loss.needs_classifier or loss.bank_size:
            raise ValueError(
                f"students.{student.name}.loss: together there is no finished gallery model to take centres, a bank or "
                "a classifier from: use alignment, centroid, contrastive, triplet, relational or candidates: batch"
            )


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML run config, apply ``key.path=value`` overrides, expand ``${NAME}`` and validate.

    Raises:
        ConfigError: missing file, bad YAML, unknown key, unset variable or invalid value, each named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the config {path}",
            got=getattr(error, "strerror", None) or error,
            fix="name a YAML file such as examples/omniglot.yaml",
        ) from None
    return parse_config(text, overrides, source=str(path))


def parse_config(text: str, overrides: Sequence[str] = (), *, source: str = "config") -> RunConfig:
    """As :func:`load_config`, from YAML text; ``source`` names it in messages."""
    try:
        _require_unique_keys(yaml.compose(text, Loader=yaml.SafeLoader), set())
        tree = yaml.safe_load(text)
        json.dumps(tree, default=str)  # an alias to itself would never end
        tree = _unshared(tree)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # a thirteenth month, a circular alias, a date as key
        raise ConfigError(f"{source} is no valid YAML", got=" ".join(str(error).split())) from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{source} is no mapping", got=type(tree).__name__, expected="key: value lines")
    for override in overrides:
        _apply(tree, override)
    return _validated(tree, source)


def with_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The config with ``key.path=value`` overrides applied; errors as :func:`load_config`."""
    if not overrides:
        return config
    tree = config.tree()  # so that data.format may change, too
    for override in overrides:
        _apply(tree, override)
    return _validated(tree, "the config with --set")


def _validated(tree: dict[str, Any], source: str) -> RunConfig:
    try:
        return RunConfig.model_validate(_expand(tree))
    except ValidationError as error:
        raise ConfigError(
            f"{source} cannot be used",
            got=validation_lines(error, RunConfig),
            fix="correct the keys named; see docs/config.md",
        ) from error


def _require_unique_keys(node: yaml.Node | None, seen: set[int]) -> None:
    """A key twice in one mapping is a slip, not two wishes of which the last counts; merged ones may be replaced."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"line {node.start_mark.line + 1}: a section with {', '.join(twice)} twice")
        for _, value in node.value:
            _require_unique_keys(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _require_unique_keys(value, seen)


def _unshared(value: Any) -> Any:
    """The same tree with every YAML alias a copy of its own, so that overriding one place changes one place."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError("an override has no '='", got=repr(override), expected="--set key.path=value")
    node: Any = tree
    *parents, last = key.split(".")
    for part in parents:
        node = _child(node, part, key)
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        parsed = value
    if isinstance(node, list):
        node[_position(node, last, key)] = parsed
    else:
        node[last] = parsed


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, key)]
    child = node.setdefault(part, {})
    if not isinstance(child, (dict, list)):
        raise ConfigError(f"--set {key}: {part!r} holds a value, not further keys", got=repr(child))
    return child


def _position(node: list[Any], part: str, key: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise ConfigError(f"--set {key}: no such list entry", got=repr(part), expected=f"a number 0..{len(node) - 1}")
    return int(part)


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(
                f"the config names ${{{name}}}, which is not set in the environment",
                got=repr(value),
                fix=f"export {name}=… (the folder that the config's paths start from)",
            )
        return os.environ[name]

    return _VARIABLE.sub(variable, value)
