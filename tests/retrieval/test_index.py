"""The index: the space is checked on every search, and every backend returns what the oracle returns."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hetero.errors import ConfigError, MissingExtraError, RetrievalError, SpaceMismatchError
from hetero.retrieval import index as module
from hetero.retrieval.exact import search_numpy
from hetero.retrieval.gallery import Item, open_gallery, write_gallery
from hetero.retrieval.index import Index, open_index

SPACE, OTHER = "hs1-" + "a" * 24, "hs1-" + "b" * 24
BACKENDS = ["numpy", "torch", "faiss"]


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["spread", "duplicates", "constant", "tiny"])
def test_every_backend_returns_the_bits_of_the_oracle(backend, kind, needs):
    if backend != "numpy":
        needs(backend)
    rng = np.random.default_rng(0)
    vectors = {
        "spread": lambda: unit(rng, 900, 16),
        "duplicates": lambda: unit(rng, 9, 16)[rng.integers(0, 9, 900)],
        "constant": lambda: np.full((300, 16), 0.25, np.float32),
        "tiny": lambda: unit(rng, 7, 16),
    }[kind]()
    queries, exclude = vectors[:40], np.arange(min(40, len(vectors)))
    index = Index(vectors, space_id=SPACE, backend=backend)
    assert (index.backend, len(index)) == (backend, len(vectors))
    for banned in (None, exclude):
        found = index.search(queries, 6, space_id=SPACE, exclude=banned)
        for got, expected in zip(found, search_numpy(queries, vectors, 6, exclude=banned), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert not (found[1] == exclude[:, None]).any()


def test_faiss_searches_in_parts_give_the_same(monkeypatch, needs):
    needs("faiss")
    vectors = unit(np.random.default_rng(1), 100, 8)
    monkeypatch.setattr(module, "_FAISS_ROWS", 7)
    _, rows = Index(vectors, space_id=SPACE, backend="faiss").search(vectors, 1, space_id=SPACE)
    np.testing.assert_array_equal(rows[:, 0], np.arange(100))


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_space_is_refused_at_equal_dimension_naming_both(backend, needs):
    if backend != "numpy":
        needs(backend)
    vectors = unit(np.random.default_rng(2), 10, 4)
    index = Index(vectors, space_id=SPACE, name="gallery 'shop'", backend=backend)
    index.search(vectors, 1, space_id=SPACE)
    with pytest.raises(SpaceMismatchError) as caught:
        index.search(vectors, 1, space_id=OTHER, name="student 'tiny'")
    for part in (SPACE, OTHER, "student 'tiny'", "gallery 'shop'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unusable_queries_are_refused(backend, needs):
    if backend != "numpy":
        needs(backend)
    rng = np.random.default_rng(3)
    index = Index(unit(rng, 10, 4), space_id=SPACE, backend=backend)
    with pytest.raises(RetrievalError, match="photos have another dimension; got dimension 5"):
        index.search(unit(rng, 1, 5), 1, space_id=SPACE, name="photos")
    with pytest.raises(RetrievalError, match="photos are not L2-normalised"):
        index.search(3 * unit(rng, 1, 4), 1, space_id=SPACE, name="photos")
    with pytest.raises(RetrievalError, match="not a number"):
        index.search(np.full((1, 4), np.nan, np.float32), 1, space_id=SPACE)
    with pytest.raises(RetrievalError, match=r"got k = 11; expected 1\.\.10"):
        index.search(unit(rng, 1, 4), 11, space_id=SPACE)
    with pytest.raises(RetrievalError, match="exclude does not fit"):
        index.search(unit(rng, 1, 4), 1, space_id=SPACE, exclude=np.arange(2))


def test_unusable_vectors_are_refused():
    with pytest.raises(RetrievalError, match="vectors of shop are not L2-normalised"):
        Index(np.ones((2, 4), np.float32), space_id=SPACE, name="shop")


def test_open_index_searches_the_gallery_of_a_directory(tmp_path):
    vectors = unit(np.random.default_rng(4), 20, 4)
    items = [Item(f"{row}.png", row, str(row)) for row in range(20)]
    write_gallery(tmp_path / "g", vectors, items, space_id=SPACE, model_weights_sha256="c", dataset="toy")
    for gallery in (tmp_path / "g", str(tmp_path / "g"), open_gallery(tmp_path / "g")):
        index = open_index(gallery, backend="numpy")
        assert index.search(vectors[:5], 1, space_id=SPACE)[1][:, 0].tolist() == [0, 1, 2, 3, 4]
        with pytest.raises(SpaceMismatchError, match=str(tmp_path / "g")):
            index.search(vectors[:5], 1, space_id=OTHER)


def test_auto_takes_faiss_then_torch_then_numpy(monkeypatch):
    installed = {"faiss", "torch"}
    monkeypatch.setattr(module, "find_spec", lambda name: name if name in installed else None)
    for expected in ("faiss", "torch", "numpy"):
        assert module._choose("auto") == expected
        installed.discard(expected)


@pytest.mark.parametrize(("backend", "extra"), [("faiss", "faiss"), ("torch", "train")])
def test_a_missing_backend_names_its_extra(monkeypatch, backend, extra):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    vectors = unit(np.random.default_rng(5), 3, 4)
    with pytest.raises(MissingExtraError, match=rf"pip install 'hetero\[{extra}\]'"):
        Index(vectors, space_id=SPACE, backend=backend)


def test_an_unknown_backend_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown search backend; got 'fais'; expected one of .*nearest: faiss"):
        module._choose("fais")


def test_retrieval_needs_neither_torch_nor_faiss():
    code = """
import sys
sys.modules["torch"] = sys.modules["faiss"] = None
import numpy as np
from hetero.retrieval import bootstrap, compat, exact, gallery, index, metrics, protocol, verification
vectors = np.eye(4, dtype=np.float32)
opened = index.Index(vectors, space_id="s", backend="numpy")
assert opened.search(vectors, 1, space_id="s")[1][:, 0].tolist() == [0, 1, 2, 3]
metrics.score(vectors, vectors, protocol.leave_one_out(np.array([0, 0, 1, 1])))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
