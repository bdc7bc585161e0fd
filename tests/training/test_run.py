"""Whole small runs: they learn, they log, they resume to the same bits, and they refuse what they must."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from toy import toy_config, toy_tree

from hetero.config import RunConfig
from hetero.errors import ConfigError, DataError, MissingExtraError, RetrievalError, StorageError, TrainingError
from hetero.journal import read_journal
from hetero.logs import SilentProgress
from hetero.models.checkpoint import load_model
from hetero.training import loop, students
from hetero.training.run import read_run
from hetero.training.trainee import Trainee
from hetero.workflows.train import train_run


class Killed(BaseException):
    """Stands for the end of the process at one point."""


class StopAt(SilentProgress):
    """Ends the process after so many advances."""

    def __init__(self, advances: int) -> None:
        self.left = advances

    def advance(self, done, *, losses, images_per_s):
        self.left -= 1
        if self.left == 0:
            raise Killed


def weights(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.glob("**/model.safetensors"))}


def journal(run: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in read_journal(run / "metrics.jsonl")]


def test_losses_fall_and_every_term_is_logged(finished):
    lines = read_journal(finished.run / "metrics.jsonl")
    own = {name for line in lines if line["phase"] == "students" for name in line["loss"]}
    assert own == {"small", "alone"}
    first, last = ([line for line in lines if line["phase"] == "students"][i]["loss"] for i in (0, -1))
    assert set(first["small"]) == {"total", "influence", "alignment"}
    assert set(first["alone"]) == {"total", "softmax"}
    assert last["small"]["alignment"] < 0.7 * first["small"]["alignment"]
    for part in (first["small"], last["small"]):
        assert part["total"] == pytest.approx(part["influence"] + 10 * part["alignment"], rel=1e-5)


def test_spaces_of_a_finished_run(finished):
    gallery = load_model(finished.gallery)
    small = load_model(finished.students["small"])
    alone = load_model(finished.students["alone"])
    assert small.space.id == gallery.space.id == finished.space_id
    assert alone.space.id != gallery.space.id
    assert gallery.prototypes is not None
    assert torch.allclose(gallery.prototypes.norm(dim=1), torch.ones(8), atol=1e-5)
    assert gallery.card.classes == tuple(f"pattern {i}" for i in range(8))


@pytest.mark.parametrize("advances", [1, 5, 7, 10])
def test_an_interrupted_run_ends_with_the_same_bits(pictures, finished, tmp_path, advances):
    config = toy_config(pictures)
    with pytest.raises(Killed):
        train_run(config, tmp_path / "cut", progress=StopAt(advances))
    train_run(config, tmp_path / "cut", progress=SilentProgress())
    assert weights(tmp_path / "cut") == weights(finished.run)
    assert journal(tmp_path / "cut") == journal(finished.run)


def test_ema_adamw_and_pk_resume_to_the_same_bits(pictures, tmp_path):
    overrides = tuple(
        f"{section}.{item}"
        for section in ("gallery.train", "student_training")
        for item in ("ema_decay=0.9", "optimizer=adamw", "lr=0.003", "save_every_steps=2", "sampler.kind=pk")
    )
    config = toy_config(pictures, overrides)
    train_run(config, tmp_path / "whole", progress=SilentProgress())
    with pytest.raises(Killed):
        train_run(config, tmp_path / "cut", progress=StopAt(3))
    train_run(config, tmp_path / "cut", progress=SilentProgress())
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_the_result_with_ema_is_the_moving_average_of_every_step(pictures, tmp_path, monkeypatch):
    seen = []
    real = Trainee.update

    def watching(self, loss, rate):
        real(self, loss, rate)
        if self.name == "gallery":
            seen.append(self.network.project.weight.detach().clone())

    monkeypatch.setattr(Trainee, "update", watching)
    run = train_run(toy_config(pictures, ("gallery.train.ema_decay=0.8",)), tmp_path / "b", progress=SilentProgress())
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.8 * expected + 0.2 * weight
    assert torch.allclose(load_model(run.gallery).network.project.weight, expected, atol=1e-5)
    assert not torch.allclose(expected, seen[-1], atol=1e-4)


def test_stranger_views_reach_only_trainees_that_align(pictures, tmp_path, monkeypatch):
    config = toy_config(pictures, ("student_training.stranger_views=true", "student_training.epochs=1"))
    seen = {"small": set(), "alone": set(), "labels": set()}
    real_step = loop.train_step

    def watching(trainees, gallery, image, labels, **options):
        handles = [
            t.network.register_forward_pre_hook(lambda _, inputs, name=t.name: seen[name].add(len(inputs[0])))
            for t in trainees
            if t.name in seen
        ]
        if gallery is not None:
            seen["labels"].add(len(labels))
        terms = real_step(trainees, gallery, image, labels, **options)
        for handle in handles:
            handle.remove()
        return terms

    monkeypatch.setattr(loop, "train_step", watching)
    train_run(config, tmp_path / "run", progress=SilentProgress())
    assert seen == {"small": {32}, "alone": {16}, "labels": {32}}


def test_views_that_come_round_again_are_embedded_once_and_resume_to_the_same_bits(pictures, tmp_path, monkeypatch):
    options = ("epochs=5", "view_epochs=2", "stranger_views=true", "sampler.kind=pk", "sampler.images_per_class=4")
    config = toy_config(
        pictures,
        (*(f"student_training.{option}" for option in options), "students.0.loss.centroid={}"),
    )
    shown, embedded = [], []
    real_step = loop.train_step

    class Counting(students.GalleryMemory):
        def __init__(self, gallery, views, store=None):
            def counting(image):
                embedded.append(1)
                return gallery(image)

            super().__init__(counting, views, store)

    def watching(trainees, gallery, image, labels, **options):
        if gallery is not None:
            shown.append((image.clone(), labels.clone()))
        return real_step(trainees, gallery, image, labels, **options)

    monkeypatch.setattr(loop, "train_step", watching)
    monkeypatch.setattr(students, "GalleryMemory", Counting)
    train_run(config, tmp_path / "whole", progress=SilentProgress())
    steps = 96 // 16
    assert len(shown) == 5 * steps
    assert len(embedded) == 2 * steps
    for step, (image, labels) in enumerate(shown):
        assert torch.equal(image, shown[step % (2 * steps)][0])
        assert torch.equal(labels, shown[step % (2 * steps)][1])
    assert not torch.equal(shown[0][0], shown[steps][0])
    labels = shown[0][1]
    assert torch.equal(labels[16:], -1 - labels[:16])  # the strangers made of a class are a class
    monkeypatch.undo()
    with pytest.raises(Killed):
        train_run(config, tmp_path / "cut", progress=StopAt(9))
    train_run(config, tmp_path / "cut", progress=SilentProgress())
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_turned_classes_are_trained_on_but_only_the_upright_ones_are_prototypes(pictures, finished, tmp_path):
    config = toy_config(pictures, ("gallery.train.turned_classes=0.5",))
    run = train_run(config, tmp_path / "run", progress=SilentProgress())
    gallery = load_model(run.gallery)
    assert gallery.prototypes is not None
    assert gallery.prototypes.shape == (8, 16)
    assert gallery.card.classes == load_model(finished.gallery).card.classes
    first = next(line for line in read_journal(run.run / "metrics.jsonl") if line["phase"] == "gallery")
    assert first["loss"]["gallery"]["softmax"] > np.log(
        8 * 8
    )  # nats of guessing among eight poses of eight classes, and the margin
    with pytest.raises(Killed):
        train_run(config, tmp_path / "cut", progress=StopAt(2))
    train_run(config, tmp_path / "cut", progress=SilentProgress())
    assert weights(tmp_path / "cut") == weights(run.run)


def test_options_of_the_other_phase_and_a_centroid_without_pk_are_refused(pictures):
    with pytest.raises(ConfigError, match=r"student_training.turned_classes: unknown key"):
        toy_config(pictures, ("student_training.turned_classes=0.5",))
    with pytest.raises(ConfigError, match=r"students.small.loss: centroid needs several pictures of a class"):
        toy_config(pictures, ("students.0.loss.centroid={}",))
    toy_config(pictures, ("students.0.loss.centroid={}", "student_training.sampler.kind=pk"))


@pytest.mark.parametrize("key", ["stranger_views=true", "view_epochs=2"])
def test_what_needs_a_gallery_model_is_refused_for_the_gallery_model(pictures, key):
    with pytest.raises(ConfigError, match=r"gallery.train.\w+: unknown key"):
        toy_config(pictures, (f"gallery.train.{key}",))


def test_a_finished_run_is_left_alone(pictures, finished):
    before = weights(finished.run)
    again = train_run(toy_config(pictures), finished.run, progress=StopAt(1))
    assert again == finished
    assert weights(finished.run) == before


def test_the_gallery_forward_runs_once_a_batch_for_two_students(pictures, tmp_path, monkeypatch):
    tree = toy_tree(pictures)
    tree["students"][1] = tree["students"][0] | {"name": "second"}
    calls = {"gallery": 0, "steps": 0}
    real_step = loop.train_step

    def counting(trainees, gallery, image, labels, **options):
        if gallery is not None:
            calls["steps"] += 1

            def embed(image):
                calls["gallery"] += 1
                return gallery(image)

            return real_step(trainees, embed, image, labels, **options)
        return real_step(trainees, gallery, image, labels, **options)

    monkeypatch.setattr(loop, "train_step", counting)
    train_run(RunConfig.model_validate(tree), tmp_path / "run", progress=SilentProgress())
    assert calls["steps"] == 3 * (96 // 16)
    assert calls["gallery"] == calls["steps"]


@pytest.mark.parametrize("lr", ["1e30", "1e38"])
def test_ruined_weights_or_losses_stop_the_run_and_are_never_committed(pictures, tmp_path, lr):
    config = toy_config(pictures, (f"gallery.train.lr={lr}", "gallery.train.save_every_steps=1"))
    with pytest.raises(
        TrainingError,
        match=r"diverged.*not (a number|numbers) .*lower gallery\.train\.lr .*--out; (nothing was saved|the state)",
    ):
        train_run(config, tmp_path / "run", progress=SilentProgress())
    for state in (tmp_path / "run" / "state" / "gallery").glob("step-*"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(state / "state.safetensors").values())


def test_a_rate_that_cannot_be_calibrated_is_refused_before_training(pictures, tmp_path):
    config = toy_config(pictures, ("evaluation.false_accept_rates=[0.0001]",))
    with pytest.raises(RetrievalError, match=r"8064 pairs .*evaluation.false_accept_rates: 0.0013 or more"):
        train_run(config, tmp_path / "run", progress=SilentProgress())
    assert not (tmp_path / "run" / "state").exists()


def test_a_single_training_class_is_refused(pictures, tmp_path):
    arrays = dict(np.load(pictures))
    np.savez(tmp_path / "one.npz", **(arrays | {"train": np.arange(12)}))
    with pytest.raises(DataError, match="single class"):
        train_run(toy_config(tmp_path / "one.npz"), tmp_path / "run", progress=SilentProgress())


def test_the_display_is_ended_when_training_fails(pictures, tmp_path):
    ended = []

    class Watching(SilentProgress):
        def finish(self):
            ended.append(True)

    with pytest.raises(TrainingError):
        train_run(toy_config(pictures, ("gallery.train.lr=1e38",)), tmp_path / "run", progress=Watching())
    assert ended == [True]


def test_two_processes_do_not_train_in_one_directory(pictures, tmp_path):
    import filelock

    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(StorageError, match="another process is training"):
        train_run(toy_config(pictures), tmp_path, progress=SilentProgress())


def test_a_full_disk_while_saving_loses_no_committed_step(pictures, finished, tmp_path, monkeypatch):
    import errno
    import os

    config, out = toy_config(pictures), tmp_path / "run"
    real, calls = os.fsync, {"left": 12}

    def fills_up(descriptor):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up)
        with pytest.raises(StorageError, match="disk is full"):
            train_run(config, out, progress=SilentProgress())
    assert list((out / "state" / "gallery").glob("step-*"))
    train_run(config, out, progress=SilentProgress())
    assert weights(out) == weights(finished.run)


def test_a_classifier_of_wholly_other_classes_is_refused(pictures, finished, tmp_path):
    from hetero.data.open import open_dataset

    arrays = dict(np.load(pictures))
    np.savez(tmp_path / "other.npz", **(arrays | {"classes": np.array([f"other {i}" for i in range(16)])}))
    config = toy_config(tmp_path / "other.npz", ("students.0.loss.influence.prototypes=classifier",))
    with pytest.raises(ConfigError, match="other classes"):
        students.train_students(
            config,
            open_dataset(config.data),
            load_model(finished.gallery),
            tmp_path / "run",
            device=torch.device("cpu"),
            progress=SilentProgress(),
        )


def test_a_missing_tensorboard_is_told_before_anything_is_trained(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = toy_config(pictures, ("student_training.tensorboard=true",))
    with pytest.raises(MissingExtraError, match="tensorboard"):
        train_run(config, tmp_path / "run", progress=SilentProgress())
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_other_threads_after_a_warning_and_keeps_what_it_began_with(pictures, tmp_path, caplog):
    config, run, before = toy_config(pictures), tmp_path / "run", torch.get_num_threads()
    try:
        with pytest.raises(Killed):
            train_run(config, run, progress=StopAt(2), threads=1)
        train_run(config, run, progress=SilentProgress(), threads=2)
        assert "began with --threads 1 and goes on with 2" in caplog.text
        assert read_run(run).threads == 1
        caplog.clear()
        train_run(config, run, progress=SilentProgress(), threads=2)  # there is nothing left to train
        assert not caplog.records
    finally:
        torch.set_num_threads(before)


def test_tensorboard_writes_events(pictures, tmp_path):
    train_run(toy_config(pictures, ("gallery.train.tensorboard=true",)), tmp_path / "run", progress=SilentProgress())
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_training_needs_no_global_seed(pictures, finished, tmp_path):
    torch.manual_seed(123)
    np.random.seed(123)
    train_run(toy_config(pictures), tmp_path / "run", progress=SilentProgress())
    assert weights(tmp_path / "run") == weights(finished.run)
