"""The loop of one phase: batches in, committed states and metrics lines out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetero.data.loader import Batch, Loader
from hetero.errors import MissingExtraError, TrainingError
from hetero.journal import Journal
from hetero.logs import Progress
from hetero.preprocess import PreprocessSpec
from hetero.training.config import TrainConfig
from hetero.training.health import Health
from hetero.training.memory import GalleryMemory
from hetero.training.parallel import Mapper, side_by_side
from hetero.training.resume import State, commit_state, latest_state
from hetero.training.step import Terms, joint_step, train_step
from hetero.training.trainee import Trainee
from hetero.training.views import prepare

_LOWER = "lower {} and start in another directory with --out; {}"


@dataclass(frozen=True)
class Phase:
    """What trains together: the gallery model alone, students under a frozen gallery model, or both.

    Attributes:
        trainees: students, or the gallery model in a phase of its own.
        gallery: the frozen gallery model or its memory, None where there is none yet.
        live: the gallery model that trains beside its students. pull: see :func:`hetero.training.step.joint_step`.
        unlabelled: a second stream of pictures without classes.
        steps: of the whole phase. views: steps after which the same augmented pictures come round again, None for
            never.
        turned_classes, stranger_views: see :func:`hetero.training.views.prepare`.
        warm: names of those whose weights had learnt before this phase.
        gallery_lr: the config's key of the gallery model's learning rate, to name it in messages.
    """

    name: str
    trainees: Sequence[Trainee]
    loader: Loader
    preprocess: PreprocessSpec
    train: TrainConfig
    seed: int
    device: torch.device
    steps: int
    gallery: GalleryMemory | None = None
    live: Trainee | None = None
    pull: float = 0.0
    unlabelled: Loader | None = None
    views: int | None = None
    turned_classes: float = 0.0
    stranger_views: bool = False
    warm: frozenset[str] = frozenset()
    gallery_lr: str = "gallery.train.lr"

    @property
    def everyone(self) -> list[Trainee]:
        """All that train, the gallery model first."""
        return [*([] if self.live is None else [self.live]), *self.trainees]

    @property
    def indispensable(self) -> set[str]:
        """Whose failure ends the phase: the gallery model's."""
        if self.live is not None:
            return {self.live.name}
        return {trainee.name for trainee in self.trainees} if self.gallery is None else set()


@dataclass
class _Meter:
    """Sums since the last metrics line; part of the state, so that a resumed run writes the same lines."""

    steps: dict[str, int] = field(default_factory=dict)
    sums: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, terms: Mapping[str, Mapping[str, float]]) -> None:
        for name, parts in terms.items():
            self.steps[name] = self.steps.get(name, 0) + 1
            own = self.sums.setdefault(name, {})
            for key, value in parts.items():
                own[key] = own.get(key, 0.0) + value

    def means(self) -> dict[str, dict[str, float]]:
        return {
            name: {key: value / self.steps[name] for key, value in parts.items()} for name, parts in self.sums.items()
        }


def run_phase(phase: Phase, run: Path, progress: Progress) -> dict[str, str]:
    """Train to the end, from the newest committed state in ``run`` if there is one.

    On the CPU with the same number of threads, an interrupted and resumed phase ends with the same bits as an
    uninterrupted one.

    Returns:
        Students that diverged and were stopped, with what happened; the others went on without them.

    Raises:
        TrainingError: the gallery model, or the last student, diverged. StorageError: the disk is full. Both name the
            step that is safe.
    """
    folder, journal = run / "state" / phase.name, Journal(run / "metrics.jsonl")
    state = latest_state(folder)
    first = state.step if state is not None else 0
    meter, health = _Meter(), Health(first=dict.fromkeys(phase.warm, math.inf))
    if state is not None:
        meter, health = _Meter(**state.meter["meter"]), Health(**state.meter["health"])
        for trainee in phase.everyone:
            if trainee.name not in health.stopped:
                trainee.load_state(state.tensors)
    journal.rewind(phase.name, first)
    for trainee in phase.everyone:
        trainee.network.train()
    board = summary_writer()(str(run / "tensorboard")) if phase.train.tensorboard else None
    progress.start(phase.name, total=phase.steps, done=first)
    mark, marked = time.perf_counter(), first
    last_saved = first
    try:
        for batch, terms in _stepped(phase, first, health):
            _require(phase, health, health.check_losses(terms, batch.step), last_saved)
            meter.add({name: terms[name] for name in health.well(list(terms))})
            done = batch.step + 1
            states: dict[str, dict[str, Tensor]] = {}
            if _is_save_step(done, phase):  # looked at before the line is written, so that it tells of every stop
                states = {t.name: t.state() for t in phase.everyone if t.name not in health.stopped}
                _require(phase, health, health.check_weights(states, done), last_saved)
            if done % phase.train.log_every_steps == 0 or done == phase.steps:
                now = time.perf_counter()
                speed = (done - marked) * len(batch.labels) / (now - mark)
                means = meter.means()
                _require(phase, health, health.check_line(means, done), last_saved)
                line = _line(phase, batch, means, health.tell(), speed)
                journal.append(line)
                if board is not None:
                    _write_board(board, line)
                progress.advance(
                    done, losses={name: parts["total"] for name, parts in means.items()}, images_per_s=speed
                )
                meter, mark, marked = _Meter(), now, done
            if states:
                tensors = {key: value for name in health.well(list(states)) for key, value in states[name].items()}
                kept = {"meter": vars(meter), "health": health.to_json()}
                commit_state(folder, State(step=done, tensors=tensors, meter=kept))
                last_saved = done
    finally:
        progress.finish()
        if board is not None:
            board.close()
    return dict(health.stopped)


def _batches(phase: Phase, first: int) -> Iterator[tuple[Batch, Batch | None]]:
    batches = phase.loader.batches(first, phase.steps)
    if phase.unlabelled is None:
        for batch in batches:
            yield batch, None
    else:
        yield from zip(batches, phase.unlabelled.batches(first, phase.steps), strict=True)


def _stepped(phase: Phase, first: int, health: Health) -> Iterator[tuple[Batch, dict[str, dict[str, float]]]]:
    with side_by_side(len(phase.trainees), phase.device) as mapper:
        for batch, more in _batches(phase, first):
            yield batch, _numbers(_step(phase, batch, more, health, mapper))


def _numbers(terms: Terms) -> dict[str, dict[str, float]]:
    """All of a step's losses in one transfer: a GPU is waited for once."""
    values = [value for parts in terms.values() for value in parts.values()]
    numbers = iter(torch.stack(values).tolist() if values else [])
    return {name: {key: next(numbers) for key in parts} for name, parts in terms.items()}


def _step(phase: Phase, batch: Batch, more: Batch | None, health: Health, mapper: Mapper) -> Terms:
    image, labels = prepare(
        batch,
        more,
        phase.preprocess,
        phase.train.augment,
        num_classes=len(phase.loader.classes),
        turned_classes=phase.turned_classes,
        stranger_views=phase.stranger_views,
        seed=phase.seed,
        view=batch.step if phase.views is None else batch.step % phase.views,
        device=phase.device,
    )
    active = [t for t in phase.trainees if t.name not in health.stopped and batch.step < t.steps]
    if phase.live is not None:
        return joint_step(
            phase.live,
            active,
            image,
            labels,
            num_classes=len(phase.loader.classes),
            pull=phase.pull,
            step=batch.step,
            mapper=mapper,
        )
    gallery = None if phase.gallery is None else phase.gallery.at(batch.step)
    return train_step(active, gallery, image, labels, step=batch.step, mapper=mapper)


def _require(phase: Phase, health: Health, failed: Sequence[str], last_saved: int) -> None:
    """End the phase where there is nothing left that is worth going on for."""
    fatal = [name for name in failed if name in phase.indispensable]
    if not fatal and (not failed or health.well([trainee.name for trainee in phase.trainees])):
        return
    name = (fatal or list(failed))[0]
    raise TrainingError(
        f"{name!r} diverged" + ("" if fatal else ", the last of the students"),
        got=health.stopped[name],
        fix=_LOWER.format(
            phase.gallery_lr if fatal else "student_training.lr, or the student's own train.lr,",
            f"the state after step {last_saved} is kept here" if last_saved else "nothing was saved yet",
        ),
    )


def _line(
    phase: Phase, batch: Batch, means: Mapping[str, Any], stopped: dict[str, str], images_per_s: float
) -> dict[str, Any]:
    line: dict[str, Any] = {
        "phase": phase.name,
        "step": batch.step + 1,
        "epoch": batch.epoch,
        "lr": phase.everyone[0].learning_rate(min(batch.step, phase.everyone[0].steps - 1)),
        "loss": means,
        "images_per_s": round(images_per_s, 1),
    }
    return line | ({"stopped": stopped} if stopped else {})


def _is_save_step(done: int, phase: Phase) -> bool:
    every = phase.train.save_every_steps
    return (every is not None and done % every == 0) or done % phase.loader.steps_per_epoch == 0 or done == phase.steps


def summary_writer() -> Any:
    """TensorBoard's writer class.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("train.tensorboard", "tensorboard", "tensorboard") from None
    return SummaryWriter


def _write_board(board: Any, line: dict[str, Any]) -> None:
    for name, parts in line["loss"].items():
        for key, value in parts.items():
            board.add_scalar(f"{line['phase']}/{name}/{key}", value, line["step"])
    board.add_scalar(f"{line['phase']}/images_per_s", line["images_per_s"], line["step"])
