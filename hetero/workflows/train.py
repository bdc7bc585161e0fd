"""``hetero train``: the gallery model, then all students, in one resumable run directory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hetero.config import RunConfig
from hetero.data.dataset import Dataset, digest
from hetero.data.open import open_dataset
from hetero.data.unlabelled import read_unlabelled
from hetero.errors import MissingExtraError
from hetero.logs import Progress
from hetero.retrieval.protocol import for_dataset
from hetero.retrieval.verification import require_enough_pairs
from hetero.workflows.evaluate import MAX_CALIBRATION_QUERIES, require_searchable


@dataclass(frozen=True)
class TrainedRun:
    """Where the checkpoints of a finished run are.

    Attributes:
        stopped: students that diverged and have no checkpoint, with what happened.
    """

    run: Path
    space_id: str
    gallery: Path
    students: dict[str, Path]
    stopped: dict[str, str] = field(default_factory=dict)


def train_run(config: RunConfig, out: Path, *, progress: Progress, threads: int | None = None) -> TrainedRun:
    """Train everything in ``config`` into ``out``, continuing where an earlier process stopped.

    Args:
        threads: CPU threads of this process, None for torch's choice. Resuming is bit-exact with the same number only.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("hetero train", "torch", "train") from None
    from hetero.training.cloud import train_gallery
    from hetero.training.device import resolve_device, warn_of_emulation
    from hetero.training.joint import train_together, tune_gallery
    from hetero.training.loop import summary_writer
    from hetero.training.run import run_directory
    from hetero.training.students import train_students

    if threads is not None:
        torch.set_num_threads(threads)
    device = resolve_device(config.device)
    warn_of_emulation(device, _precisions(config))
    if any(train is not None and train.tensorboard for train in (config.gallery.train, config.student_training)):
        summary_writer()  # say now, not after the gallery model's training, that it is not installed
    dataset = open_dataset(config.data)
    _require_searchable(config, dataset)
    _require_batches(config, dataset)
    extra = _unlabelled_digest(config)
    with run_directory(out, config, data_sha256=digest(dataset), unlabelled_sha256=extra) as run:
        stopped: dict[str, str] = {}
        if config.joint.kind == "together":
            gallery, stopped = train_together(config, dataset, run, device=device, progress=progress)
        else:
            gallery = train_gallery(config, dataset, run, device=device, progress=progress)
            if config.joint.kind == "tuned" and config.students:
                gallery = tune_gallery(config, dataset, gallery, run, device=device, progress=progress)
            if config.students:
                stopped = train_students(config, dataset, gallery, run, device=device, progress=progress)
    return TrainedRun(
        run=out,
        space_id=gallery.space.id,
        gallery=out / "gallery",
        students={s.name: out / "students" / s.name for s in config.students if s.name not in stopped},
        stopped=stopped,
    )


def _precisions(config: RunConfig) -> dict[str, str]:
    """Every arithmetic that a config asks for, by its key."""
    asked: dict[str, str] = {}
    if config.gallery.train is not None:
        asked["gallery.train.precision"] = config.gallery.train.precision
    if config.student_training is not None:
        asked["student_training.precision"] = config.student_training.precision
        asked["student_training.gallery_precision"] = config.student_training.gallery_precision
    return asked


def _unlabelled_digest(config: RunConfig) -> str | None:
    extra = config.student_training.unlabelled if config.student_training is not None else None
    return None if extra is None else digest(read_unlabelled(extra.path))


def _require_searchable(config: RunConfig, dataset: Dataset) -> None:
    """Say now, not after the training, that there is nothing to search, or that a threshold cannot be calibrated.

    One class alone in ``train`` is refused elsewhere.
    """
    if not any(student.role == "compatible" for student in config.students):
        return
    if not config.evaluation.exclude_groups:
        dataset = replace(dataset, groups=None)
    require_searchable(dataset, config.evaluation.split)
    train = dataset.split("train")
    if len(np.unique(dataset.labels[train])) > 1:
        limits: Any = {"max_queries": MAX_CALIBRATION_QUERIES, "seed": config.seed}
        require_enough_pairs(for_dataset(dataset, train), config.evaluation.false_accept_rates, **limits)


def _require_batches(config: RunConfig, dataset: Dataset) -> None:
    """Say before the gallery model trains that the students' batches cannot be filled, too."""
    from hetero.training.cloud import batch_plan

    labels = dataset.labels[dataset.split("train")]
    if len(np.unique(labels)) < 2:
        return
    for train in (config.gallery.train, config.student_training if config.students else None):
        if train is not None:
            batch_plan(labels, train, config.seed)(0)
