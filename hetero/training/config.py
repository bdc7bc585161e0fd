"""The training sections of a config: how long, with what, on which views. No torch is needed to read one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hetero.validation import Section

Precision = Literal["auto", "float32", "bfloat16"]


class AugmentConfig(Section):
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


class ShuffleConfig(Section):
    """Every picture once an epoch, in random order."""

    kind: Literal["shuffle"] = "shuffle"


class PKConfig(Section):
    """``images_per_class`` pictures of each of ``batch_size / images_per_class`` random classes."""

    kind: Literal["pk"] = "pk"
    images_per_class: int = Field(default=4, ge=2)


class OptimizerConfig(Section):
    """What of the training a student may have of its own; what is not given, or null, is as in ``student_training``.

    Attributes:
        epochs: at most as many as there are; the schedule ends with them, and the others train on.
    """

    epochs: int | None = Field(default=None, ge=1, le=10_000)
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = Field(default=None, gt=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    weight_decay: float | None = Field(default=None, ge=0)
    warmup_steps: int | None = Field(default=None, ge=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)


class TrainConfig(Section):
    """How long and with what a phase trains.

    Attributes:
        lr: peak learning rate. warmup_steps: linear warm-up, then cosine to 0.
        weight_decay: on weights of two or more dimensions only.
        ema_decay: decay per step of the exponential moving average that is kept as the result; null keeps the last.
        save_every_steps: a state that survives ``kill -9`` is committed this often, and at the end of each epoch.
        precision: of the networks' arithmetic, losses and weights staying float32. ``auto``: bfloat16 on a GPU that has
            it, else float32; ``bfloat16``: on a CPU, too (faster for large dense networks where the CPU has
            instructions for it, slower for small ones and everywhere else).
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
    precision: Precision = "auto"
    tensorboard: bool = False

    @model_validator(mode="after")
    def _whole_classes(self) -> TrainConfig:
        if self.sampler.kind == "pk" and self.batch_size % self.sampler.images_per_class:
            raise ValueError(
                f"batch_size: {self.batch_size} pictures are no whole number of classes of sampler.images_per_class, "
                f"{self.sampler.images_per_class}: change either"
            )
        return self

    def of_student(self, own: OptimizerConfig) -> TrainConfig:
        """The same with a student's own values."""
        return self.model_copy(update=own.model_dump(exclude_none=True))


class GalleryTrainConfig(TrainConfig):
    """Training of the gallery model.

    Attributes:
        turned_classes: share of the pictures that are turned or mirrored, each pose of a class being a class of its
            own, see :func:`hetero.training.augment.turned_classes`. With ``augment.flip`` a pose and its mirror image
            hold the same pictures under two labels.
    """

    turned_classes: float = Field(default=0.0, ge=0, lt=1)


class UnlabelledConfig(Section):
    """Pictures that nobody sorted: students learn to embed them as the gallery model does.

    Attributes:
        path: a folder; pictures in it at any depth. per_batch: how many join each batch.
    """

    path: Path
    per_batch: int = Field(default=32, ge=1)


class StudentTrainConfig(TrainConfig):
    """Training of all students together.

    Attributes:
        stranger_views: also align students to the gallery model on every picture turned or mirrored into a stranger,
            see :func:`hetero.training.augment.stranger_views`.
        view_epochs: students see newly augmented views for this many epochs, then the same ones again and again, and
            the gallery model embeds each view once: where its forward is what costs, the students learn longer.
            Controls see the repeated views, too. Null, or not fewer than epochs: always new views.
        cache: where the embeddings of repeated views are kept: 4 · dim bytes × images × view_epochs, twice that with
            stranger_views; ``memory`` of the device, or ``disk``, in the run directory, where a resumed run finds them.
        gallery_precision: arithmetic of the frozen gallery model's forward, as ``precision``.
        unlabelled: more pictures for the terms that need no labels.
    """

    stranger_views: bool = False
    view_epochs: int | None = Field(default=None, ge=1)
    cache: Literal["memory", "disk"] = "memory"
    gallery_precision: Precision = "auto"
    unlabelled: UnlabelledConfig | None = None

    @model_validator(mode="after")
    def _something_to_keep(self) -> StudentTrainConfig:
        if self.cache == "disk" and (self.view_epochs is None or self.view_epochs >= self.epochs):
            raise ValueError(
                "cache: disk keeps embeddings of views that come again: set view_epochs below epochs, or remove cache"
            )
        return self


class FrozenConfig(Section):
    """The gallery model is finished first and stays as it is."""

    kind: Literal["frozen"] = "frozen"


class TogetherConfig(Section):
    """Gallery model and students train together from the start, on the gallery model's batches.

    Attributes:
        pull: weight of drawing the gallery model towards its students beside its own loss. At 0 only its batch
            statistics notice them, where stranger_views or unlabelled pictures join the batch.
    """

    kind: Literal["together"]
    pull: float = Field(default=0.0, ge=0)


class TunedConfig(Section):
    """The finished gallery model is tuned a little towards what its students can express; then it is frozen.

    Attributes:
        epochs: of ``student_training``'s batches. lr: the gallery model's peak learning rate.
        pull: weight of drawing it towards its students, its own loss being kept.
    """

    kind: Literal["tuned"]
    epochs: int = Field(default=2, ge=1)
    lr: float = Field(default=0.005, gt=0)
    pull: float = Field(default=1.0, gt=0)
