"""The loader gives the batches of any span of steps, from memory or from files, and hands errors on."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from hetero.data.dataset import Dataset
from hetero.data.loader import Loader
from hetero.data.sampler import shuffled_batches
from hetero.errors import ImageError
from hetero.preprocess import PreprocessSpec

SPEC = PreprocessSpec(height=6, width=6, channels=1, mean=(0.5,), std=(0.5,))
LABELS = np.array([3, 3, 7, 7, 9, 9, 9, 3])


def plan(epoch):
    return shuffled_batches(8, 3, seed=5, epoch=epoch)


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (8, 6, 6), dtype=np.uint8)


def in_memory(pictures):
    return Dataset("toy", pictures, LABELS, tuple("abcdefghij"), {"train": np.arange(8)})


def on_disk(pictures, folder):
    paths = []
    for index, picture in enumerate(pictures):
        path = folder / f"{index}.png"
        Image.fromarray(picture).save(path)
        paths.append(path)
    return Dataset("toy", tuple(paths), LABELS, tuple("abcdefghij"), {"train": np.arange(8)})


def test_every_batch_holds_the_planned_pictures_and_labels(pictures):
    loader = Loader(in_memory(pictures), np.arange(8), SPEC, plan)
    assert loader.steps_per_epoch == 2
    assert loader.classes.tolist() == [3, 7, 9]
    batches = list(loader.batches(0, 5))
    assert [(b.step, b.epoch) for b in batches] == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]
    for batch in batches:
        chosen = plan(batch.epoch)[batch.step % 2]
        assert np.array_equal(batch.pixels[..., 0], pictures[chosen])
        assert np.array_equal(loader.classes[batch.labels], LABELS[chosen])


def test_starting_in_the_middle_gives_the_same_batches(pictures):
    loader = Loader(in_memory(pictures), np.arange(8), SPEC, plan)
    whole, rest = list(loader.batches(0, 6)), list(loader.batches(3, 6))
    assert [b.step for b in rest] == [3, 4, 5]
    for one, two in zip(whole[3:], rest, strict=True):
        assert np.array_equal(one.pixels, two.pixels)
        assert np.array_equal(one.labels, two.labels)


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_files_give_the_same_batches_streamed_or_held_in_memory(pictures, tmp_path, limit):
    memory = Loader(in_memory(pictures), np.arange(8), SPEC, plan)
    files = Loader(on_disk(pictures, tmp_path), np.arange(8), SPEC, plan, memory_limit_bytes=limit)
    for one, two in zip(memory.batches(0, 4), files.batches(0, 4), strict=True):
        assert np.array_equal(one.pixels, two.pixels)


def test_an_unreadable_file_met_while_streaming_reaches_the_caller(pictures, tmp_path):
    dataset = on_disk(pictures, tmp_path)
    loader = Loader(dataset, np.arange(8), SPEC, plan, memory_limit_bytes=0)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ImageError, match="png"):
        list(loader.batches(0, 2))


def test_leaving_early_ends_the_reading_thread(pictures):
    loader = Loader(in_memory(pictures), np.arange(8), SPEC, plan)
    for batch in loader.batches(0, 10_000):
        if batch.step == 3:
            break
    assert not [t for t in threading.enumerate() if t.name == "hetero-loader"]
