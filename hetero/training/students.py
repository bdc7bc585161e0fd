"""Training all students of a run together, under one frozen gallery model."""

from __future__ import annotations

from pathlib import Path

import torch

from hetero.config import RunConfig, StudentConfig
from hetero.data.dataset import Dataset
from hetero.errors import ConfigError
from hetero.logs import Progress
from hetero.models.checkpoint import LoadedModel, ModelCard, load_model, network_digest, save_model
from hetero.models.network import channels_last
from hetero.space import define_space
from hetero.training.cloud import class_names, make_loader
from hetero.training.loop import Phase, run_phase
from hetero.training.trainee import Trainee

STUDENT_PHASE = "students"
_SEED_STRIDE = 1000  # keeps students' seeds apart from each other and from the gallery model's


def train_students(
    config: RunConfig,
    dataset: Dataset,
    gallery: LoadedModel,
    run: Path,
    *,
    device: torch.device,
    progress: Progress,
) -> dict[str, LoadedModel]:
    """Train every student of the config on the same batches, or take the finished ones from ``run/students``.

    Compatible students enter the gallery's space; a control, trained alone, defines a space of its own.
    """
    paths = {student.name: run / "students" / student.name for student in config.students}
    if all((path / "model.json").exists() for path in paths.values()):
        return {name: load_model(path) for name, path in paths.items()}
    train = config.student_training
    if train is None or gallery.prototypes is None:
        raise ConfigError(
            "students cannot be trained", expected="student_training in the config and a gallery model with prototypes"
        )
    seed = config.seed + _SEED_STRIDE
    loader = make_loader(dataset, config, train, seed)
    if class_names(dataset, loader.classes) != gallery.card.classes:
        raise ConfigError(
            "the gallery model was trained on other classes than this dataset's train split",
            fix="train students on the data of their gallery model",
        )
    trainees = [
        Trainee(
            student.name,
            student.arch,
            student.loss,
            train,
            num_classes=len(loader.classes),
            gallery_prototypes=gallery.prototypes if student.loss.influence is not None else None,
            seed=seed + 1 + position,
            device=device,
        )
        for position, student in enumerate(config.students)
    ]
    teacher = channels_last(gallery.network.to(device)).eval()
    run_phase(Phase(STUDENT_PHASE, trainees, teacher, loader, config.preprocess, train, seed, device), run, progress)
    for student, trainee in zip(config.students, trainees, strict=True):
        _save(config, student, trainee, gallery, dataset, paths[student.name])
    return {name: load_model(path) for name, path in paths.items()}


def _save(
    config: RunConfig, student: StudentConfig, trainee: Trainee, gallery: LoadedModel, dataset: Dataset, path: Path
) -> None:
    digest = network_digest(trainee.result.state_dict())
    own = define_space(
        weights_sha256=digest, preprocess_fingerprint=config.preprocess.fingerprint(), dim=student.arch.dim
    )
    card = ModelCard(
        name=f"{config.name}-{student.name}",
        role=student.role,
        arch=student.arch,
        preprocess=config.preprocess,
        space=own if student.role == "control" else gallery.space,
        weights_sha256=digest,
        provenance={
            "config_sha256": config.digest(),
            "dataset": dataset.name,
            "gallery_weights_sha256": gallery.card.weights_sha256,
            "loss": student.loss.model_dump(mode="json", exclude_none=True),
        },
    )
    save_model(path, trainee.result, card)
