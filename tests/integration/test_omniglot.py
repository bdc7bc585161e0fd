"""The kept Omniglot student, on real images of classes it never saw."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import exporters
from hetero.config import load_config
from hetero.data.npz import NpzConfig
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.models.checkpoint import load_model
from hetero.models.embed import embed
from hetero.retrieval.compat import pixel_baseline
from hetero.retrieval.gallery import open_gallery
from hetero.retrieval.metrics import score
from hetero.retrieval.protocol import leave_one_out
from hetero.workflows.pictures import save_pictures

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "golden" / "omniglot"


@pytest.fixture(scope="module")
def golden():
    content = json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
    return np.array(content["indices"]), content["cells"]


@pytest.fixture(scope="module")
def dataset(hetero_data):
    return open_dataset(NpzConfig(path=hetero_data / "omniglot28.npz"))


def test_the_kept_folder_is_small_and_its_parts_agree_on_the_space():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) <= 6_000_000
    student, gallery = load_model(GOLDEN / "small"), open_gallery(GOLDEN / "gallery")
    bundle = exporters.open_bundle(GOLDEN / "small.hetero", expected_space=student.space.id)
    assert student.space.id == gallery.record.space_id == bundle.manifest.space.id
    assert student.card.role == "compatible"
    assert exporters.verify(GOLDEN / "small.hetero", expected_space=gallery.record.space_id).passed


def test_onnx_from_image_files_retrieves_as_torch_does(dataset, golden, tmp_path):
    """The exported student, run from PNG files, gives the kept cells within 0.1 percentage points."""
    indices, cells = golden
    manifest = save_pictures(replace(dataset, splits={"golden": indices.copy()}), tmp_path / "pictures", split="golden")
    files = [manifest.parent / f"{index:06d}.png" for index in indices]
    query, skipped = exporters.embed_files(exporters.open_bundle(GOLDEN / "small.hetero"), files)
    assert skipped == ()
    student = load_model(GOLDEN / "small")
    by_torch = embed(student.network, read_pixels(dataset, indices, student.preprocess), student.preprocess)
    assert np.abs(query - by_torch).max() < 1e-5
    vectors, protocol = open_gallery(GOLDEN / "gallery").vectors, leave_one_out(dataset.labels[indices])
    for cell, sides in {"heterogeneous": (query, vectors), "homogeneous": (query, query)}.items():
        found = score(*sides, protocol).mean
        for metric, value in cells[cell].items():
            assert found[metric] == pytest.approx(value, abs=0.001), (cell, metric)


def test_the_student_is_compatible_and_a_shuffled_gallery_is_at_chance(dataset, golden):
    indices, cells = golden
    assert cells["heterogeneous"]["r_at_1"] > 0.9 * cells["paragon"]["r_at_1"]
    student, vectors = load_model(GOLDEN / "small"), open_gallery(GOLDEN / "gallery").vectors
    query = embed(student.network, read_pixels(dataset, indices, student.preprocess), student.preprocess)
    protocol = leave_one_out(dataset.labels[indices])
    permuted = vectors[:, np.random.default_rng(0).permutation(vectors.shape[1])]  # the same vectors, another space
    assert score(query, np.ascontiguousarray(permuted), protocol).mean["r_at_1"] < 5 * 19 / 1999
    pixels = pixel_baseline(read_pixels(dataset, indices, student.preprocess))
    assert score(pixels, pixels, protocol).mean["r_at_1"] < cells["heterogeneous"]["r_at_1"] - 0.3


def test_the_readers_see_the_real_sets_as_described(hetero_data, dataset):
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 19_280, "test": 13_180}
    assert len(np.unique(dataset.labels[dataset.split("test")])) == 659
    grocery = open_dataset(NpzConfig(path=hetero_data / "grocery64.npz"))
    assert grocery.images.shape == (4841, 64, 64, 3)
    assert {name: len(split) for name, split in grocery.splits.items()} == {"train": 2_474, "test": 2_367}


def test_the_example_asks_for_the_stated_protocol(hetero_data, monkeypatch):
    monkeypatch.setenv("HETERO_DATA", str(hetero_data))
    config = load_config(ROOT / "examples" / "omniglot.yaml")
    assert config.evaluation.split == "test"
    assert config.evaluation.exclude_groups is False
    assert config.data.val_classes == 0
