"""What a fleet finds ready: a finished gallery model, remembered views; and pictures without labels."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent))
from fleets import student, train, with_students
from test_run import Killed, StopAt, journal, weights
from toy import toy_tree

from hetero.config import RunConfig
from hetero.errors import ConfigError, DataError
from hetero.models.checkpoint import load_model, read_card
from hetero.training import students
from hetero.training.memory import DiskStore, GalleryMemory
from hetero.training.trainee import Trainee


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


def test_a_classifier_with_fewer_than_two_of_the_classes_is_refused(pictures, gallery):
    model = load_model(gallery)
    names = model.card.classes
    config = RunConfig.model_validate(
        with_students(pictures, gallery, student("a", loss={"influence": {"prototypes": "classifier"}}))
    )
    students._require_shared_classes(config, model, (names[0], names[1], "another"))
    for classes in (("another", "and another"), (names[0], "another")):
        with pytest.raises(ConfigError, match=r"other classes than.*got [01] of 2 classes in common, and students a "):
            students._require_shared_classes(config, model, classes)
    free = RunConfig.model_validate(with_students(pictures, gallery, student("a", loss={"alignment": {}})))
    students._require_shared_classes(free, model, ("another", "and another"))


def test_a_disk_cache_of_views_that_never_come_again_is_refused(pictures, gallery):
    with pytest.raises(ValidationError, match="set view_epochs below epochs, or remove cache"):
        RunConfig.model_validate(with_students(pictures, gallery, student("a"), cache="disk"))


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
    counts = []
    with pytest.raises(Killed):
        train(tree, tmp_path / "run", StopAt(2))
    [data] = (tmp_path / "run" / "cache").glob("*.f32")
    content = bytearray(data.read_bytes())
    content[4 * 100] ^= 1  # in the first view, which is needed again only where it is shown a second time
    whole = data.read_bytes()
    for damaged in (whole, bytes(content)):
        data.write_bytes(damaged)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(tmp_path / "run", folder)
        embedded = counting(monkeypatch)
        run = train(tree, folder)
        counts.append(len(embedded))
    assert counts[1] == counts[0] + 1
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
    for header in (float("nan"), float("inf"), 0.0, -5.0, 3.0):  # in place of the width, with another view whole
        rows = np.memmap(tmp_path / "views-key.f32", np.float32, "r+").reshape(3, -1)
        rows[2, 0] = header
        rows.flush()
        damaged = DiskStore(tmp_path, "key", 3)
        assert damaged.get(2) is None
        assert torch.equal(damaged.get(0), second)
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
    assert last == pytest.approx(journal(plain.run)[-1]["loss"]["a"]["total"], rel=0.2)
    assert last < 0.8 * first
