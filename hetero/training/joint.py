"""A gallery model and its students in one loop: together from the start, or tuned a little towards its students."""

from __future__ import annotations

from pathlib import Path

import torch

from hetero.config import RunConfig, StudentConfig
from hetero.data.dataset import Dataset
from hetero.errors import CheckpointError, ConfigError
from hetero.logs import Progress
from hetero.losses.config import AlignmentConfig, LossConfig
from hetero.models.checkpoint import LoadedModel, copy_model, load_model
from hetero.training.augment import POSES
from hetero.training.cloud import GALLERY_PHASE, class_names, gallery_trainee, make_loader, save_gallery
from hetero.training.config import GalleryTrainConfig, TogetherConfig, TunedConfig
from hetero.training.loop import Phase, run_phase
from hetero.training.resume import latest_state
from hetero.training.students import (
    TUNING_PHASE,
    read_stopped,
    save_students,
    student_trainees,
    unlabelled_loader,
)
from hetero.training.trainee import Trainee

TOGETHER_PHASE = "together"
UNTUNED = "gallery-untuned"
"""Where the gallery model before its tuning is kept, to measure what the tuning cost it."""


def train_together(
    config: RunConfig, dataset: Dataset, run: Path, *, device: torch.device, progress: Progress
) -> tuple[LoadedModel, dict[str, str]]:
    """Gallery model and students from fresh weights in one loop; the gallery model, and the students that diverged."""
    joint, train, students = config.joint, config.gallery.train, config.student_training
    assert isinstance(joint, TogetherConfig) and train is not None and students is not None  # noqa: S101, PT018
    path, stopped = run / "gallery", read_stopped(run)
    names = [student.name for student in config.students]
    saved = all((run / "students" / name / "model.json").exists() or name in stopped for name in names)
    if (path / "model.json").exists() and saved:
        return load_model(path), stopped
    loader = make_loader(dataset, config, train, config.seed)
    steps = train.epochs * loader.steps_per_epoch
    gallery = gallery_trainee(config, train, loader, steps=steps, device=device)
    trainees = student_trainees(config, loader, None, device=device)
    phase = Phase(
        name=TOGETHER_PHASE,
        live=gallery,
        pull=joint.pull,
        trainees=trainees,
        loader=loader,
        preprocess=config.preprocess,
        train=train,
        seed=config.seed,
        device=device,
        steps=steps,
        unlabelled=unlabelled_loader(config, students, loader, config.seed),
        turned_classes=train.turned_classes,
        stranger_views=students.stranger_views,
    )
    stopped = run_phase(phase, run, progress)
    save_gallery(path, gallery, config, dataset, loader, provenance={"epochs": train.epochs, "joint": "together"})
    model = load_model(path)
    save_students(run, config, trainees, stopped, model.space, model.card.weights_sha256, dataset)
    return model, stopped


def tune_gallery(
    config: RunConfig, dataset: Dataset, gallery: LoadedModel, run: Path, *, device: torch.device, progress: Progress
) -> LoadedModel:
    """Train a finished gallery model on, beside its students, drawn to where they are; its own loss is kept.

    The students of this phase only align to it: they stand for what their architectures can express. What they have
    learnt is where :func:`hetero.training.students.train_students` begins. The gallery model as it was stays in
    ``run/gallery-untuned``; the tuned one has another space.
    """
    joint, students = config.joint, config.student_training
    assert isinstance(joint, TunedConfig) and students is not None  # noqa: S101, PT018
    if (run / UNTUNED / "model.json").exists():
        untuned = load_model(run / UNTUNED)
        if gallery.card.provenance.get("untuned_weights_sha256") == untuned.card.weights_sha256:
            return gallery
    base = config.gallery.train or GalleryTrainConfig(epochs=1)
    train = base.model_copy(update=students.model_dump(include={"batch_size", "log_every_steps", "save_every_steps"}))
    train = train.model_copy(update={"lr": joint.lr, "sampler": students.sampler, "augment": students.augment})
    loader = make_loader(dataset, config, train, config.seed + 1)
    steps = joint.epochs * loader.steps_per_epoch
    compatible = tuple(s for s in config.students if s.role == "compatible")
    probes = config.model_copy(
        update={
            "students": tuple(_probe(student) for student in compatible),
            "student_training": students.model_copy(update={"epochs": joint.epochs}),
        }
    )
    if gallery.card.classes != class_names(dataset, loader.classes):
        raise ConfigError(
            "the gallery model cannot be tuned: it learnt other classes than this dataset's train split has",
            got=f"{len(loader.classes)} classes, such as {dataset.class_names[loader.classes[0]]!r}",
            expected=f"{len(gallery.card.classes)}, such as {gallery.card.classes[0]!r}, in the same order",
            fix="use the data it was trained on, or joint: {kind: frozen}",
        )
    trainee = _continued(config, train, gallery, run, loader.classes.size, steps, device)
    phase = Phase(
        name=TUNING_PHASE,
        live=trainee,
        pull=joint.pull,
        trainees=student_trainees(probes, loader, None, device=device),
        loader=loader,
        preprocess=config.preprocess,
        train=train,
        seed=config.seed + 1,
        device=device,
        steps=steps,
        turned_classes=train.turned_classes if len(trainee.loss.prototypes) > loader.classes.size else 0.0,
        stranger_views=students.stranger_views,
        warm=frozenset({trainee.name}),
        gallery_lr="joint.lr",
    )
    run_phase(phase, run, progress)
    if not (run / UNTUNED / "model.json").exists():
        copy_model(run / "gallery", run / UNTUNED)
    origin = {"joint": "tuned", "untuned_weights_sha256": gallery.card.weights_sha256, "pull": joint.pull}
    save_gallery(run / "gallery", trainee, config, dataset, loader, provenance=origin)
    return load_model(run / "gallery")


def _probe(student: StudentConfig) -> StudentConfig:
    """The student as it stands for its architecture in the tuning: aligned, for all of its epochs."""
    own = student.train.model_copy(update={"epochs": None})
    return student.model_copy(update={"loss": LossConfig(alignment=AlignmentConfig()), "train": own})


def _continued(
    config: RunConfig,
    train: GalleryTrainConfig,
    gallery: LoadedModel,
    run: Path,
    num_classes: int,
    steps: int,
    device: torch.device,
) -> Trainee:
    """The finished gallery model as a trainee with its own loss, and the whole classifier if its training left one."""
    state = latest_state(run / "state" / GALLERY_PHASE)
    classifier = gallery.prototypes if state is None else state.tensors[f"{GALLERY_PHASE}/loss/prototypes"]
    if classifier is None or len(classifier) not in (num_classes, POSES * num_classes):
        raise CheckpointError(
            "the gallery model cannot be tuned",
            got="a classifier of other classes than the train split's",
            fix="use joint: {kind: frozen}, or the data it was trained on",
        )
    trainee = Trainee(
        GALLERY_PHASE,
        gallery.arch,
        _own_loss(config, gallery),
        train,
        steps=steps,
        num_classes=len(classifier),
        seed=config.seed,
        device=device,
    )
    trainee.network.load_state_dict(gallery.network.state_dict())
    with torch.no_grad():
        trainee.loss.prototypes.copy_(classifier)
    return trainee


def _own_loss(config: RunConfig, gallery: LoadedModel) -> LossConfig:
    """What the gallery model was trained with; the config's, where it comes from a version that kept no note of it."""
    asked, noted = config.gallery.loss, gallery.card.provenance.get("loss")
    own = asked if noted is None else LossConfig.model_validate(noted)
    if asked not in (own, type(config.gallery).model_fields["loss"].default):
        raise ConfigError(
            "the gallery model cannot be tuned with another loss than its own",
            got=f"gallery.loss {asked.model_dump(exclude_none=True)}",
            expected=f"{own.model_dump(exclude_none=True)}",
            fix="remove gallery.loss: the checkpoint tells it",
        )
    return own
