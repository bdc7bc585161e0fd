"""Students that train together: each on its own terms, none at another's cost."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

sys.path.insert(0, str(Path(__file__).parent))
from fleets import TERMS, student, train, with_students
from test_run import Killed, StopAt, journal, weights
from toy import toy_tree

from hetero.config import RunConfig
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.errors import CheckpointError, ConfigError, TrainingError
from hetero.journal import read_journal
from hetero.models.checkpoint import load_model, read_card
from hetero.models.embed import embed
from hetero.training.cloud import gallery_trainee, make_loader
from hetero.training.health import Health
from hetero.training.resume import latest_state
from hetero.training.students import student_trainees
from hetero.workflows.evaluate import evaluate_run


def test_a_student_learns_the_same_whoever_trains_before_it(pictures, gallery, tmp_path):
    beside = student("b", loss={"softmax": {}}, role="control", train={"lr": 0.01, "optimizer": "adamw"})
    one = train(with_students(pictures, gallery, student("a")), tmp_path / "one")
    two = train(with_students(pictures, gallery, beside, student("a")), tmp_path / "two")
    assert weights(one.run)["students/a/model.safetensors"] == weights(two.run)["students/a/model.safetensors"]


def test_students_of_another_name_or_seed_begin_elsewhere(pictures, gallery):
    def first_weights(name, seed):
        config = RunConfig.model_validate(with_students(pictures, gallery, student(name)) | {"seed": seed})
        loader = make_loader(open_dataset(config.data), config, config.student_training, seed)
        [trainee] = student_trainees(config, loader, None, device=torch.device("cpu"))
        return trainee.network.project.weight.detach()

    assert torch.equal(first_weights("a", 0), first_weights("a", 0))
    assert not torch.equal(first_weights("a", 0), first_weights("b", 0))
    assert not torch.equal(first_weights("a", 0), first_weights("a", 1))


def test_each_student_has_its_own_optimizer_average_and_schedule(pictures, gallery, tmp_path):
    own = [
        {},
        {"lr": 0.001},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"warmup_steps": 0},
        {"ema_decay": 0.5},
        {"optimizer": "adamw", "lr": 0.003},
        {"optimizer": "adamw", "lr": 0.003, "momentum": 0.5},
        {"epochs": 1},
    ]  # each as the student of one name, whose first weights and batches are the same
    runs = [
        train(with_students(pictures, gallery, student("a", train=change)), tmp_path / str(i)).run
        for i, change in enumerate(own)
    ]
    assert len({weights(run)["students/a/model.safetensors"] for run in runs}) == len(own)
    ends = [max(line["step"] for line in read_journal(run / "metrics.jsonl") if "a" in line["loss"]) for run in runs]
    assert ends == [18] * 8 + [8]  # its six steps end within the line of step 8


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


def test_a_student_that_the_very_last_step_ruins_is_in_the_last_metrics_line(pictures, gallery, tmp_path):
    bad = student("bad", loss={"alignment": {"weight": 1e6}}, train={"lr": 1e38})
    run = train(with_students(pictures, gallery, student("good"), bad, batch_size=96, epochs=1), tmp_path / "run")
    [line] = journal(run.run)
    assert "not numbers after step 1" in run.stopped["bad"]
    assert line["stopped"] == run.stopped


def test_a_run_whose_last_student_diverges_fails(pictures, gallery, tmp_path):
    with pytest.raises(TrainingError, match=r"'bad' diverged, the last of the students.*lower student_training"):
        train(with_students(pictures, gallery, student("bad", train={"lr": 1e38})), tmp_path / "run")


def test_a_run_that_ends_before_anything_was_saved_says_so(pictures, gallery, tmp_path):
    tree = with_students(pictures, gallery, student("bad", train={"lr": 1e38}))
    with pytest.raises(TrainingError, match=r"lower student_training\.lr, or .*train\.lr.*nothing was saved yet"):
        train(tree, tmp_path / "run")


def test_health_stops_a_loss_that_stays_far_above_its_beginning_and_forgives_a_bad_stretch():
    health = Health()
    line = lambda value: {"a": {"total": value}, "b": {"total": 1.0}}  # noqa: E731
    assert health.check_line(line(1.0), 10) == []
    for step, value in ((20, 3.0), (110, 3.0), (115, 1.5), (120, 3.0), (121, 3.0), (219, 3.0)):
        assert health.check_line(line(value), step) == []
    assert Health(**health.to_json()).check_line(line(3.0), 220) == ["a"]  # the count survives an interruption
    assert health.check_line(line(3.0), 220) == ["a"]
    assert "from 1 to 3 by step 220" in health.stopped["a"]
    assert health.well(["a", "b"]) == ["b"]


@pytest.mark.parametrize("every", [1, 50])
def test_how_often_metrics_are_written_does_not_decide_who_diverges(every):
    health = Health()
    stopped = [step for step in range(every, 401, every) if health.check_line({"a": {"total": float(step)}}, step)]
    assert len(stopped) == 1
    assert stopped[0] <= 250


def test_a_student_that_had_learnt_before_is_not_measured_by_where_it_began(pictures, gallery, tmp_path):
    alone = student("alone", role="control", loss={"softmax": {}})  # is not tuned, so it begins afresh
    tree = with_students(pictures, gallery, student("a"), alone) | {"joint": {"kind": "tuned", "epochs": 1}}
    run = train(tree, tmp_path / "run").run
    states = {phase: latest_state(run / "state" / phase) for phase in ("tuning", "students")}
    warm = {
        phase: {name for name, first in state.meter["health"]["first"].items() if first == math.inf}
        for phase, state in states.items()
    }
    assert warm == {"tuning": {"gallery"}, "students": {"a"}}
    health = Health(first={"a": math.inf})
    assert not any(health.check_line({"a": {"total": 1e6}}, step) for step in range(1, 400))
    assert health.check_losses({"a": {"total": math.nan}}, 400) == ["a"]


def test_a_student_of_smaller_pictures_shares_the_space_at_its_own_size(pictures, gallery, tmp_path):
    arch = student("x")["arch"] | {"size": 8}
    tree = with_students(pictures, gallery, student("small", arch=arch), student("full"), epochs=20)
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
        ({"name": "paragon"}, "the name paragon is the gallery model's"),
        ({"loss": {"structure": {"parts": 5}}}, "5 parts do not divide the dimension"),
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
    tree = with_students(
        pictures, gallery, *(student(name, loss=loss) for name, loss in TERMS.items()), epochs=12, lr=0.03
    )
    run = train(tree, tmp_path / "run")
    assert set(run.students) == set(TERMS)
    report = evaluate_run(run.run)
    chance = report.baselines.chance.r_at_1.value
    found = {one.name: one.cells.heterogeneous.r_at_1.low for one in report.students}
    assert {name: low for name, low in found.items() if low <= 1.2 * chance} == {}


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
        assert by_name[name].heterogeneous.r_at_1.value < 0.5 * by_name[name].homogeneous.r_at_1.value
    assert by_name["a"].heterogeneous.r_at_1.value > 0.5 * by_name["a"].homogeneous.r_at_1.value


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


def test_a_controls_first_classifier_is_not_the_gallery_models(pictures):
    """Two networks whose classifiers begin alike end up in one space: a control would be told where it lies."""
    config = RunConfig.model_validate(toy_tree(pictures))
    loader = make_loader(open_dataset(config.data), config, config.gallery.train, config.seed)
    device = torch.device("cpu")
    gallery = gallery_trainee(config, config.gallery.train, loader, steps=1, device=device)
    control = toy_tree(pictures)["students"][1]
    twins = [control, control | {"name": "other"}]
    config = RunConfig.model_validate(toy_tree(pictures) | {"students": twins})
    own = [trainee.loss.prototypes for trainee in student_trainees(config, loader, None, device=device)]
    for first, second in ((own[0], gallery.loss.prototypes), (own[1], gallery.loss.prototypes), tuple(own)):
        cosines = cosine_similarity(first, second[: len(first)])
        assert cosines.mean().abs() < 0.4, cosines
