"""The embedded dataset: the default is drawn once for all tests here, some ten seconds."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

import hetero.data.glyphs as glyphs_module
from hetero.data.dataset import Dataset
from hetero.data.glyph_catalogue import Glyph
from hetero.data.glyphs import GlyphsConfig, build, cache_file, read_glyphs
from hetero.data.open import open_dataset
from hetero.data.splits import SplitConfig
from hetero.space import weights_digest

FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif")
FEW = tuple(Glyph(character, character, FACES) for character in "ABDEFGHK")


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read_glyphs(GlyphsConfig(cache=tmp_path_factory.mktemp("glyphs")))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GlyphsConfig:
    """A config whose characters need no search through the fonts."""
    monkeypatch.setattr(glyphs_module, "choose_glyphs", lambda count: FEW[:count])
    return GlyphsConfig(num_classes=8, renderings=3, cache=tmp_path / "cache")


def pixels(dataset: Dataset) -> np.ndarray:
    assert isinstance(dataset.images, np.ndarray)
    return dataset.images


def test_default_is_large_enough_and_divided(default: Dataset) -> None:
    assert len(default.class_names) == len(set(default.class_names)) == 1400
    assert pixels(default).shape == (19600, 28, 28)
    assert (np.bincount(default.labels) == 14).all()
    sizes = {name: len(np.unique(default.labels[indices])) for name, indices in default.splits.items()}
    assert sizes == {"train": 840, "val": 140, "test": 420}


def test_no_identical_image_in_two_classes(default: Dataset) -> None:
    owner: dict[bytes, int] = {}
    for image, label in zip(pixels(default), default.labels.tolist(), strict=True):
        assert owner.setdefault(image.tobytes(), label) == label
    assert len(owner) == len(default)  # nor twice in one


def test_every_picture_shows_bright_ink_on_dark(default: Dataset) -> None:
    flat = pixels(default).reshape(len(default), -1)
    assert flat.max(axis=1).min() >= 114  # 150 less the strongest noise
    covered = (flat > 80).mean(axis=1)
    assert covered.min() > 0.008
    assert covered.max() < 0.6
    assert np.median(flat) <= 16


def test_raw_pixels_are_a_weak_but_real_baseline(default: Dataset) -> None:
    test = default.split("test")
    vectors = pixels(default)[test].reshape(len(test), -1).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    labels = default.labels[test]
    r_at_1 = (labels[similarity.argmax(axis=1)] == labels).mean()
    assert 0.2 < r_at_1 < 0.5  # chance is 13 / 5879


def test_drawing_again_in_another_process_gives_the_same_bytes(default: Dataset) -> None:
    code = (
        "import hashlib; from hetero.data.glyphs import *; a = build(GlyphsConfig());"
        "content = a['images'].tobytes() + a['labels'].tobytes() + '|'.join(a['classes']).encode();"
        "print(hashlib.sha256(content).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600, env=environment
    )
    content = pixels(default).tobytes() + default.labels.astype(np.int32).tobytes()
    expected = hashlib.sha256(content + "|".join(default.class_names).encode()).hexdigest()
    assert done.stdout.strip() == expected
    assert done.stderr == ""


def test_seed_size_and_renderings_count(few: GlyphsConfig) -> None:
    first = build(few)
    assert first["images"].shape == (24, 28, 28)
    assert first["labels"].tolist() == [i for i in range(8) for _ in range(3)]
    assert first["classes"].tolist()[0] == "U+0041 LATIN CAPITAL LETTER A"
    assert np.array_equal(build(few)["images"], first["images"])
    other = build(few.model_copy(update={"seed": 1}))["images"]
    assert (other != first["images"]).any(axis=(1, 2)).all()
    assert build(few.model_copy(update={"size": 40}))["images"].shape == (24, 40, 40)


def test_a_class_looks_the_same_whatever_else_is_drawn(few: GlyphsConfig) -> None:
    all_of_them = build(few)["images"]
    assert np.array_equal(build(few.model_copy(update={"num_classes": 2}))["images"], all_of_them[:6])


def test_cache_is_used_and_has_no_leftovers(few: GlyphsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_glyphs(few)
    monkeypatch.setattr(glyphs_module, "build", lambda config: pytest.fail("drawn again"))
    again = open_dataset(few)
    assert np.array_equal(pixels(again), pixels(first))
    assert again.class_names == first.class_names
    assert [path.name for path in cache_file(few).parent.iterdir()] == [cache_file(few).name]


def test_cache_serves_any_split(few: GlyphsConfig) -> None:
    read_glyphs(few)
    config = few.model_copy(update={"split": SplitConfig(test=("U+0041 LATIN CAPITAL LETTER A",))})
    assert cache_file(config) == cache_file(few)
    assert read_glyphs(config).split("test").tolist() == [0, 1, 2]


def flip(data: bytes) -> bytes:
    at = data.index(b"images.npy") + 2000  # among the pixels
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage", [flip, lambda data: data[:-100], lambda data: b"", lambda data: b"not an archive at all"]
)
def test_damaged_cache_is_drawn_again(few: GlyphsConfig, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    first = read_glyphs(few)
    path = cache_file(few)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        again = read_glyphs(few)
    assert "damaged" in caplog.text
    assert np.array_equal(pixels(again), pixels(first))
    repaired = dict(np.load(path))
    assert str(repaired.pop("sha256")) == weights_digest(repaired) == weights_digest(dict(build(few)))


def test_forged_cache_with_valid_checksums_of_its_own_is_drawn_again(
    few: GlyphsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    first = read_glyphs(few)
    path = cache_file(few)
    arrays = dict(np.load(path))
    arrays["images"] = arrays["images"] ^ 1
    np.savez(path, **arrays)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(pixels(read_glyphs(few)), pixels(first))
    assert "another SHA-256" in caplog.text


def test_cache_that_cannot_be_written_is_only_a_warning(few: GlyphsConfig, caplog: pytest.LogCaptureFixture) -> None:
    assert few.cache is not None
    few.cache.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert len(read_glyphs(few)) == 24
    assert "not cached" in caplog.text


def test_options_and_versions_have_caches_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    base = GlyphsConfig()
    names = {cache_file(base)}
    for change in ({"seed": 1}, {"num_classes": 1399}, {"renderings": 13}, {"size": 32}):
        names.add(cache_file(base.model_copy(update=change)))
    monkeypatch.setattr(glyphs_module, "version", lambda package: "0.0")
    names.add(cache_file(base))
    monkeypatch.setattr(glyphs_module, "GLYPHS_VERSION", 0)
    names.add(cache_file(base))
    assert len(names) == 7


def test_without_matplotlib_the_cache_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = cache_file(GlyphsConfig())

    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(glyphs_module, "version", absent)
    assert cache_file(GlyphsConfig()) != with_it


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HETERO_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_file(GlyphsConfig()).parent == tmp_path / ".cache" / "hetero"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_file(GlyphsConfig()).parent == tmp_path / "xdg" / "hetero"
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "own"))
    assert cache_file(GlyphsConfig()).parent == tmp_path / "own"
    assert cache_file(GlyphsConfig(cache=tmp_path / "given")).parent == tmp_path / "given"
