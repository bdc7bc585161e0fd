"""What a run directory is, what may be changed in it, and what is refused before anything trains."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from test_run import Killed, StopAt, weights
from toy import toy_config, toy_tree, write_pictures

from hetero.config import RunConfig
from hetero.errors import CheckpointError, ConfigError, DataError, RetrievalError
from hetero.logs import SilentProgress
from hetero.training.run import read_run
from hetero.workflows.train import train_run


def test_another_config_is_refused_naming_the_key(pictures, finished):
    with pytest.raises(ConfigError, match=r"another config; got seed 9 \(was 0\).*--out"):
        train_run(toy_config(pictures, ("seed=9",)), finished.run, progress=SilentProgress())


def test_a_folder_of_something_else_is_no_run_directory_and_stays_as_it_is(pictures, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"a picture")
    with pytest.raises(
        ConfigError, match=r"neither a run directory nor empty; got a folder with photo.png; fix: .*--out"
    ):
        train_run(toy_config(pictures), tmp_path, progress=SilentProgress())
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    (tmp_path / "photo.png").rename(tmp_path / ".run.json.half-written")
    lone = toy_tree(pictures) | {"students": []}
    assert train_run(RunConfig.model_validate(lone), tmp_path, progress=SilentProgress()).gallery.is_dir()


def test_what_failed_before_any_training_may_be_corrected(pictures, tmp_path):
    lone = toy_tree(pictures) | {"students": [], "gallery": {"checkpoint": str(tmp_path / "galery")}}
    with pytest.raises(CheckpointError, match="galery is no checkpoint"):
        train_run(RunConfig.model_validate(lone), tmp_path / "run", progress=SilentProgress())
    other = write_pictures(tmp_path / "other.npz", num_classes=6)
    corrected = toy_tree(other) | {"students": []}
    assert train_run(RunConfig.model_validate(corrected), tmp_path / "run", progress=SilentProgress()).gallery.is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("evaluation.split=tset",), "no split 'tset'"),
        (("student_training.batch_size=97",), "fewer training images than one batch holds; got 96"),
        (
            ("student_training.batch_size=36", "student_training.sampler={kind: pk, images_per_class: 4}"),
            "PK sampler cannot fill a batch; got batch_size 36, images_per_class 4, 8 classes",
        ),
    ],
)
def test_what_would_stop_the_students_stops_the_run_before_it_begins(pictures, tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        train_run(toy_config(pictures, changes), tmp_path / "run", progress=SilentProgress())
    assert not (tmp_path / "run").exists()


def test_a_run_directory_of_another_version_is_refused_and_untouched(pictures, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(CheckpointError, match=r"another version of hetero; got schema_version 99; expected 2"):
        train_run(toy_config(pictures), tmp_path, progress=SilentProgress())
    assert json.loads((tmp_path / "run.json").read_text()) == {"schema_version": 99}


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}', '{"schema_version": 2, "config": {}}'])
def test_a_damaged_run_record_is_refused(pictures, tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run.json is damaged|another version|does not fit its schema"):
        train_run(toy_config(pictures), tmp_path, progress=SilentProgress())
    assert (tmp_path / "run.json").read_text() == text


def test_data_that_changed_since_the_run_began_is_refused(tmp_path):
    pictures = write_pictures(tmp_path / "toy.npz")
    with pytest.raises(Killed):
        train_run(toy_config(pictures), tmp_path / "run", progress=StopAt(2))
    arrays = dict(np.load(pictures))
    np.savez(pictures, **(arrays | {"images": 255 - arrays["images"]}))
    with pytest.raises(DataError, match=r"data of .* changed since the run began"):
        train_run(toy_config(pictures), tmp_path / "run", progress=SilentProgress())


def test_unlabelled_pictures_may_come_until_the_students_training_begins(pictures, tmp_path):
    lone = toy_tree(pictures) | {"students": []}
    train_run(RunConfig.model_validate(lone), tmp_path / "run", progress=SilentProgress())
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("L", (12, 12), 40 * number).save(folder / f"{number}.png")
    tree = toy_tree(pictures)
    tree["student_training"] = tree["student_training"] | {"unlabelled": {"path": str(folder), "per_batch": 2}}
    config = RunConfig.model_validate(tree)
    with pytest.raises(Killed):
        train_run(config, tmp_path / "run", progress=StopAt(2))
    Image.new("L", (12, 12), 9).save(folder / "9.png")
    with pytest.raises(DataError, match=r"unlabelled pictures of .* changed since the run began"):
        train_run(config, tmp_path / "run", progress=SilentProgress())
    (folder / "9.png").unlink()
    train_run(config, tmp_path / "run", progress=SilentProgress())


def test_a_test_split_in_which_nothing_can_be_found_is_refused_before_the_training(tmp_path):
    path = write_pictures(tmp_path / "toy.npz")
    with np.load(path) as stored:
        np.savez(path, **stored, groups=stored["labels"])  # every class is one group
    changes = ("data.groups_key=groups",)
    with pytest.raises(RetrievalError, match="no query has a possible match"):
        train_run(toy_config(path, changes), tmp_path / "run", progress=SilentProgress())
    assert not (tmp_path / "run").exists()
    free = toy_config(path, (*changes, "evaluation.exclude_groups=false"))
    with pytest.raises(Killed):
        train_run(free, tmp_path / "run", progress=StopAt(2))


def test_a_test_split_of_one_class_is_refused_before_the_training(tmp_path):
    path = write_pictures(tmp_path / "toy.npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    one = arrays["test"][arrays["labels"][arrays["test"]] == arrays["labels"][arrays["test"][0]]]
    np.savez(path, **(arrays | {"test": one}))
    with pytest.raises(DataError, match=r"nobody can be wrong about split 'test' of toy.*got number of classes: 1"):
        train_run(toy_config(path), tmp_path / "run", progress=SilentProgress())
    assert not (tmp_path / "run").exists()


def test_students_may_change_until_their_training_begins_and_the_evaluation_always(pictures, finished, tmp_path):
    lone = toy_tree(pictures) | {"students": []}
    train_run(RunConfig.model_validate(lone), tmp_path / "run", progress=SilentProgress())
    train_run(toy_config(pictures), tmp_path / "run", progress=SilentProgress())
    assert weights(tmp_path / "run") == weights(finished.run)
    assert read_run(tmp_path / "run").config == toy_config(pictures)
    train_run(toy_config(pictures, ("evaluation.resamples=300",)), tmp_path / "run", progress=SilentProgress())
    with pytest.raises(ConfigError, match=r"students\.0\.name"):
        train_run(toy_config(pictures, ("students.0.name=other",)), tmp_path / "run", progress=SilentProgress())
