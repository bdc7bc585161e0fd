"""Run configs: what is read, what is refused, and that each message names the key and the fix."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent / "training"))
from toy import toy_tree

from hetero.config import load_config, parse_config, with_overrides
from hetero.errors import ConfigError
from hetero.retrieval.config import EvaluationConfig
from hetero.training.config import GalleryTrainConfig, StudentTrainConfig

ROOT = Path(__file__).parent.parent


@pytest.fixture
def tree(tmp_path):
    return toy_tree(tmp_path / "toy.npz")


def parse(tree, *overrides):
    return parse_config(yaml.safe_dump(tree), overrides)


def test_a_config_goes_to_yaml_and_back(tree):
    config = parse(tree)
    assert parse_config(config.to_yaml()) == config
    assert parse_config(config.to_yaml()).digest() == config.digest()


def test_overrides_reach_nested_keys_and_list_entries(tree):
    config = parse(tree, "seed=7", "gallery.train.lr=0.5", "students.0.loss.alignment.weight=3", "data.val_classes=2")
    assert config.seed == 7
    assert config.gallery.train.lr == 0.5
    assert config.students[0].loss.alignment.weight == 3
    assert config.data.val_classes == 2
    again = with_overrides(config, ["seed=8"])
    assert (again.seed, again.gallery) == (8, config.gallery)
    assert with_overrides(config, []) is config


def test_a_check_that_was_switched_off_stays_off(tree):
    off = "evaluation.expect={control_times_chance: null, minimum_cell: null}"
    config = parse(tree, off)
    again = with_overrides(config, ["evaluation.rotations=100"])
    for one in (config, parse_config(config.to_yaml()), again):
        assert (one.evaluation.expect.control_times_chance, one.evaluation.expect.minimum_cell) == (None, None)


def test_overriding_an_aliased_section_changes_that_place_alone(tree):
    text = yaml.safe_dump(tree)
    assert "&id" in text  # the toy config shares its training section
    config = parse_config(text, ["gallery.train.epochs=9"])
    assert (config.gallery.train.epochs, config.student_training.epochs) == (9, 3)


def test_the_digest_changes_with_any_value(tree):
    assert parse(tree).digest() != parse(tree, "gallery.train.lr=0.5").digest()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["gallery.train.leraning_rate=1"],
            r"gallery\.train\.leraning_rate: unknown key, .* augment, .*, weight_decay",
        ),
        (["students.0.loss.aligment={}"], r"students\.0\.loss\.aligment: unknown key, .*\(nearest: alignment\)"),
        (
            ["student_training.sampler={kind: pk, images: 4}"],
            r"student_training\.sampler\.images: .* images_per_class, kind",
        ),
        (["joint={pull: 2}"], "joint: the key 'kind' is missing"),
        (["evaluation.false_accept_rates=0.01"], "false_accept_rates: Input should be a list"),
        (["evaluation.expect.share_of_paragon=90"], "share_of_paragon: Input should be less than or equal to 2"),
        (["colour=1"], r"got colour: unknown key, expected one of data, .*, students"),
        (["data.format=tarball"], "data"),
        (["gallery.train.epochs=0"], r"gallery\.train\.epochs"),
        (["gallery.train.optimizer=lion"], r"gallery\.train\.optimizer"),
        (["name=../up"], "name"),
        (
            ["preprocess.height=10"],
            "preprocess makes other pictures than gallery.arch takes; got 10×12×1; expected 12×12×1",
        ),
        (["students.1.name=small"], "two have the same name"),
        (["students.0.arch.dim=8"], "student 'small' is not of the gallery model's family"),
        (["students.0.role=control"], "a control trains with softmax, logits, relational alone"),
        (["students.1.role=compatible"], "needs one of influence, alignment"),
        (["students.1.loss={}"], "at least one of softmax"),
        (["gallery.loss={alignment: {}}"], "trains with the softmax term alone"),
        (["student_training=null"], "student_training is missing"),
        (["gallery.train.lr=.inf"], r"gallery\.train\.lr"),
        (["seed=999999999999999999999"], "seed"),
        (["students.².name=x"], "no such list entry"),
        (["evaluation.false_accept_rates=[0]"], "false_accept_rates"),
        (["evaluation.preset=cub2000"], r"no evaluation preset 'cub2000'; expected one of cub200, .*nearest: cub200"),
        (["evaluation.preset=3"], r"evaluation\.preset"),
        (["evaluation.preset=ijbc-1:N"], r"'ijbc-1:N' scores templates.*run: hetero templates RUN PATH --protocol 1:N"),
        (["evaluation.preset=sop"], "evaluation.preset sop belongs to data of format sop, not npz"),
        (["evaluation={preset: sop, split: val}"], "preset sop searches the split test, not 'val'"),
        (["data=3"], "data"),
        (["gallery=null"], "gallery"),
        (["students=5"], "students"),
        (["seed"], "has no '='"),
        (["=3"], "has no '='"),
        (["students.9.name=a"], r"no such list entry; got '9'; expected a number 0\.\.1"),
        (["name.deep=1"], "holds a value, not further keys"),
    ],
)
def test_a_wrong_key_or_value_is_named(tree, overrides, message):
    with pytest.raises(ConfigError, match=message):
        parse(tree, *overrides)


def test_environment_variables_are_expanded_and_an_unset_one_is_named(tree, monkeypatch):
    tree["data"]["path"] = "${HETERO_TEST_FOLDER}/toy.npz"
    monkeypatch.setenv("HETERO_TEST_FOLDER", "somewhere")
    assert parse(tree).data.path == Path("somewhere/toy.npz")
    monkeypatch.delenv("HETERO_TEST_FOLDER")
    with pytest.raises(
        ConfigError, match=r"names \$\{HETERO_TEST_FOLDER\}, which is not set.*export HETERO_TEST_FOLDER"
    ):
        parse(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no valid YAML"),
        ("- 1", "no mapping"),
        ("", "no mapping"),
        ("a: &a [*a]", "no valid YAML"),
        ("a: 2024-13-45", "no valid YAML"),
        ("seed: 1\nname: x\nseed: 2", "no valid YAML; got line 1: a section with seed twice"),
        ("name: x\nstudents:\n- arch: {dim: 2, dim: 4}", "no valid YAML; got line 3: a section with dim twice"),
    ],
)
def test_text_that_is_no_config_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(text)


def test_a_missing_or_unreadable_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path)
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the config"):
        load_config(tmp_path / "bad.yaml")


def test_a_merged_key_may_be_replaced_even_twice_over(tree):
    del tree["evaluation"]
    text = yaml.safe_dump(tree) + (
        "evaluation: {<<: &base {resamples: 300, expect: &one {macs_ratio: 1}}, resamples: 400, "
        "expect: {<<: *one, macs_ratio: 2}}\n"
    )
    found = parse_config(text).evaluation
    assert (found.resamples, found.expect.macs_ratio) == (400, 2)


def test_yaml_tags_run_nothing():
    with pytest.raises(ConfigError, match="no valid YAML"):
        parse_config("name: !!python/object/apply:os.system ['true']")


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("examples/*.yaml")), ROOT / "hetero/demo.yaml"], ids=lambda p: p.name
)
def test_every_shipped_config_is_valid(path, monkeypatch):
    monkeypatch.setenv("HETERO_DATA", "data")
    config = load_config(path)
    assert any(student.role == "control" for student in config.students)
    assert any(student.role == "compatible" for student in config.students)


def test_a_preset_sets_the_split_and_survives_yaml(tree):
    data = "data={format: cub200, path: birds, train_classes: 8}"
    config = parse(tree, data, "evaluation={preset: cub200, resamples: 200}")
    assert (config.evaluation.preset, config.evaluation.split) == ("cub200", "test")
    assert parse_config(config.to_yaml()) == config
    assert with_overrides(parse(tree, data), ["evaluation.preset=cub200"]).evaluation.preset == "cub200"
    assert with_overrides(config, ["evaluation.preset=null", "evaluation.split=val"]).evaluation.split == "val"
    assert parse(tree).evaluation.preset is None


def test_an_evaluation_of_what_there_is_not_is_refused(tree):
    with pytest.raises(ValueError, match=r"minimum_cell is of the matrix: remove it, or matrix: false"):
        EvaluationConfig(matrix=False, expect={"minimum_cell": 0.9})
    assert not EvaluationConfig(matrix=False).matrix
    kept = parse(tree, "evaluation.matrix=false")
    assert type(kept).model_validate(kept.model_dump(mode="json")) == kept  # as run.json brings it back


def test_too_few_rotations_for_a_central_95_percent_are_refused():
    assert EvaluationConfig(rotations=0).rotations == 0
    assert EvaluationConfig(rotations=39).rotations == 39
    with pytest.raises(ValueError, match=r"evaluation.rotations: 38 show no central 95 %: set 39 or more, or 0"):
        EvaluationConfig(rotations=38)


def test_a_batch_that_is_no_whole_number_of_classes_is_refused_before_anything_trains():
    sampler = {"kind": "pk", "images_per_class": 4}
    assert GalleryTrainConfig(epochs=1, batch_size=20, sampler=sampler).batch_size == 20
    for train in (GalleryTrainConfig, StudentTrainConfig):
        with pytest.raises(ValueError, match=r"batch_size: 18 .* sampler.images_per_class, 4: change either"):
            train(epochs=1, batch_size=18, sampler=sampler)
