"""Which pictures search, and that none of them ever finds itself."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from device_tests.queries import load_queries
from hetero.data.dataset import ROLE_GALLERY, ROLE_QUERY
from hetero.errors import ConfigError, DataError, SpaceMismatchError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.gallery import Item, open_gallery, write_gallery

SPEC = PreprocessSpec(height=4, width=4, channels=1)


@pytest.fixture
def pictures(tmp_path):
    """Three classes of three pictures, in a folder each."""
    for label in range(3):
        (tmp_path / "pictures" / f"c{label}").mkdir(parents=True)
        for number in range(3):
            array = np.full((4, 4), 20 * label + number, np.uint8)
            Image.fromarray(array).save(tmp_path / "pictures" / f"c{label}" / f"{number}.png")
    return tmp_path / "pictures"


def gallery_of(folder, items, *, space="space", model="0" * 64):
    vectors = np.random.default_rng(0).normal(size=(len(items), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_gallery(folder, vectors, items, space_id=space, model_weights_sha256=model, dataset="d")
    return open_gallery(folder)


def items_of(pictures, *, root=None):
    """Classes are numbered backwards: they are matched by name."""
    files = sorted(pictures.rglob("*.png"))
    names = sorted({file.parent.name for file in files}, reverse=True)
    return [
        Item(
            str(file if root is None else root / file.relative_to(pictures)),
            names.index(file.parent.name),
            file.parent.name,
        )
        for file in files
    ]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_query_in_the_gallery_never_finds_itself(pictures, tmp_path, elsewhere):
    from pathlib import Path

    root = Path("cloud/shop") if elsewhere else None
    gallery = gallery_of(tmp_path / "gallery", items_of(pictures, root=root))
    found = load_queries(pictures, gallery, SPEC, count=0)
    assert (len(found.ids), found.in_gallery, found.no_paragon) == (9, 9, None)
    for number, name in enumerate(found.ids):
        [own] = found.protocol.removed(number)
        assert found.gallery_ids[own].endswith("/".join(name.split("/")[-2:]))
        matches = {found.gallery_ids[row].split("/")[-2] for row in found.protocol.matches(number)}
        assert matches == {name.split("/")[-2]}
        assert own not in found.protocol.matches(number)
        assert (found.paragon[number] == gallery.vectors[own]).all()
    assert (found.pixels[:, 0, 0, 0] == [0, 1, 2, 20, 21, 22, 40, 41, 42]).all()


def test_a_query_that_may_be_one_of_several_gallery_pictures_is_refused(pictures, tmp_path):
    from pathlib import Path

    items = items_of(pictures, root=Path("/a")) + items_of(pictures, root=Path("/b"))
    with pytest.raises(DataError, match="it could find itself"):
        load_queries(pictures, gallery_of(tmp_path / "gallery", items), SPEC)


def test_queries_outside_the_gallery_search_all_of_it_and_have_no_paragon(pictures, tmp_path):
    items = [
        Item(f"/cloud/{item.class_name}-{row}.jpg", item.label, item.class_name)
        for row, item in enumerate(items_of(pictures))
    ]
    gallery = gallery_of(tmp_path / "gallery", items)
    found = load_queries(pictures, gallery, SPEC, count=0)
    assert found.in_gallery == 0
    assert found.paragon is None
    assert "--paragon names" in found.no_paragon
    assert (found.protocol.num_candidates == 9).all()
    own = gallery_of(tmp_path / "own", items_of(pictures))
    found = load_queries(pictures, gallery, SPEC, count=0, paragon=tmp_path / "own")
    assert found.no_paragon is None
    assert (found.paragon == own.vectors).all()


def test_a_paragon_of_another_model_or_space_or_of_other_pictures_is_refused(pictures, tmp_path):
    gallery = gallery_of(tmp_path / "gallery", [Item("/x/1.jpg", 0, "c0"), Item("/x/2.jpg", 1, "c1")])
    for name, facts, error in (
        ("space", {"space": "other"}, SpaceMismatchError),
        ("model", {"model": "1" * 64}, SpaceMismatchError),
    ):
        gallery_of(tmp_path / name, items_of(pictures), **facts)
        with pytest.raises(error, match=f"is of another .*{name}"):
            load_queries(pictures, gallery, SPEC, paragon=tmp_path / name)
    gallery_of(tmp_path / "few", items_of(pictures)[:2])
    with pytest.raises(DataError, match="lacks vectors of query pictures"):
        load_queries(pictures, gallery, SPEC, paragon=tmp_path / "few")


def test_only_queries_with_a_right_answer_are_drawn_and_the_draw_is_seeded(pictures, tmp_path):
    items = [item for item in items_of(pictures) if item.class_name != "c1"][:4]  # c0 whole, one of c2: itself only
    gallery = gallery_of(tmp_path / "gallery", items)
    found = load_queries(pictures, gallery, SPEC, count=0)
    assert {name.split("/")[-2] for name in found.ids} == {"c0", "c2"}
    assert len(found.ids) == 3 + 2  # the one c2 picture in the gallery has no other to find
    draws = [load_queries(pictures, gallery, SPEC, count=3, seed=seed).ids for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(draws)) > 1
    with pytest.raises(DataError, match="has a right answer in"):
        load_queries(pictures, gallery_of(tmp_path / "none", [Item("/x.jpg", 0, "other")]), SPEC)


def test_roles_and_groups_of_the_data_are_kept(pictures, tmp_path):
    files = sorted(pictures.rglob("*.png"))
    table = ["path,label,role,group"]
    for number, file in enumerate(files):
        table.append(f"{file},{file.parent.name},{'query' if number % 3 == 0 else 'gallery'},{number // 2}")
    (tmp_path / "data.csv").write_text("\n".join(table) + "\n")
    items = [
        Item(
            str(file),
            int(file.parent.name[1]),
            file.parent.name,
            number // 2,
            ROLE_QUERY if number % 3 == 0 else ROLE_GALLERY,
        )
        for number, file in enumerate(files)
    ]
    found = load_queries(tmp_path / "data.csv", gallery_of(tmp_path / "gallery", items), SPEC, count=0)
    assert [name.split("/")[-1] for name in found.ids] == ["0.png"] * 3
    assert len(found.gallery_ids) == 6
    assert found.in_gallery == 0  # queries are no gallery pictures here, but their vectors are in the file
    assert (found.paragon == open_gallery(tmp_path / "gallery").vectors[::3]).all()
    first = [found.gallery_ids[row].split("/")[-2:] for row in found.protocol.matches(0)]
    assert first == [["c0", "2.png"]]  # 1.png is of the same group


def test_several_splits_must_be_named(tmp_path):
    images = np.zeros((12, 4, 4), np.uint8)
    labels = np.arange(12, dtype=np.int32) // 2
    np.savez(
        tmp_path / "d.npz", images=images, labels=labels, classes=np.array(list("abcdef")), val=[0, 1], test=[2, 3]
    )
    gallery = gallery_of(
        tmp_path / "gallery", [Item(f"/{name}{k}", i, name) for i, name in enumerate("abcdef") for k in range(2)]
    )
    with pytest.raises(ConfigError, match="--split"):
        load_queries(tmp_path / "d.npz", gallery, SPEC)
    assert load_queries(tmp_path / "d.npz", gallery, SPEC, split="test").name == "d/test"
