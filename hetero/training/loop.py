"""The loop of one phase: batches in, committed states and metrics lines out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetero.config import TrainConfig
from hetero.data.loader import Batch, Loader
from hetero.errors import MissingExtraError, TrainingError
from hetero.journal import Journal
from hetero.logs import Progress
from hetero.models.embed import colour_normalise
from hetero.preprocess import PreprocessSpec
from hetero.training.augment import augment, stranger_views, turned_classes
from hetero.training.device import autocast_dtype
from hetero.training.memory import GalleryMemory
from hetero.training.resume import State, commit_state, latest_state
from hetero.training.schedule import learning_rate
from hetero.training.step import Terms, stranger_labels, train_step
from hetero.training.trainee import Trainee

_LOWER = (
    "lower the learning rate or raise warmup_steps and start in another directory with --out; the state after step {} "
    "is kept here"
)


@dataclass(frozen=True)
class Phase:
    """What trains together: the gallery model alone, or all students under one frozen gallery model.

    Attributes:
        gallery: the frozen gallery model in evaluation mode, None in its own phase.
    """

    name: str
    trainees: Sequence[Trainee]
    gallery: nn.Module | None
    loader: Loader
    preprocess: PreprocessSpec
    train: TrainConfig
    seed: int
    device: torch.device

    @property
    def total_steps(self) -> int:
        """Steps of the whole phase."""
        return self.train.epochs * self.loader.steps_per_epoch

    @property
    def views(self) -> int | None:
        """Steps after which the same augmented pictures come round again, None where they never do."""
        epochs = self.train.view_epochs
        return None if epochs is None or epochs >= self.train.epochs else epochs * self.loader.steps_per_epoch


@dataclass
class _Meter:
    """Sums since the last metrics line; part of the state, so that a resumed run writes the same lines."""

    steps: int = 0
    sums: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, terms: Terms) -> None:
        self.steps += 1
        for name, parts in terms.items():
            own = self.sums.setdefault(name, {})
            for key, value in parts.items():
                own[key] = own.get(key, 0.0) + float(value)

    def means(self) -> dict[str, dict[str, float]]:
        return {name: {key: value / self.steps for key, value in parts.items()} for name, parts in self.sums.items()}


def run_phase(phase: Phase, run: Path, progress: Progress) -> None:
    """Train to the end, from the newest committed state in ``run`` if there is one.

    On the CPU with the same number of threads, an interrupted and resumed phase ends with the same bits as an
    uninterrupted one.

    Raises:
        TrainingError: a loss that is not a number. StorageError: the disk is full. Both name the step that is safe.
    """
    folder, journal = run / "state" / phase.name, Journal(run / "metrics.jsonl")
    state = latest_state(folder)
    first = state.step if state is not None else 0
    meter = _Meter()
    if state is not None:
        for trainee in phase.trainees:
            trainee.load_state(state.tensors)
        meter = _Meter(**state.meter)
    journal.rewind(phase.name, first)
    for trainee in phase.trainees:
        trainee.network.train()
    memory = None if phase.gallery is None else GalleryMemory(phase.gallery, phase.views)
    board = _tensorboard(run) if phase.train.tensorboard else None
    dtype = autocast_dtype(phase.device, phase.train.mixed_precision)
    progress.start(phase.name, total=phase.total_steps, done=first)
    mark, marked = time.perf_counter(), first
    last_saved = first
    try:
        for batch in phase.loader.batches(first, phase.total_steps):
            rate = learning_rate(
                batch.step,
                peak=phase.train.lr,
                warmup_steps=phase.train.warmup_steps,
                total_steps=phase.total_steps,
            )
            image, labels = _prepared(batch, phase)
            gallery = None if memory is None else memory.at(batch.step)
            terms = train_step(phase.trainees, gallery, image, labels, learning_rate=rate, autocast=dtype)
            meter.add(terms)
            _require_finite(terms, batch.step, last_saved)
            done = batch.step + 1
            if done % phase.train.log_every_steps == 0 or done == phase.total_steps:
                now = time.perf_counter()
                speed = (done - marked) * len(batch.labels) / (now - mark)
                line: dict[str, Any] = {
                    "phase": phase.name,
                    "step": done,
                    "epoch": batch.epoch,
                    "lr": rate,
                    "loss": meter.means(),
                    "images_per_s": round(speed, 1),
                }
                journal.append(line)
                if board is not None:
                    _write_board(board, line)
                progress.advance(
                    done, losses={name: parts["total"] for name, parts in line["loss"].items()}, images_per_s=speed
                )
                meter, mark, marked = _Meter(), now, done
            if _is_save_step(done, phase):
                tensors = {name: tensor for trainee in phase.trainees for name, tensor in trainee.state().items()}
                _require_finite_state(tensors, done, last_saved)
                commit_state(folder, State(step=done, tensors=tensors, meter=vars(meter)))
                last_saved = done
    finally:
        progress.finish()
        if board is not None:
            board.close()


def _prepared(batch: Batch, phase: Phase) -> tuple[torch.Tensor, torch.Tensor]:
    image = colour_normalise(torch.from_numpy(batch.pixels).to(phase.device), phase.preprocess)
    labels = torch.from_numpy(batch.labels).to(phase.device)
    view = batch.step if phase.views is None else batch.step % phase.views
    image = augment(image, phase.train.augment, seed=phase.seed, step=view)
    if phase.train.turned_classes:
        image, labels = turned_classes(
            image,
            labels,
            share=phase.train.turned_classes,
            num_classes=len(phase.loader.classes),
            seed=phase.seed,
            step=view,
        )
    if phase.train.stranger_views and phase.gallery is not None:
        by_class = any(trainee.loss.config.centroid is not None for trainee in phase.trainees)
        groups = labels if by_class else torch.arange(len(labels))
        image = torch.cat([image, stranger_views(image, groups, seed=phase.seed, step=view)])
        labels = torch.cat([labels, stranger_labels(labels)])
    return image, labels


def _is_save_step(done: int, phase: Phase) -> bool:
    every = phase.train.save_every_steps
    return (every is not None and done % every == 0) or done % phase.loader.steps_per_epoch == 0


def _require_finite(terms: Terms, step: int, last_saved: int) -> None:
    for name, parts in terms.items():
        for key, value in parts.items():
            if not torch.isfinite(value):
                raise TrainingError(
                    f"the loss of {name!r} is not a number at step {step + 1}",
                    got=f"{key} = {float(value)}",
                    fix=_LOWER.format(last_saved),
                )


def _require_finite_state(tensors: dict[str, torch.Tensor], step: int, last_saved: int) -> None:
    """The last step may have ruined the weights unseen by its loss: such a state must not replace a good one."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise TrainingError(
                f"the weights are not numbers after step {step}", got=f"in {name}", fix=_LOWER.format(last_saved)
            )


def _tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("train.tensorboard", "tensorboard", "tensorboard") from None
    return SummaryWriter(str(run / "tensorboard"))


def _write_board(board: Any, line: dict[str, Any]) -> None:
    for name, parts in line["loss"].items():
        for key, value in parts.items():
            board.add_scalar(f"{line['phase']}/{name}/{key}", value, line["step"])
    board.add_scalar(f"{line['phase']}/images_per_s", line["images_per_s"], line["step"])
