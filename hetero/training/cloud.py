"""Training the gallery model: the phase that defines the space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from hetero.config import RunConfig
from hetero.data.dataset import Dataset
from hetero.data.loader import Loader
from hetero.data.sampler import pk_batches, shuffled_batches
from hetero.errors import ConfigError, DataError
from hetero.logs import Progress
from hetero.models.checkpoint import LoadedModel, ModelCard, copy_model, load_model, network_digest, save_model
from hetero.space import define_space
from hetero.training.augment import POSES
from hetero.training.config import GalleryTrainConfig, TrainConfig
from hetero.training.loop import Phase, run_phase
from hetero.training.trainee import Trainee

GALLERY_PHASE = "gallery"


def make_loader(
    dataset: Dataset, config: RunConfig, train: TrainConfig, seed: int, *, views: int | None = None
) -> Loader:
    """The training split's batches under a phase's sampler, those of the first ``views`` epochs again and again."""
    indices = dataset.split("train")
    if len(np.unique(dataset.labels[indices])) < 2:
        raise DataError(
            f"the train split of {dataset.name!r} has a single class",
            expected="at least two, or there is nothing to tell apart",
            fix="add classes to the train split",
        )
    plan = batch_plan(dataset.labels[indices], train, seed)
    return Loader(dataset, indices, config.preprocess, partial(_repeating, plan, views))


def batch_plan(labels: np.ndarray, train: TrainConfig, seed: int) -> Callable[[int], np.ndarray]:
    """From an epoch to its batches, ``int64 [steps, b]`` positions in ``labels``, under the phase's sampler.

    Raises:
        DataError: from the plan, where the pictures do not fill a batch.
    """
    if train.sampler.kind == "pk":
        return partial(_pk, labels, train.batch_size, train.sampler.images_per_class, seed)
    return partial(_shuffled, len(labels), train.batch_size, seed)


def train_gallery(
    config: RunConfig, dataset: Dataset, run: Path, *, device: torch.device, progress: Progress
) -> LoadedModel:
    """Train the gallery model, take it from ``run/gallery`` where it is finished, or copy the config's checkpoint."""
    path = run / "gallery"
    if (path / "model.json").exists():
        model = load_model(path)
        config.require_fitting(model.arch)
        return model
    if config.gallery.checkpoint is not None:
        return _adopted(config, config.gallery.checkpoint, path)
    train = config.gallery.train
    assert train is not None  # noqa: S101 - the config has either a checkpoint or this
    loader = make_loader(dataset, config, train, config.seed)
    trainee = gallery_trainee(config, train, loader, steps=train.epochs * loader.steps_per_epoch, device=device)
    phase = Phase(
        name=GALLERY_PHASE,
        trainees=[trainee],
        loader=loader,
        preprocess=config.preprocess,
        train=train,
        seed=config.seed,
        device=device,
        steps=trainee.steps,
        turned_classes=train.turned_classes,
    )
    run_phase(phase, run, progress)
    save_gallery(path, trainee, config, dataset, loader, provenance={"epochs": train.epochs})
    return load_model(path)


def gallery_trainee(
    config: RunConfig, train: GalleryTrainConfig, loader: Loader, *, steps: int, device: torch.device
) -> Trainee:
    """A gallery model with fresh weights and a classifier over the classes, and their poses where those are classes."""
    assert config.gallery.arch is not None  # noqa: S101 - as above
    return Trainee(
        GALLERY_PHASE,
        config.gallery.arch,
        config.gallery.loss,
        train,
        steps=steps,
        num_classes=len(loader.classes) * (POSES if train.turned_classes else 1),
        seed=config.seed,
        device=device,
    )


def save_gallery(
    path: Path, trainee: Trainee, config: RunConfig, dataset: Dataset, loader: Loader, *, provenance: dict[str, Any]
) -> None:
    """Write a trained gallery model with its classifier; it defines a space."""
    network = trainee.result
    digest = network_digest(network.state_dict())
    card = ModelCard(
        name=f"{config.name}-gallery",
        role="gallery",
        arch=network.arch,
        preprocess=config.preprocess,
        space=define_space(
            weights_sha256=digest,
            preprocess_fingerprint=config.preprocess.fingerprint(),
            dim=network.arch.dim,
        ),
        weights_sha256=digest,
        classes=class_names(dataset, loader.classes),
        provenance={
            "config_sha256": config.digest(),
            "dataset": dataset.name,
            "loss": trainee.loss.config.model_dump(mode="json", exclude_none=True),
        }
        | provenance,
    )
    save_model(path, network, card, normalize(trainee.loss.prototypes[: len(loader.classes)]))


def _adopted(config: RunConfig, checkpoint: Path, path: Path) -> LoadedModel:
    model = load_model(checkpoint)
    if model.card.role != "gallery":
        raise ConfigError(
            f"gallery.checkpoint {checkpoint} is no gallery model",
            got=f"role {model.card.role}",
            fix="name a checkpoint such as runs/NAME/gallery",
        )
    config.require_fitting(model.arch)
    if model.preprocess != config.preprocess:
        raise ConfigError(
            f"gallery.checkpoint {checkpoint} takes other pictures than preprocess makes",
            got=config.preprocess.model_dump_json(),
            expected=model.preprocess.model_dump_json(),
            fix="copy the checkpoint's preprocess into the config",
        )
    copy_model(checkpoint, path)
    return load_model(path)


def class_names(dataset: Dataset, classes: np.ndarray) -> tuple[str, ...]:
    """The names of the training classes, in the order of the classifier's rows."""
    return tuple(dataset.class_names[label] for label in classes)


def _repeating(plan: Callable[[int], np.ndarray], epochs: int | None, epoch: int) -> np.ndarray:
    return plan(epoch if epochs is None else epoch % epochs)


def _shuffled(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    return shuffled_batches(count, batch_size, seed=seed, epoch=epoch)


def _pk(labels: np.ndarray, batch_size: int, per_class: int, seed: int, epoch: int) -> np.ndarray:
    return pk_batches(labels, batch_size, per_class, seed=seed, epoch=epoch)
