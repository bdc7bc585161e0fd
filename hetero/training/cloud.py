"""Training the gallery model: the phase that defines the space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from hetero.config import RunConfig, TrainConfig
from hetero.data.dataset import Dataset
from hetero.data.loader import Loader
from hetero.data.sampler import pk_batches, shuffled_batches
from hetero.errors import DataError
from hetero.logs import Progress
from hetero.models.checkpoint import LoadedModel, ModelCard, load_model, network_digest, save_model
from hetero.space import define_space
from hetero.training.augment import POSES
from hetero.training.loop import Phase, run_phase
from hetero.training.trainee import Trainee

GALLERY_PHASE = "gallery"


def make_loader(dataset: Dataset, config: RunConfig, train: TrainConfig, seed: int) -> Loader:
    """The training split's batches under a phase's sampler."""
    indices = dataset.split("train")
    if len(np.unique(dataset.labels[indices])) < 2:
        raise DataError(
            f"the train split of {dataset.name!r} has a single class",
            expected="at least two, or there is nothing to tell apart",
            fix="add classes to the train split",
        )
    plan: Callable[[int], np.ndarray]
    if train.sampler.kind == "pk":
        plan = partial(_pk, dataset.labels[indices], train.batch_size, train.sampler.images_per_class, seed)
    else:
        plan = partial(_shuffled, len(indices), train.batch_size, seed)
    return Loader(dataset, indices, config.preprocess, partial(_repeating, plan, train.view_epochs))


def train_gallery(
    config: RunConfig, dataset: Dataset, run: Path, *, device: torch.device, progress: Progress
) -> LoadedModel:
    """Train the gallery model, or take it from ``run/gallery`` where it is finished; returns it."""
    path = run / "gallery"
    if (path / "model.json").exists():
        return load_model(path)
    train = config.gallery.train
    loader = make_loader(dataset, config, train, config.seed)
    trainee = Trainee(
        GALLERY_PHASE,
        config.gallery.arch,
        config.gallery.loss,
        train,
        num_classes=len(loader.classes) * (POSES if train.turned_classes else 1),
        gallery_prototypes=None,
        seed=config.seed,
        device=device,
    )
    run_phase(
        Phase(GALLERY_PHASE, [trainee], None, loader, config.preprocess, train, config.seed, device), run, progress
    )
    network = trainee.result
    digest = network_digest(network.state_dict())
    card = ModelCard(
        name=f"{config.name}-gallery",
        role="gallery",
        arch=config.gallery.arch,
        preprocess=config.preprocess,
        space=define_space(
            weights_sha256=digest,
            preprocess_fingerprint=config.preprocess.fingerprint(),
            dim=config.gallery.arch.dim,
        ),
        weights_sha256=digest,
        classes=class_names(dataset, loader.classes),
        provenance={"config_sha256": config.digest(), "dataset": dataset.name, "epochs": train.epochs},
    )
    save_model(path, network, card, normalize(trainee.loss.prototypes[: len(loader.classes)]))
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
