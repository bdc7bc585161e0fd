"""Training all students of a run together: one data pass and one gallery forward serve them all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from hetero import __version__, atomic
from hetero.config import RunConfig, StudentConfig
from hetero.data.dataset import Dataset, digest
from hetero.data.loader import Loader
from hetero.data.sampler import shuffled_batches
from hetero.data.unlabelled import read_unlabelled
from hetero.errors import CheckpointError, ConfigError
from hetero.logs import Progress
from hetero.losses.reference import GalleryReference
from hetero.models.checkpoint import LoadedModel, ModelCard, network_digest, save_model
from hetero.models.network import channels_last
from hetero.space import EmbeddingSpace, define_space
from hetero.training.cloud import class_names, make_loader
from hetero.training.config import StudentTrainConfig
from hetero.training.device import autocast_dtype
from hetero.training.loop import Phase, run_phase
from hetero.training.memory import DiskStore, Embedder, GalleryMemory
from hetero.training.reference import gallery_reference
from hetero.training.resume import latest_state
from hetero.training.seeds import derived_seed
from hetero.training.trainee import Trainee

STUDENT_PHASE, TUNING_PHASE = "students", "tuning"
_SEED_STRIDE = 1000  # keeps the students' batches apart from the gallery model's


def train_students(
    config: RunConfig,
    dataset: Dataset,
    gallery: LoadedModel,
    run: Path,
    *,
    device: torch.device,
    progress: Progress,
) -> dict[str, str]:
    """Train every student of the config on the same batches, or leave those alone that ``run/students`` has.

    Compatible students enter the gallery's space; a control, trained alone, defines a space of its own.

    Returns:
        Students that diverged, with what happened; the others are saved.
    """
    stopped = read_stopped(run)
    if all((run / "students" / name / "model.json").exists() or name in stopped for name in _names(config)):
        return stopped
    train = config.student_training
    if train is None:
        raise ConfigError("students cannot be trained", expected="student_training in the config")
    seed = config.seed + _SEED_STRIDE
    loader = make_loader(dataset, config, train, seed, views=train.view_epochs)
    classes = class_names(dataset, loader.classes)
    _require_shared_classes(config, gallery, classes)
    reference = gallery_reference(
        gallery, [student.loss for student in config.students], dataset, classes, seed=seed, device=device
    )
    steps = train.epochs * loader.steps_per_epoch
    trainees = student_trainees(config, loader, reference, device=device)
    warm = warm_start(run, trainees)
    views = _views(train, loader)
    store = None
    if views is not None and train.cache == "disk":
        store = DiskStore(run / "cache", _views_key(config, gallery, dataset, device), views)
    phase = Phase(
        name=STUDENT_PHASE,
        trainees=trainees,
        gallery=GalleryMemory(_embedder(train, gallery, device), views, store),
        loader=loader,
        preprocess=config.preprocess,
        train=train,
        seed=seed,
        device=device,
        steps=steps,
        unlabelled=unlabelled_loader(config, train, loader, seed),
        views=views,
        stranger_views=train.stranger_views,
        warm=warm,
    )
    stopped = run_phase(phase, run, progress)
    save_students(run, config, trainees, stopped, gallery.space, gallery.card.weights_sha256, dataset)
    return stopped


def student_trainees(
    config: RunConfig, loader: Loader, reference: GalleryReference | None, *, device: torch.device
) -> list[Trainee]:
    """All students with fresh weights, each with its own loss, optimizer, moving average and schedule."""
    base = config.student_training
    assert base is not None  # noqa: S101 - the config has one where it has students
    trainees = []
    for student in config.students:
        train = base.of_student(student.train)
        trainees.append(
            Trainee(
                student.name,
                student.arch,
                student.loss,
                train,
                steps=train.epochs * loader.steps_per_epoch,
                num_classes=len(loader.classes),
                reference=reference,
                seed=_weights_seed(config.seed, student.name),
                device=device,
            )
        )
    return trainees


def save_students(
    run: Path,
    config: RunConfig,
    trainees: list[Trainee],
    stopped: dict[str, str],
    space: EmbeddingSpace,
    gallery_sha256: str,
    dataset: Dataset,
) -> None:
    """Write every student that did not diverge, and then who did."""
    for student, trainee in zip(config.students, trainees, strict=True):
        if student.name not in stopped:
            _save(config, student, trainee, space, gallery_sha256, dataset, run / "students" / student.name)
    if stopped:
        atomic.write_json(run / "stopped.json", stopped)


def read_stopped(run: Path) -> dict[str, str]:
    """Students of a run that diverged, with what happened."""
    path = run / "stopped.json"
    if not path.exists():
        return {}
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged", got=error, fix="remove it: training writes it again") from error
    return found


def unlabelled_loader(config: RunConfig, train: StudentTrainConfig, loader: Loader, seed: int) -> Loader | None:
    """A second stream of pictures, of which there are as many batches as of the first."""
    if train.unlabelled is None:
        return None
    pictures = read_unlabelled(train.unlabelled.path)
    count, size, steps = len(pictures), train.unlabelled.per_batch, loader.steps_per_epoch

    def plan(epoch: int) -> np.ndarray:
        # the epochs of the labelled pictures: a small folder comes round often, a large one not whole
        epoch = epoch if train.view_epochs is None else epoch % train.view_epochs
        per_round = count // min(size, count)
        rounds = [
            shuffled_batches(count, min(size, count), seed=seed + 1, epoch=number)
            for number in range(epoch * steps // per_round, (epoch + 1) * steps // per_round + 1)
        ]
        start = epoch * steps % per_round
        return np.concatenate(rounds)[start : start + steps]

    return Loader(pictures, np.arange(count), config.preprocess, plan)


def warm_start(run: Path, trainees: list[Trainee]) -> frozenset[str]:
    """Begin from what the tuning of the gallery model left of these students, where there was one; their names."""
    state = latest_state(run / "state" / TUNING_PHASE)
    warm = set()
    for trainee in trainees:
        prefix = f"{trainee.name}/network/"
        tensors = {} if state is None else state.tensors
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if own:
            trainee.network.load_state_dict(own)
            warm.add(trainee.name)
    return frozenset(warm)


def _names(config: RunConfig) -> list[str]:
    return [student.name for student in config.students]


def _weights_seed(seed: int, name: str) -> int:
    """Of a student's first weights: of its name, not of its place among the others."""
    return derived_seed(seed, name) >> 1


def _views(train: StudentTrainConfig, loader: Loader) -> int | None:
    epochs = train.view_epochs
    return None if epochs is None or epochs >= train.epochs else epochs * loader.steps_per_epoch


def _embedder(train: StudentTrainConfig, gallery: LoadedModel, device: torch.device) -> Embedder:
    network = channels_last(gallery.network.to(device)).eval()
    dtype = autocast_dtype(device, train.gallery_precision)

    def embed(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            embedding: torch.Tensor = network(image)
        return embedding.float()

    return embed


def _views_key(config: RunConfig, gallery: LoadedModel, dataset: Dataset, device: torch.device) -> str:
    """What the embeddings of the views depend on."""
    train = config.student_training
    assert train is not None  # noqa: S101
    keys = {"batch_size", "sampler", "augment", "stranger_views", "view_epochs", "unlabelled"}
    depends = [
        gallery.card.weights_sha256,
        digest(dataset),
        config.preprocess.fingerprint(),
        train.model_dump(mode="json", include=keys),
        (device.type, str(autocast_dtype(device, train.gallery_precision))),
        config.seed,
        __version__,
        digest(read_unlabelled(train.unlabelled.path)) if train.unlabelled is not None else None,
    ]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:16]


def _require_shared_classes(config: RunConfig, gallery: LoadedModel, classes: tuple[str, ...]) -> None:
    """A classifier of other classes judges nobody; where some are missing, ``influence.missing`` decides."""
    asking = [student.name for student in config.students if student.loss.needs_classifier]
    if asking and gallery.prototypes is None:
        raise ConfigError(
            "the gallery model's checkpoint keeps no classifier",
            got=f"students {', '.join(asking)} with its classifier in their loss",
            fix="use influence with prototypes: centres, or terms without the classifier, such as alignment",
        )
    shared = set(classes) & set(gallery.card.classes)
    if asking and len(shared) < 2:  # among one class, every picture is right
        raise ConfigError(
            "the gallery model was trained on other classes than this dataset's train split",
            got=f"{len(shared)} of {len(classes)} classes in common, and students {', '.join(asking)} "
            "with its classifier in their loss",
            expected="at least 2 in common",
            fix="use influence with prototypes: centres, or terms without the classifier, such as alignment",
        )


def _save(
    config: RunConfig,
    student: StudentConfig,
    trainee: Trainee,
    space: EmbeddingSpace,
    gallery_sha256: str,
    dataset: Dataset,
    path: Path,
) -> None:
    weights = network_digest(trainee.result.state_dict())
    preprocess = config.preprocess_of(student.arch)
    own = define_space(weights_sha256=weights, preprocess_fingerprint=preprocess.fingerprint(), dim=student.arch.dim)
    card = ModelCard(
        name=f"{config.name}-{student.name}",
        role=student.role,
        arch=student.arch,
        preprocess=preprocess,
        space=own if student.role == "control" else space,
        space_size=config.preprocess.height
        if student.role == "compatible" and preprocess != config.preprocess
        else None,
        weights_sha256=weights,
        provenance={
            "config_sha256": config.digest(),
            "dataset": dataset.name,
            "gallery_weights_sha256": gallery_sha256,
            "loss": student.loss.model_dump(mode="json", exclude_none=True),
        },
    )
    save_model(path, trainee.result, card)
