"""A gallery model in training among its students: from the start, or tuned towards them afterwards."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

sys.path.insert(0, str(Path(__file__).parent))
from fleets import student, train, with_students
from test_run import Killed, StopAt, weights
from toy import toy_tree

from hetero.config import RunConfig
from hetero.errors import ConfigError
from hetero.journal import read_journal
from hetero.losses.config import LossConfig
from hetero.models.arch import ArchSpec
from hetero.models.checkpoint import load_model, read_card
from hetero.training.config import TrainConfig
from hetero.training.step import joint_step
from hetero.training.trainee import Trainee


def toy_trainee(name, loss, seed):
    arch = ArchSpec.model_validate(student(name)["arch"])
    return Trainee(
        name, arch, LossConfig.model_validate(loss), TrainConfig(epochs=1, lr=0.1, momentum=0, weight_decay=0),
        steps=10, num_classes=5, seed=seed, device=torch.device("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize("pull", [0.0, 2.0])
def test_the_joint_step_moves_the_gallery_model_by_its_own_loss_and_its_pull_alone(pull):
    image = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 9, -1, -2])  # classes, a pose beyond five of them, strangers
    softmax = {"softmax": {"margin": 0.0}}
    gallery, twin = (toy_trainee("gallery", softmax, 1) for _ in range(2))
    for one in (gallery, twin):
        one.loss.prototypes = torch.nn.Parameter(torch.randn(10, 16, generator=torch.Generator().manual_seed(2)))
        one.optimizer.add_param_group({"params": [one.loss.prototypes]})
    first, second = toy_trainee("a", {"alignment": {}}, 3), toy_trainee("b", {"alignment": {}}, 4)
    seen = [trainee.embed(image).detach() for trainee in (first, second)]
    terms = joint_step(gallery, [first, second], image, labels, num_classes=5, pull=pull, step=0)
    embedding = twin.embed(image)
    total, _ = twin.loss(embedding[:6], labels[:6])
    pulled = torch.stack([(1 - cosine_similarity(embedding, one)).mean() for one in seen]).mean()
    twin.update(total + pull * pulled, 0)
    for mine, expected in zip(gallery.network.parameters(), twin.network.parameters(), strict=True):
        assert torch.allclose(mine, expected, atol=1e-6)
    assert ("pull" in terms["gallery"]) == (pull > 0)
    assert set(terms) == {"gallery", "a", "b"}


def together(pictures, **joint):
    tree = toy_tree(pictures)
    tree["joint"] = {"kind": "together"} | joint
    tree["students"] = [student("a"), student("alone", role="control", loss={"softmax": {}})]
    tree["gallery"]["train"] = tree["gallery"]["train"] | {"turned_classes": 0.3}
    return tree


def test_together_trains_gallery_model_and_students_in_one_loop_and_resumes_to_the_same_bits(pictures, tmp_path):
    run = train(together(pictures, pull=0.5), tmp_path / "whole")
    lines = read_journal(run.run / "metrics.jsonl")
    assert {line["phase"] for line in lines} == {"together"}
    assert set(lines[0]["loss"]) == {"gallery", "a", "alone"}
    assert set(lines[0]["loss"]["gallery"]) == {"total", "softmax", "pull"}
    assert lines[-1]["loss"]["a"]["alignment"] < lines[0]["loss"]["a"]["alignment"]
    card = read_card(run.gallery)
    assert card.space.id == read_card(run.students["a"]).space.id != read_card(run.students["alone"]).space.id
    assert load_model(run.gallery).prototypes.shape == (8, 16)
    with pytest.raises(Killed):
        train(together(pictures, pull=0.5), tmp_path / "cut", StopAt(3))
    cut = train(together(pictures, pull=0.5), tmp_path / "cut")
    assert weights(cut.run) == weights(run.run)
    assert train(together(pictures, pull=0.5), tmp_path / "cut", StopAt(1)) == cut


def test_together_a_gallery_model_without_pull_learns_as_if_it_were_alone(pictures, tmp_path):
    run = train(together(pictures), tmp_path / "run")
    tree = toy_tree(pictures) | {"students": []}
    tree["gallery"]["train"] = tree["gallery"]["train"] | {"turned_classes": 0.3}
    alone = train(tree, tmp_path / "alone")
    name = "gallery/model.safetensors"
    assert weights(run.run)[name] == weights(alone.run)[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student_training": {"epochs": 4}}, "gallery.train.epochs must equal student_training.epochs"),
        ({"student_training": {"batch_size": 8}}, "gallery.train.batch_size must equal"),
        ({"student_training": {"sampler": {"kind": "pk"}}}, "gallery.train.sampler must equal"),
        ({"student_training": {"augment": {}}}, "gallery.train.augment must equal"),
        ({"student_training": {"log_every_steps": 1}}, "gallery.train.log_every_steps must equal"),
        ({"student_training": {"cache": "disk", "view_epochs": 1}}, "no cache and no gallery_precision"),
        ({"students": []}, "trains gallery model and students"),
        ({"student_training": {"view_epochs": 2}}, "no view_epochs"),
        ({"students": [student("a", loss={"influence": {}})]}, "students.a.loss: together there is no finished"),
        ({"students": [student("a", loss={"contextual": {}})]}, "candidates: batch"),
        ({"gallery": {"checkpoint": "x"}}, "trains gallery model and students"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(pictures, change, message):
    tree = together(pictures)
    for key, value in change.items():
        tree[key] = tree[key] | value if key == "student_training" else value
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(tree)


def test_a_tuned_gallery_model_moves_towards_its_students_and_keeps_the_untuned_one(pictures, tmp_path):
    tree = toy_tree(pictures) | {"joint": {"kind": "tuned", "epochs": 2, "lr": 0.02, "pull": 3.0}}
    tree["students"][0]["loss"] = {"alignment": {}}
    plain = train({k: v for k, v in tree.items() if k != "joint"}, tmp_path / "plain")
    run = train(tree, tmp_path / "run")
    before, after = read_card(run.run / "gallery-untuned"), read_card(run.gallery)
    assert before.weights_sha256 == read_card(plain.gallery).weights_sha256
    assert after.space.id != before.space.id
    assert after.provenance["untuned_weights_sha256"] == before.weights_sha256
    assert read_card(run.students["small"]).space.id == after.space.id
    lines = [line for line in read_journal(run.run / "metrics.jsonl") if line["phase"] == "tuning"]
    assert set(lines[0]["loss"]) == {"gallery", "small"}  # a control has no say
    assert lines[-1]["loss"]["gallery"]["pull"] < lines[0]["loss"]["gallery"]["pull"]
    assert max(line["lr"] for line in lines) == pytest.approx(0.02, rel=0.1)
    # The students go on from where the tuning left them.
    first = next(line for line in read_journal(run.run / "metrics.jsonl") if line["phase"] == "students")
    fresh = next(line for line in read_journal(plain.run / "metrics.jsonl") if line["phase"] == "students")
    assert first["loss"]["small"]["alignment"] < 0.8 * fresh["loss"]["small"]["alignment"]
    with pytest.raises(Killed):
        train(tree, tmp_path / "cut", StopAt(8))
    cut = train(tree, tmp_path / "cut")
    assert weights(cut.run) == weights(run.run)
    assert train(tree, tmp_path / "cut", StopAt(1)) == cut


def test_a_tuned_gallery_model_keeps_the_poses_it_has_learnt(pictures, tmp_path):
    tree = toy_tree(pictures) | {"joint": {"kind": "tuned", "epochs": 1, "lr": 0.001}}
    tree["gallery"]["train"] = tree["gallery"]["train"] | {"turned_classes": 0.5, "epochs": 6}
    tree["students"][0]["train"] = {"epochs": 3}  # its own schedule is for later
    run = train(tree, tmp_path / "run")
    lines = {phase: [line for line in read_journal(run.run / "metrics.jsonl") if line["phase"] == phase]
             for phase in ("gallery", "tuning")}  # fmt: skip
    ends = lines["gallery"][-1]["loss"]["gallery"]["softmax"]
    assert lines["tuning"][0]["loss"]["gallery"]["softmax"] < ends + 0.5  # goes on where it stopped, poses and all
    assert lines["tuning"][0]["loss"]["gallery"]["softmax"] > 1.0


def test_a_gallery_model_from_a_checkpoint_is_tuned_with_its_own_loss(pictures, tmp_path):
    lone = toy_tree(pictures) | {"students": []}
    lone["gallery"] = lone["gallery"] | {"loss": {"softmax": {"scale": 30.0, "margin": 0.0}}}
    gallery = train(lone, tmp_path / "lone").gallery
    own = read_card(gallery).provenance["loss"]
    assert own["softmax"] == {"weight": 1.0, "scale": 30.0, "margin": 0.0}
    tuned = with_students(pictures, gallery, student("a")) | {"joint": {"kind": "tuned", "epochs": 1}}
    assert read_card(train(tuned, tmp_path / "tuned").gallery).provenance["loss"] == own
    tuned["gallery"] = tuned["gallery"] | {"loss": {"softmax": {"scale": 20.0}}}
    with pytest.raises(ConfigError, match=r"another loss than its own; got .*20\.0.*expected .*30\.0"):
        train(tuned, tmp_path / "other")


def test_a_gallery_model_of_other_classes_is_not_tuned(pictures, gallery, tmp_path):
    arrays = dict(np.load(pictures))
    turned = {"train": arrays["test"], "test": arrays["train"]}
    np.savez(tmp_path / "other.npz", **(arrays | turned))
    tree = with_students(tmp_path / "other.npz", gallery, student("a")) | {"joint": {"kind": "tuned"}}
    with pytest.raises(ConfigError, match="cannot be tuned: it learnt other classes"):
        train(tree, tmp_path / "run")


def test_a_tuning_that_was_killed_before_it_was_saved_is_finished(pictures, tmp_path):
    """The checkpoint comes from a tuned run itself: its provenance says tuned, and that is not this tuning."""
    tree = toy_tree(pictures) | {"joint": {"kind": "tuned", "epochs": 1, "lr": 0.02}}
    first = train(tree, tmp_path / "first")
    again = tree | {"gallery": {"checkpoint": str(first.gallery)}}
    whole = train(again, tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        train(again, cut, StopAt(3))  # in the students' phase
    for path in (cut / "gallery").iterdir():  # as if killed between keeping the old model and saving the new one
        path.write_bytes((cut / "gallery-untuned" / path.name).read_bytes())
    shutil.rmtree(cut / "state" / "students", ignore_errors=True)
    train(again, cut)
    assert weights(cut) == weights(whole.run)


def test_students_cannot_be_changed_in_the_middle_of_a_joint_phase(pictures, tmp_path):
    tree = together(pictures)
    with pytest.raises(Killed):
        train(tree, tmp_path / "run", StopAt(3))
    tree["students"] = [student("a", train={"lr": 0.001})]
    with pytest.raises(ConfigError, match="another config"):
        train(tree, tmp_path / "run")
