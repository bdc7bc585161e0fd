"""Students that train together: each on its own terms, none at another's cost; and a gallery model among them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

sys.path.insert(0, str(Path(__file__).parent))
from test_run import Killed, StopAt, journal, weights
from toy import toy_tree, write_pictures

from hetero.config import RunConfig
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.errors import CheckpointError, ConfigError, DataError, TrainingError
from hetero.journal import read_journal
from hetero.logs import SilentProgress
from hetero.losses.config import LossConfig
from hetero.models.arch import ArchSpec
from hetero.models.checkpoint import load_model, read_card
from hetero.models.embed import embed
from hetero.training import students
from hetero.training.config import TrainConfig
from hetero.training.health import Health
from hetero.training.memory import DiskStore, GalleryMemory
from hetero.training.step import joint_step
from hetero.training.trainee import Trainee
from hetero.workflows.evaluate import evaluate_run
from hetero.workflows.train import train_run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture(scope="module")
def gallery(pictures, tmp_path_factory):
    """A finished gallery model, so that only students have to be trained."""
    tree = toy_tree(pictures) | {"students": []}
    return train(tree, tmp_path_factory.mktemp("gallery") / "run").gallery


def train(tree, out, progress=None):
    return train_run(RunConfig.model_validate(tree), out, progress=progress or SilentProgress())


def student(name, **changes):
    arch = {"size": 12, "channels": 1, "dim": 16, "stem_width": 4, "stages": [{"width": 6}, {"width": 8}]}
    return {"name": name, "arch": arch, "loss": {"alignment": {}}} | changes


def with_students(pictures, gallery, *added, **training):
    tree = toy_tree(pictures)
    tree["gallery"] = {"checkpoint": str(gallery)}
    tree["students"] = list(added)
    tree["student_training"] = tree["student_training"] | training
    return tree


def test_a_student_learns_the_same_whoever_trains_beside_it(pictures, gallery, tmp_path):
    beside = student("b", loss={"softmax": {}}, role="control", train={"lr": 0.01, "optimizer": "adamw"})
    one = train(with_students(pictures, gallery, student("a")), tmp_path / "one")
    two = train(with_students(pictures, gallery, student("a"), beside), tmp_path / "two")
    assert weights(one.run)["students/a/model.safetensors"] == weights(two.run)["students/a/model.safetensors"]


def test_each_student_has_its_own_optimizer_average_and_schedule(pictures, gallery, tmp_path):
    own = {
        "plain": {},
        "slow": {"lr": 0.001},
        "averaged": {"ema_decay": 0.5},
        "adam": {"optimizer": "adamw", "lr": 0.003},
        "short": {"epochs": 1},
    }
    run = train(
        with_students(pictures, gallery, *(student(name, train=change) for name, change in own.items())),
        tmp_path / "run",
    )
    found = weights(run.run)
    assert len({found[f"students/{name}/model.safetensors"] for name in own}) == len(own)
    logged = {
        name: [line["step"] for line in read_journal(run.run / "metrics.jsonl") if name in line["loss"]] for name in own
    }
    assert max(logged["short"]) == 8  # its six steps end within the line of step 8
    assert max(logged["plain"]) == 18


def test_a_student_with_fewer_epochs_stays_as_it_was_at_their_end(pictures, gallery, tmp_path):
    short = student("short", train={"epochs": 1})
    long = train(with_students(pictures, gallery, short, student("long")), tmp_path / "long")
    alone = train(with_students(pictures, gallery, short, student("long"), epochs=1), tmp_path / "alone")
    name = "students/short/model.safetensors"
    assert weights(long.run)[name] == weights(alone.run)[name]


@pytest.mark.parametrize(
    ("change", "reason"), [({"lr": 1e30}, "not a number|not numbers"), ({"lr": 1e38}, "not a number|not numbers")]
)
def test_a_diverging_student_is_stopped_and_named_and_the_others_do_not_notice(
    pictures, gallery, tmp_path, change, reason
):
    good, bad = student("good"), student("bad", train=change)
    alone = train(with_students(pictures, gallery, good), tmp_path / "alone")
    run = train(with_students(pictures, gallery, good, bad), tmp_path / "run")
    assert list(run.stopped) == ["bad"]
    assert any(part in run.stopped["bad"] for part in reason.split("|"))
    assert set(run.students) == {"good"}
    assert weights(run.run) == weights(alone.run)
    lines = read_journal(run.run / "metrics.jsonl")
    assert [list(line["stopped"]) for line in lines if "stopped" in line] == [["bad"]]
    again = train(with_students(pictures, gallery, good, bad), tmp_path / "run", StopAt(1))
    assert again == run
    report = evaluate_run(run.run)
    [check] = [check for check in report.checks if check.name.startswith("bad: training")]
    assert not check.passed


@pytest.mark.parametrize("advances", [1, 3])
def test_a_run_interrupted_after_a_student_was_stopped_stops_it_again(pictures, gallery, tmp_path, advances):
    # Saved at every step: the stop is committed before a metrics line has told of it.
    tree = with_students(
        pictures, gallery, student("good"), student("bad", train={"lr": 1e38}), save_every_steps=1, log_every_steps=5
    )
    whole = train(tree, tmp_path / "whole")
    with pytest.raises(Killed):
        train(tree, tmp_path / "cut", StopAt(advances))
    states = sorted((tmp_path / "cut" / "state" / "students").glob("step-*"))
    for newest in states[-1:] if advances == 1 else []:
        assert "bad" in json.loads((newest / "state.json").read_text())["meter"]["health"]["stopped"]
        (tmp_path / "cut" / "metrics.jsonl").write_text("")  # as if killed before the line was written
    cut = train(tree, tmp_path / "cut")
    assert cut.stopped == whole.stopped
    assert weights(cut.run) == weights(whole.run)
    assert journal(cut.run) == journal(whole.run)


def test_a_run_whose_last_student_diverges_fails(pictures, gallery, tmp_path):
    with pytest.raises(TrainingError, match=r"'bad' diverged, the last of the students.*lower the learning rate"):
        train(with_students(pictures, gallery, student("bad", train={"lr": 1e38})), tmp_path / "run")


def test_health_stops_a_loss_that_stays_far_above_its_beginning_and_forgives_a_bad_stretch():
    health = Health()
    line = lambda value: {"a": {"total": value}, "b": {"total": 1.0}}  # noqa: E731
    assert health.check_line(line(1.0), 10) == []
    for value in (3.0, 3.0, 3.0, 3.0, 1.5, 3.0, 3.0, 3.0, 3.0):
        assert health.check_line(line(value), 20) == []
    assert Health(**health.to_json()).check_line(line(3.0), 30) == ["a"]  # the count survives an interruption
    assert health.check_line(line(3.0), 30) == ["a"]
    assert "from 1 to 3 by step 30" in health.stopped["a"]
    assert health.well(["a", "b"]) == ["b"]


def test_a_student_of_smaller_pictures_shares_the_space_at_its_own_size(pictures, gallery, tmp_path):
    arch = student("x")["arch"] | {"size": 8}
    tree = with_students(pictures, gallery, student("small", arch=arch), student("full"), epochs=6)
    run = train(tree, tmp_path / "run")
    card = read_card(run.students["small"])
    assert (card.preprocess.height, card.preprocess.width, card.space_size) == (8, 8, 12)
    assert card.space.id == run.space_id == read_card(run.students["full"]).space.id
    report = evaluate_run(run.run)
    [small] = [one for one in report.students if one.name == "small"]
    assert small.cells.heterogeneous.r_at_1.low > 2 * report.baselines.chance.r_at_1.value
    # What it was trained on, a batch made smaller, is what it gets to see: pictures made smaller by the reference.
    dataset = open_dataset(RunConfig.model_validate(tree).data)
    model, large = load_model(run.students["small"]), load_model(run.gallery)
    test = dataset.split("test")
    query = embed(model.network, read_pixels(dataset, test, model.preprocess), model.preprocess)
    target = embed(large.network, read_pixels(dataset, test, large.preprocess), large.preprocess)
    assert cosine_similarity(torch.from_numpy(query), torch.from_numpy(target)).mean() > 0.5


def test_a_small_students_preprocessing_cannot_be_changed_afterwards(pictures, gallery, tmp_path):
    arch = student("x")["arch"] | {"size": 8}
    run = train(with_students(pictures, gallery, student("small", arch=arch)), tmp_path / "run")
    file = run.students["small"] / "model.json"
    content = json.loads(file.read_text())
    for change in ({"preprocess": content["preprocess"] | {"mean": [0.4]}}, {"space_size": 11}):
        file.write_text(json.dumps(content | change))
        with pytest.raises(CheckpointError, match="names a space"):
            read_card(run.students["small"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {"macs": 1000}}, r"students.x: [\d,]+ MACs are over its budget of 1,000"),
        ({"budget": {"params": 10}}, r"students.x: [\d,]+ parameters are over its budget of 10"),
        ({"train": {"epochs": 4}}, "4 epochs are more than the 3 of student_training"),
        ({"train": {"learning_rate": 4}}, "Extra inputs"),
        ({"arch": student("x")["arch"] | {"block": "bottleneck"}}, "not of the gallery model's family"),
        ({"role": "control"}, "a control trains with softmax, logits, relational alone"),
        ({"name": "gallery"}, "the name gallery is the gallery model's"),
        ({"loss": {"relational": {}}}, "a compatible student needs one of"),
    ],
)
def test_students_that_cannot_be_are_refused(pictures, change, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate(toy_tree(pictures) | {"students": [student(**{"name": "x"} | change)]})


def test_a_mismatched_student_trains_where_the_config_says_so(pictures, gallery, tmp_path):
    arch = student("x")["arch"] | {"block": "bottleneck", "head": "average", "stages": [{"width": 8, "group_width": 1}]}
    run = train(with_students(pictures, gallery, student("x", arch=arch, matched=False)), tmp_path / "run")
    assert read_card(run.students["x"]).space.id == run.space_id
    with pytest.raises(ConfigError, match="not of the gallery model's family"):
        train(with_students(pictures, gallery, student("x", arch=arch)), tmp_path / "other")


def test_every_loss_term_trains_a_student(pictures, gallery, tmp_path):
    terms = {
        "influence": {"influence": {"prototypes": "classifier"}},
        "centres": {"influence": {}},
        "l2": {"alignment": {"distance": "l2", "weight": 1}},
        "contrastive": {"contrastive": {}},
        "triplet": {"triplet": {"margin": 0.5}},
        "contextual": {"contextual": {"neighbours": 16}},
        "structure": {"structure": {"parts": 4, "anchors": 8, "query_temperature": 0.1, "gallery_temperature": 0.1}},
        "ranking": {"ranking": {"neighbours": 16, "temperature": 0.1}},
        "decoupled": {"decoupled": {"neighbours": 16}},
        "centre": {"softmax": {}, "centre": {"alignment": 1.0}},
    }
    tree = with_students(
        pictures, gallery, *(student(name, loss=loss) for name, loss in terms.items()), epochs=12, lr=0.03
    )
    run = train(tree, tmp_path / "run")
    assert set(run.students) == set(terms)
    report = evaluate_run(run.run)
    chance = report.baselines.chance.r_at_1.value
    found = {one.name: one.cells.heterogeneous.r_at_1.low for one in report.students}
    assert all(low > 1.2 * chance for low in found.values()), found


def test_negative_controls_with_a_teacher_find_nothing_in_its_gallery(pictures, gallery, tmp_path):
    losses = {"logits": {"softmax": {}, "logits": {}}, "relational": {"relational": {}}}
    controls = [student(name, loss=loss, role="control") for name, loss in losses.items()]
    run = train(with_students(pictures, gallery, student("a"), *controls, epochs=12, lr=0.02), tmp_path / "run")
    for name in losses:
        assert read_card(run.students[name]).space.id != run.space_id
    report = evaluate_run(run.run)
    by_name = {one.name: one.cells for one in report.students}
    for name in losses:
        assert by_name[name].homogeneous.r_at_1.value > 0.5
        assert by_name[name].heterogeneous.map_at_r.value < 0.5 * by_name["a"].heterogeneous.map_at_r.value


# --- the gallery model in training -----------------------------------------------------------------------------------


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
        ({"student_training": {"cache": "disk"}}, "no cache and no gallery_precision"),
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


def test_students_added_to_a_run_with_a_checkpoint_are_checked_too(pictures, gallery, tmp_path):
    train(with_students(pictures, gallery) | {"students": []}, tmp_path / "run")
    small = student("a")["arch"] | {"dim": 8}
    with pytest.raises(ConfigError, match=r"dim 8; expected dim 16"):
        train(with_students(pictures, gallery, student("a", arch=small)), tmp_path / "run")


def test_a_run_whose_compatible_students_all_diverged_cannot_be_compared(pictures, gallery, tmp_path):
    control = student("control", role="control", loss={"softmax": {}})
    run = train(with_students(pictures, gallery, student("bad", train={"lr": 1e38}), control), tmp_path / "run")
    with pytest.raises(ConfigError, match="no compatible student left to compare; got bad: its"):
        evaluate_run(run.run)


# --- a finished gallery model, remembered views, unlabelled pictures --------------------------------------------------


def test_a_finished_gallery_model_is_copied_into_the_run(pictures, gallery, tmp_path):
    run = train(with_students(pictures, gallery, student("a")), tmp_path / "run")
    assert (run.gallery / "model.safetensors").read_bytes() == (gallery / "model.safetensors").read_bytes()
    assert run.space_id == read_card(gallery).space.id


def test_a_checkpoint_that_is_no_fitting_gallery_model_is_refused(pictures, gallery, tmp_path):
    run = train(with_students(pictures, gallery, student("a")), tmp_path / "run")
    with pytest.raises(ConfigError, match="is no gallery model; got role compatible"):
        train(with_students(pictures, run.students["a"], student("a")), tmp_path / "b")
    other = with_students(pictures, gallery, student("a"))
    other["preprocess"] = other["preprocess"] | {"mean": [0.4]}
    with pytest.raises(ConfigError, match="takes other pictures than preprocess makes"):
        train(other, tmp_path / "c")
    with pytest.raises(ConfigError, match="dim 8; expected dim 16"):
        train(with_students(pictures, gallery, student("a", arch=student("a")["arch"] | {"dim": 8})), tmp_path / "d")
    for section in ({"checkpoint": str(gallery), "arch": student("a")["arch"]}, {"arch": student("a")["arch"]}):
        with pytest.raises(ValueError, match=r"remove arch and train|arch and train are missing"):
            RunConfig.model_validate(toy_tree(pictures) | {"gallery": section})


VIEWS = {"epochs": 4, "view_epochs": 2, "stranger_views": True}


def counting(monkeypatch):
    embedded = []

    class Counting(GalleryMemory):
        def __init__(self, network, views, store=None):
            def embed(image):
                embedded.append(1)
                return network(image)

            super().__init__(embed, views, store)

    monkeypatch.setattr(students, "GalleryMemory", Counting)
    return embedded


def test_views_on_disk_give_the_same_students_and_outlive_the_process(pictures, gallery, tmp_path, monkeypatch):
    memory = train(with_students(pictures, gallery, student("a"), **VIEWS), tmp_path / "memory")
    embedded = counting(monkeypatch)
    tree = with_students(pictures, gallery, student("a"), cache="disk", **VIEWS)
    disk = train(tree, tmp_path / "disk")
    assert weights(disk.run) == weights(memory.run)
    assert len(embedded) == 12
    for part in ("state/students", "students", "metrics.jsonl"):
        path = tmp_path / "disk" / part
        path.rename(tmp_path / part.replace("/", "-"))
    train(tree, tmp_path / "disk")
    assert len(embedded) == 12, "all views were found on disk"
    assert weights(disk.run) == weights(memory.run)


def test_a_damaged_view_is_embedded_again(pictures, gallery, tmp_path, monkeypatch):
    tree = with_students(pictures, gallery, student("a"), cache="disk", **VIEWS)
    with pytest.raises(Killed):
        train(tree, tmp_path / "run", StopAt(2))
    [data] = (tmp_path / "run" / "cache").glob("*.f32")
    content = bytearray(data.read_bytes())
    content[4 * 100] ^= 1
    data.write_bytes(content)
    embedded = counting(monkeypatch)
    run = train(tree, tmp_path / "run")
    assert len(embedded) >= 1
    memory = train(with_students(pictures, gallery, student("a"), **VIEWS), tmp_path / "memory")
    assert weights(run.run) == weights(memory.run)


def test_a_disk_store_gives_back_what_was_put_and_nothing_else(tmp_path):
    store = DiskStore(tmp_path, "key", 3)
    first, second = torch.randn(4, 5), torch.randn(4, 5)
    assert store.get(0) is None
    store.put(2, first)
    store.put(0, second)
    again = DiskStore(tmp_path, "key", 3)
    assert torch.equal(again.get(2), first)
    assert torch.equal(again.get(0), second)
    assert again.get(1) is None
    assert DiskStore(tmp_path, "other", 3).get(0) is None
    (tmp_path / "views-key.f32").write_bytes(b"")
    assert DiskStore(tmp_path, "key", 3).get(0) is None


def test_unlabelled_pictures_join_each_batch_for_the_terms_that_need_no_labels(
    pictures, gallery, tmp_path, monkeypatch
):
    (tmp_path / "photos" / "2024").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(7):
        pixels = rng.integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / ("2024" if number % 2 else "") / f"{number}.png")
    extra = {"unlabelled": {"path": str(tmp_path / "photos"), "per_batch": 5}}
    seen = []
    real = Trainee.embed
    monkeypatch.setattr(
        Trainee, "embed", lambda self, image: (seen.append((self.name, len(image))), real(self, image))[1]
    )
    alone = student("alone", role="control", loss={"softmax": {}})
    run = train(with_students(pictures, gallery, student("a"), alone, stranger_views=True, **extra), tmp_path / "run")
    assert set(seen) == {("a", 16 + 16 + 5), ("alone", 16)}
    without = train(with_students(pictures, gallery, student("a"), alone, stranger_views=True), tmp_path / "without")
    first, second = weights(run.run), weights(without.run)
    assert first["students/alone/model.safetensors"] == second["students/alone/model.safetensors"]
    assert first["students/a/model.safetensors"] != second["students/a/model.safetensors"]


def test_a_folder_without_unlabelled_pictures_is_refused(pictures, gallery, tmp_path):
    for path, message in ((tmp_path / "none", "no folder of unlabelled"), (tmp_path, "no pictures in")):
        tree = with_students(pictures, gallery, student("a"), unlabelled={"path": str(path)})
        with pytest.raises(DataError, match=message):
            train(tree, tmp_path / "run")


def test_bfloat16_changes_the_arithmetic_and_not_the_type_of_what_is_kept(pictures, gallery, tmp_path):
    plain = train(with_students(pictures, gallery, student("a")), tmp_path / "plain")
    half = train(with_students(pictures, gallery, student("a"), precision="bfloat16"), tmp_path / "half")
    models = [load_model(run.students["a"]).network for run in (plain, half)]
    assert all(parameter.dtype == torch.float32 for parameter in models[1].parameters())
    assert not torch.equal(models[0].project.weight, models[1].project.weight)
    first, last = (journal(half.run)[i]["loss"]["a"]["total"] for i in (0, -1))
    assert last == pytest.approx(journal(plain.run)[-1]["loss"]["a"]["total"], rel=0.1)
    assert last < 0.8 * first
