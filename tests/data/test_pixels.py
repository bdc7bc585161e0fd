from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hetero.data.pixels as pixels_module
from hetero.data.dataset import Dataset
from hetero.data.pixels import find_unreadable, read_pixels, read_readable
from hetero.errors import ImageError
from hetero.preprocess import PreprocessSpec, load_image, preprocess_array

MakeFolder = Callable[[Mapping[str, int]], Path]
SPEC = PreprocessSpec(height=8, width=6, channels=3)


def in_memory(images: np.ndarray) -> Dataset:
    return Dataset("toy", images, np.zeros(len(images), np.int64), ("a",), {})


def of_files(paths: list[Path]) -> Dataset:
    return Dataset("toy", tuple(paths), np.zeros(len(paths), np.int64), ("a",), {})


@pytest.mark.parametrize("workers", [1, 4])
def test_files_come_in_the_order_asked_for(make_folder: MakeFolder, workers: int) -> None:
    paths = sorted((make_folder({"a": 9}) / "a").iterdir())
    wanted = [7, 0, 3, 3, 8, 1]
    batch = read_pixels(of_files(paths), wanted, SPEC, workers=workers)
    assert batch.shape == (6, 8, 6, 3)
    assert batch.dtype == np.uint8
    for row, i in zip(batch, wanted, strict=True):
        assert np.array_equal(row, load_image(paths[i], SPEC))


@pytest.mark.parametrize("shape", [(5, 9, 7), (5, 9, 7, 3), (5, 8, 6, 3), (5, 8, 6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_preprocessed_one_by_one(shape: tuple[int, ...], channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    spec = SPEC.model_validate({"height": 8, "width": 6, "channels": channels})
    batch = read_pixels(in_memory(images), np.array([4, 1]), spec)
    assert batch.shape == (2, 8, 6, channels)
    for row, i in zip(batch, [4, 1], strict=True):
        assert np.array_equal(row, preprocess_array(images[i], spec))


def test_batch_of_fitting_pixels_is_a_copy() -> None:
    dataset = in_memory(np.zeros((3, 8, 6, 3), np.uint8))
    batch = read_pixels(dataset, [0, 1], SPEC)
    batch[:] = 9
    assert not np.asarray(dataset.images).any()


def test_no_index_gives_an_empty_batch(make_folder: MakeFolder) -> None:
    paths = list((make_folder({"a": 2}) / "a").iterdir())
    assert read_pixels(of_files(paths), [], SPEC).shape == (0, 8, 6, 3)


@pytest.fixture
def some_bad(make_folder: MakeFolder) -> list[Path]:
    paths = sorted((make_folder({"a": 5}) / "a").iterdir())
    paths[1].write_bytes(b"")
    paths[3].write_text("no picture")
    return paths


@pytest.mark.parametrize("workers", [1, 3])
def test_bad_file_is_an_error_that_names_it(some_bad: list[Path], workers: int) -> None:
    with pytest.raises(ImageError, match=r"1\.png.*fix"):
        read_pixels(of_files(some_bad), [0, 1, 2], SPEC, workers=workers)


def test_skip_bad_leaves_rows_out(some_bad: list[Path]) -> None:
    batch = read_pixels(of_files(some_bad), [4, 3, 2, 1, 0], SPEC, skip_bad=True)
    assert np.array_equal(batch, read_pixels(of_files(some_bad), [4, 2, 0], SPEC))


def test_read_readable_says_which_rows_are_left(some_bad: list[Path]) -> None:
    result = read_readable(of_files(some_bad), [4, 3, 2, 1, 1], SPEC)
    assert result.indices.tolist() == [4, 2]
    assert np.array_equal(result.pixels, read_pixels(of_files(some_bad), [4, 2], SPEC))
    assert [("3.png" in line, "1.png" in line) for line in result.skipped] == [
        (True, False), (False, True), (False, True),
    ]  # fmt: skip


def test_find_unreadable_gives_path_and_reason(some_bad: list[Path]) -> None:
    problems = find_unreadable(some_bad)
    assert list(problems) == [1, 3]
    assert str(some_bad[1]) in problems[1]
    assert "empty" in problems[1]
    assert "not a picture" in problems[3]


def test_reason_without_a_path_gets_one(monkeypatch: pytest.MonkeyPatch, some_bad: list[Path]) -> None:
    def refuse(*_: object, **__: object) -> np.ndarray:
        raise ImageError("too dark")

    monkeypatch.setattr(pixels_module, "load_image", refuse)
    assert find_unreadable(some_bad[:1]) == {0: f"{some_bad[0]}: too dark"}


def test_after_an_error_no_thread_and_no_work_is_left(monkeypatch: pytest.MonkeyPatch, some_bad: list[Path]) -> None:
    calls: list[int] = []

    def count(path: Path, spec: PreprocessSpec, **_: object) -> np.ndarray:
        calls.append(1)
        return load_image(path, spec)

    monkeypatch.setattr(pixels_module, "load_image", count)
    before = threading.active_count()
    with pytest.raises(ImageError):
        read_pixels(of_files(some_bad), [1] + [0] * 5000, SPEC, workers=2)
    assert threading.active_count() == before
    assert len(calls) < 5001


@pytest.mark.parametrize("workers", [1, 3])
def test_boxes_are_cut_from_the_upright_picture(tmp_path: Path, workers: int) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise: 10 high, 6 wide
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(stored).save(tmp_path / "plain.png")
    boxes = np.array([[1, 2, 5, 9], [1, 2, 5, 6], [8, 4, 40, 40]], np.int32)
    files = (tmp_path / "turned.png", tmp_path / "plain.png", tmp_path / "plain.png")
    dataset = Dataset("toy", files, np.zeros(3, np.int64), ("a",), {}, boxes=boxes)
    upright = [[stored[5 - x, y] for x in range(6)] for y in range(10)]
    by_hand = [np.array(upright)[2:9, 1:5], stored[2:6, 1:5], stored[4:6, 8:10]]
    for i, part in enumerate(by_hand):
        spec = PreprocessSpec(height=part.shape[0], width=part.shape[1], channels=3)
        assert np.array_equal(read_pixels(dataset, [i], spec, workers=workers)[0], part)
        assert np.array_equal(read_readable(dataset, [i], spec).pixels[0], part)


def test_a_box_outside_its_picture_is_an_error_that_names_both(make_folder: MakeFolder) -> None:
    paths = sorted((make_folder({"a": 2}) / "a").iterdir())
    boxes = np.array([[0, 0, 5, 5], [9, 0, 12, 5]], np.int32)  # the pictures are 9 wide
    dataset = Dataset("toy", tuple(paths), np.zeros(2, np.int64), ("a",), {}, boxes=boxes)
    with pytest.raises(ImageError, match=r"1\.png.*box holds nothing.*got .* 9, 0, 12, 5; expected .* 9 x 12 pixels"):
        read_pixels(dataset, [0, 1], SPEC)
    assert read_readable(dataset, [0, 1], SPEC).indices.tolist() == [0]
    assert list(find_unreadable(paths, boxes)) == [1]


@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_inverted_files_are_read_as_their_negative(make_folder: MakeFolder, resize: str) -> None:
    paths = sorted((make_folder({"a": 2}) / "a").iterdir())
    spec = SPEC.model_copy(update={"resize": resize})
    dataset = Dataset("toy", tuple(paths), np.zeros(2, np.int64), ("a",), {}, inverted=True)
    pixels = read_pixels(dataset, [1, 0], spec)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, 255 - read_pixels(of_files(paths), [1, 0], spec))
