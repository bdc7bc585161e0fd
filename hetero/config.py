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
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hetero.data.open import DataConfig
from hetero.errors import ConfigError
from hetero.models.arch import ArchSpec, require_same_family
from hetero.preprocess import PreprocessSpec
from hetero.record import validation_lines
from hetero.retrieval.presets import find_preset

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SoftmaxConfig(_Record):
    """Own cosine classifier, see :func:`hetero.losses.softmax.margin_softmax_loss`."""

    weight: float = Field(default=1.0, gt=0)
    scale: float = Field(default=16.0, gt=0)
    margin: float = Field(default=0.2, ge=0, lt=1)


class InfluenceConfig(SoftmaxConfig):
    """The gallery's frozen classifier, see :func:`hetero.losses.influence.influence_loss`."""


class AlignmentConfig(_Record):
    """Cosine alignment, see :func:`hetero.losses.alignment.alignment_loss`."""

    weight: float = Field(default=10.0, gt=0)


class CentroidConfig(_Record):
    """Centroid alignment, see :func:`hetero.losses.centroid.centroid_loss`; use it with the PK sampler."""

    weight: float = Field(default=10.0, gt=0)


class LossConfig(_Record):
    """The weighted terms of the heterogeneous compatibility loss; at least one."""

    softmax: SoftmaxConfig | None = None
    influence: InfluenceConfig | None = None
    alignment: AlignmentConfig | None = None
    centroid: CentroidConfig | None = None

    @model_validator(mode="after")
    def _some_term(self) -> LossConfig:
        if self.softmax is None and not self.uses_gallery:
            raise ValueError("a loss needs at least one of softmax, influence, alignment, centroid")
        return self

    @property
    def uses_gallery(self) -> bool:
        """Whether any term looks at the gallery model."""
        return any(term is not None for term in (self.influence, self.alignment, self.centroid))


class AugmentConfig(_Record):
    """Random changes of training pictures; each draws uniformly from ± its value.

    Attributes:
        rotate_deg: degrees. log_scale: natural logarithm of the scale, per axis. shear: tangent.
        translate: fraction of the side. flip: probability of a left-right flip.
        elastic: standard deviation of a smooth random bending at its control points, as a fraction of the side.
        brightness, noise: in units of the colour-normalised picture, 1 being one ``preprocess.std``.
        contrast: a factor of 1 ± this.
    """

    rotate_deg: float = Field(default=0.0, ge=0, le=180)
    log_scale: float = Field(default=0.0, ge=0, le=1)
    shear: float = Field(default=0.0, ge=0, le=1)
    translate: float = Field(default=0.0, ge=0, le=0.5)
    flip: float = Field(default=0.0, ge=0, le=1)
    elastic: float = Field(default=0.0, ge=0, le=0.25)
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.0, ge=0, le=1)

    @property
    def moves_pixels(self) -> bool:
        """Whether any change resamples the picture."""
        return any((self.rotate_deg, self.log_scale, self.shear, self.translate, self.flip, self.elastic))


class ShuffleConfig(_Record):
    """Every picture once an epoch, in random order."""

    kind: Literal["shuffle"] = "shuffle"


class PKConfig(_Record):
    """``images_per_class`` pictures of each of ``batch_size / images_per_class`` random classes."""

    kind: Literal["pk"] = "pk"
    images_per_class: int = Field(default=4, ge=2)


class TrainConfig(_Record):
    """How long and with what a phase (gallery model, or all students together) trains.

    Attributes:
        lr: peak learning rate. warmup_steps: linear warm-up, then cosine to 0.
        weight_decay: on weights of two or more dimensions only.
        ema_decay: decay per step of the exponential moving average that is kept as the result; null keeps the last.
        stranger_views: also align students to the gallery model on every picture turned or mirrored into a stranger,
            see :func:`hetero.training.augment.stranger_views`.
        view_epochs: students see newly augmented views for this many epochs, then the same ones again and again, and
            the gallery model embeds each view once: where its forward is what costs, the students learn longer. Its
            embeddings stay in the device's memory: 4 · dim bytes × images × view_epochs, twice that with
            stranger_views. Controls see the repeated views, too. Null, or not fewer than epochs: always new views.
        turned_classes: share of the gallery model's pictures that are turned or mirrored, each pose of a class being a
            class of its own, see :func:`hetero.training.augment.turned_classes`.
        save_every_steps: a state that survives ``kill -9`` is committed this often, and at the end of each epoch.
    """

    epochs: int = Field(ge=1, le=10_000)
    batch_size: int = Field(default=96, ge=2)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.06, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    warmup_steps: int = Field(default=200, ge=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    sampler: Annotated[ShuffleConfig | PKConfig, Field(discriminator="kind")] = ShuffleConfig()
    augment: AugmentConfig = AugmentConfig()
    save_every_steps: int | None = Field(default=None, ge=1)
    log_every_steps: int = Field(default=20, ge=1)
    mixed_precision: bool = True
    stranger_views: bool = False
    view_epochs: int | None = Field(default=None, ge=1)
    turned_classes: float = Field(default=0.0, ge=0, le=1)
    tensorboard: bool = False


class GalleryConfig(_Record):
    """The large model that defines the space."""

    arch: ArchSpec
    train: TrainConfig
    loss: LossConfig = LossConfig(softmax=SoftmaxConfig())

    @model_validator(mode="after")
    def _has_classifier(self) -> GalleryConfig:
        if self.loss.softmax is None or self.loss.uses_gallery:
            raise ValueError("gallery.loss: the gallery model trains with the softmax term alone")
        if self.train.stranger_views or self.train.view_epochs is not None:
            raise ValueError("gallery.train: stranger_views and view_epochs are for student_training")
        return self


class StudentConfig(_Record):
    """One query model. A ``control`` trains alone, with the softmax term: the negative control of the report."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    role: Literal["compatible", "control"] = "compatible"
    arch: ArchSpec
    loss: LossConfig

    @model_validator(mode="after")
    def _loss_fits_role(self) -> StudentConfig:
        if self.role == "control" and (self.loss.uses_gallery or self.loss.softmax is None):
            raise ValueError(f"students.{self.name}: a control trains with the softmax term alone")
        if self.role == "compatible" and not self.loss.uses_gallery:
            raise ValueError(f"students.{self.name}: a compatible student needs influence, alignment or centroid")
        return self


class ExpectConfig(_Record):
    """What must hold for every compatible student, beside the rule; ``hetero compat`` exits with 1 where it does not.

    Attributes:
        share_of_paragon: heterogeneous R@1 / paragon R@1, at least.
        macs_ratio: the gallery model's MACs / the student's, at least.
        paragon_r_at_1: at least.
        paragon_over_pixels: paragon R@1 − R@1 of raw pixels, at least.
        control_times_chance: R@1 of a control against the gallery / chance, at most.
    """

    share_of_paragon: float | None = Field(default=None, ge=0)
    macs_ratio: float | None = Field(default=None, ge=0)
    paragon_r_at_1: float | None = Field(default=None, ge=0, le=1)
    paragon_over_pixels: float | None = Field(default=None, ge=-1, le=1)
    control_times_chance: float | None = Field(default=3.0, ge=1)


class EvaluationConfig(_Record):
    """What ``hetero compat`` measures.

    Attributes:
        preset: the evaluation of a published data set, see :mod:`hetero.retrieval.presets`: sets the split, and R@k at
            the ranks of its paper is measured, too.
        split: whose classes. exclude_groups: whether images of one group never match each other.
        false_accept_rates: rates per (query, gallery) impostor pair at which thresholds are set on ``train``.
        resamples: of the bootstrap.
    """

    preset: str | None = None
    split: str = "test"
    exclude_groups: bool = True
    false_accept_rates: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (1e-3,)
    resamples: int = Field(default=2000, ge=100)
    expect: ExpectConfig = ExpectConfig()

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


class RunConfig(_Record):
    """One experiment: data, one gallery model, students, evaluation."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    data: Annotated[DataConfig, Field(discriminator="format")]
    preprocess: PreprocessSpec
    gallery: GalleryConfig
    students: tuple[StudentConfig, ...] = ()
    student_training: TrainConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        spec, arch = self.preprocess, self.gallery.arch
        if (spec.height, spec.width, spec.channels) != (arch.size, arch.size, arch.channels):
            raise ValueError(
                f"preprocess makes {spec.height}×{spec.width}×{spec.channels} pictures but gallery.arch takes "
                f"{arch.size}×{arch.size}×{arch.channels}"
            )
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
        if self.students and self.student_training is None:
            raise ValueError("student_training is missing: the students need epochs, lr and so on")
        if self.student_training is not None and self.student_training.turned_classes:
            raise ValueError("student_training: turned_classes is for gallery.train; stranger_views is its like here")
        for student in self.students:
            if student.loss.centroid and self.student_training and self.student_training.sampler.kind != "pk":
                raise ValueError(
                    f"students.{student.name}.loss: centroid needs several pictures of a class in a batch: set "
                    "student_training.sampler to {kind: pk, images_per_class: 4}"
                )
        for student in self.students:
            try:
                require_same_family(student.arch, arch, name=student.name)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return self

    def to_yaml(self) -> str:
        """YAML that :func:`parse_config` reads back to an equal config."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)

    def digest(self) -> str:
        """SHA-256 of the JSON without ``evaluation`` and ``device``: the same digest trains the same models."""
        return hashlib.sha256(self.model_dump_json(exclude={"evaluation", "device"}).encode("utf-8")).hexdigest()


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
    tree = config.model_dump(mode="json", exclude_none=True)  # so that data.format may change, too
    for override in overrides:
        _apply(tree, override)
    return _validated(tree, "the config with --set")


def _validated(tree: dict[str, Any], source: str) -> RunConfig:
    try:
        return RunConfig.model_validate(_expand(tree))
    except ValidationError as error:
        raise ConfigError(
            f"{source} cannot be used", got=validation_lines(error), fix="correct the keys named; see docs/config.md"
        ) from error


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
