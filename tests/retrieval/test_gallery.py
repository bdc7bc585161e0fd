"""Galleries on disk: what is written comes back, and whatever was changed is refused by name."""

from __future__ import annotations

import csv
import hashlib
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save

from hetero.errors import BundleError, RetrievalError
from hetero.retrieval.gallery import ITEMS, RECORD, VECTORS, Item, open_gallery, write_gallery

FILES = [VECTORS, ITEMS, RECORD]
SPACE = "hs1-" + "a" * 24


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make(path, num=5):
    vectors = unit(np.random.default_rng(0), num, 4)
    items = [Item(f"a/{row}.png", row % 2, f"class, {row % 2}", group=row - 1, role=row % 3) for row in range(num)]
    write_gallery(path, vectors, items, space_id=SPACE, model_weights_sha256="b" * 64, dataset="toy")
    return vectors, items


def reseal(folder, **changes):
    """Make gallery.json fit changed files and fields, as a forger or a buggy writer would."""
    fields = json.loads((folder / RECORD).read_text())
    fields.pop("record_sha256")
    for name in fields["sha256"]:
        fields["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    fields |= changes
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    fields["record_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / RECORD).write_text(json.dumps(fields, indent=2) + "\n")


def test_gallery_comes_back_as_written(tmp_path):
    vectors, items = make(tmp_path / "gallery")
    gallery = open_gallery(tmp_path / "gallery")
    np.testing.assert_array_equal(gallery.vectors, vectors)
    assert gallery.vectors.dtype == np.float32
    assert not gallery.vectors.flags.writeable
    assert gallery.items == tuple(items)
    assert gallery.labels.tolist() == [0, 1, 0, 1, 0]
    assert (gallery.record.space_id, gallery.record.count, gallery.record.dim) == (SPACE, 5, 4)
    assert (gallery.record.dataset, gallery.record.model_weights_sha256) == ("toy", "b" * 64)
    assert sorted(os.listdir(tmp_path / "gallery")) == sorted(FILES)
    assert os.listdir(tmp_path) == ["gallery"]


def test_item_table_is_plain_csv(tmp_path):
    make(tmp_path / "gallery")
    with open(tmp_path / "gallery" / ITEMS, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[1] == {
        "row": "1",
        "path": "a/1.png",
        "label": "1",
        "class_name": "class, 1",
        "group": "0",
        "role": "query",
    }
    assert [row["role"] for row in rows[:3]] == ["both", "query", "gallery"]


def test_odd_file_names_survive(tmp_path):
    names = ["a,b.png", 'q"uote.png', "new\nline.png", "cr\r.png", "Größe 蝶.png", "latin\udce9.png", " "]
    vectors = unit(np.random.default_rng(1), len(names), 4)
    items = [Item(name, 0, name) for name in names]
    write_gallery(tmp_path / "g", vectors, items, space_id=SPACE, model_weights_sha256="b", dataset="toy")
    assert [item.path for item in open_gallery(tmp_path / "g").items] == names


def test_writing_again_replaces_and_a_refused_write_keeps(tmp_path):
    make(tmp_path / "gallery")
    make(tmp_path / "gallery", num=3)
    assert len(open_gallery(tmp_path / "gallery").items) == 3
    with pytest.raises(RetrievalError, match="vectors and items disagree; got 5 vectors and 2 items"):
        write_gallery(
            tmp_path / "gallery",
            unit(np.random.default_rng(0), 5, 4),
            [Item("a", 0, "x")] * 2,
            space_id=SPACE,
            model_weights_sha256="b",
            dataset="toy",
        )
    with pytest.raises(RetrievalError, match="gallery vectors are not L2-normalised"):
        write_gallery(
            tmp_path / "gallery",
            np.ones((1, 4), np.float32),
            [Item("a", 0, "x")],
            space_id=SPACE,
            model_weights_sha256="b",
            dataset="toy",
        )
    assert len(open_gallery(tmp_path / "gallery").items) == 3


@pytest.mark.parametrize("name", FILES)
def test_open_gallery_raises_when_one_byte_is_flipped(tmp_path, name):
    make(tmp_path / "gallery")
    path = tmp_path / "gallery" / name
    original = path.read_bytes()
    for place in range(len(original)):
        changed = bytearray(original)
        changed[place] ^= 0x01 if place % 2 else 0x20
        path.write_bytes(bytes(changed))
        with pytest.raises(BundleError, match=r"damaged or changed|unknown schema"):
            open_gallery(tmp_path / "gallery")
    path.write_bytes(original)
    open_gallery(tmp_path / "gallery")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer", "link", "folder"])
def test_open_gallery_names_the_damaged_file(tmp_path, name, damage):
    make(tmp_path / "gallery")
    path = tmp_path / "gallery" / name
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "longer":
        path.write_bytes(data + b" ")
    elif damage == "link":
        (tmp_path / "outside").write_bytes(data)
        path.symlink_to(tmp_path / "outside")
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(BundleError, match=name):
        open_gallery(tmp_path / "gallery")


def test_open_gallery_refuses_what_is_no_gallery(tmp_path):
    with pytest.raises(BundleError, match=r"lacks gallery\.json; fix: name a gallery directory"):
        open_gallery(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=r"lacks gallery\.json"):
        open_gallery(tmp_path / "file")


@pytest.mark.parametrize("raw", [b"[]", b"1", b"{}", b"\xff", b'{"record_sha256": 1}', b"[" * 100_000])
def test_open_gallery_refuses_a_record_of_another_kind(tmp_path, raw):
    make(tmp_path / "gallery")
    (tmp_path / "gallery" / RECORD).write_bytes(raw)
    with pytest.raises(BundleError, match=r"gallery\.json was damaged or changed"):
        open_gallery(tmp_path / "gallery")


def test_open_gallery_refuses_an_unreadable_file(tmp_path, monkeypatch):
    make(tmp_path / "gallery")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(BundleError, match=r"cannot read .*gallery\.json; got Permission denied"):
        open_gallery(tmp_path / "gallery")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_schema": 2}, "has an unknown schema; got 2; expected 1"),
        ({"gallery_schema": "1"}, "has an unknown schema"),
        ({"colour": "red"}, "damaged or changed"),
        ({"count": 0}, "damaged or changed"),
        ({"count": 6}, r"got vectors \[5, 4\] and 5 items; expected 6 of dimension 4"),
        ({"dim": 5}, "expected 5 of dimension 5"),
        ({"sha256": {VECTORS: "0"}}, r"expected exactly vectors\.safetensors and items\.csv"),
        ({"sha256": {VECTORS: "0", ITEMS: "0", "../outside": "0"}}, r"got files \['\.\./outside'"),
    ],
)
def test_open_gallery_refuses_a_resealed_record(tmp_path, changes, message):
    make(tmp_path / "gallery")
    reseal(tmp_path / "gallery")
    open_gallery(tmp_path / "gallery")
    reseal(tmp_path / "gallery", **changes)
    with pytest.raises(BundleError, match=message):
        open_gallery(tmp_path / "gallery")


@pytest.mark.parametrize(
    "content",
    [
        save({"vectors": np.eye(5, 4, dtype=np.float64)}),
        save({"other": np.eye(4, dtype=np.float32)}),
        save({"vectors": np.ones((5, 4), np.float32)}),
        save({"vectors": np.full((5, 4), np.nan, np.float32)}),
        save({"vectors": np.ones(4, np.float32)}),
        b"not safetensors",
    ],
)
def test_open_gallery_refuses_resealed_vectors(tmp_path, content):
    make(tmp_path / "gallery")
    (tmp_path / "gallery" / VECTORS).write_bytes(content)
    reseal(tmp_path / "gallery")
    with pytest.raises(BundleError, match=r"vectors\.safetensors was damaged or changed"):
        open_gallery(tmp_path / "gallery")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("row,path", "path,row", "its columns are not row, path"),
        ("\n1,", "\n2,", "row '2' stands at place 1"),
        (",query\r\n", ",buyer\r\n", "buyer"),
        (",0,", ",zero,", "zero"),
        ("a/0.png,", "", "not enough values"),
        ("a/0.png", '"a/0.png', "was damaged"),
    ],
)
def test_open_gallery_refuses_a_resealed_item_table(tmp_path, old, new, message):
    make(tmp_path / "gallery")
    content = (tmp_path / "gallery" / ITEMS).read_bytes()
    assert old.encode() in content
    (tmp_path / "gallery" / ITEMS).write_bytes(content.replace(old.encode(), new.encode(), 1))
    reseal(tmp_path / "gallery")
    with pytest.raises(BundleError, match=message):
        open_gallery(tmp_path / "gallery")


def test_an_interrupted_replacement_is_recovered(tmp_path):
    make(tmp_path / "gallery")
    os.rename(tmp_path / "gallery", tmp_path / ".previous-gallery")
    assert len(open_gallery(tmp_path / "gallery").items) == 5
