from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from hetero.data.folder import FolderConfig, read_folder
from hetero.data.splits import SplitConfig
from hetero.data.unlabelled import read_unlabelled
from hetero.errors import ConfigError, DataError, ImageError

MakeFolder = Callable[[Mapping[str, int]], Path]
ALL_TRAIN = SplitConfig(val_fraction=0, test_fraction=0)


def test_class_folders_become_sorted_classes_and_paths(make_folder: MakeFolder) -> None:
    root = make_folder({"dog": 3, "cat": 2, "cat/close up": 1})
    found = read_folder(FolderConfig(path=root, split=ALL_TRAIN))
    assert found.name == "photos"
    assert found.class_names == ("cat", "dog")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [str(path.relative_to(root)) for path in found.images] == [
        "cat/0.png", "cat/1.png", "cat/close up/0.png", "dog/0.png", "dog/1.png", "dog/2.png",
    ]  # fmt: skip
    assert found.split("train").tolist() == [0, 1, 2, 3, 4, 5]
    assert found.groups is None
    assert found.roles is None


def test_pictures_in_no_class_folder_are_listed(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 2, "test/dog": 2})
    shutil.copy(root / "train/cat/0.png", root / "cover.png")
    shutil.copy(root / "train/cat/0.png", root / "train" / "lost.png")
    (root / "notes.txt").write_text("no picture")
    found = read_folder(FolderConfig(path=root))
    assert len(found.images) == 4
    assert list(found.skipped) == [f"{root}/{name}: in no class folder" for name in ("cover.png", "train/lost.png")]


def test_links_to_folders_are_followed_and_a_circle_ends(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    (root.parent / "more").mkdir()
    shutil.copy(root / "cat/0.png", root.parent / "more" / "9.png")
    (root / "cat/more").symlink_to(root.parent / "more")
    (root / "cat/again").symlink_to(root / "cat")
    found = read_folder(FolderConfig(path=root, split=ALL_TRAIN))
    assert [str(path.relative_to(root)) for path in found.images] == [
        "cat/0.png", "cat/1.png", "cat/more/9.png", "dog/0.png", "dog/1.png",
    ]  # fmt: skip


def test_without_split_folders_classes_are_divided_by_hash(make_folder: MakeFolder) -> None:
    root = make_folder({f"c{i}": 2 for i in range(10)})
    found = read_folder(FolderConfig(path=root))
    assert {name: len(indices) for name, indices in found.splits.items()} == {"train": 12, "val": 2, "test": 6}


def test_split_folders_are_the_splits(make_folder: MakeFolder) -> None:
    root = make_folder({"test/emu": 2, "train/cat": 2, "train/dog": 3, "val/bee": 2})
    found = read_folder(FolderConfig(path=root))
    assert found.class_names == ("bee", "cat", "dog", "emu")
    for split, classes in {"train": {"cat", "dog"}, "val": {"bee"}, "test": {"emu"}}.items():
        assert {found.class_names[label] for label in found.labels[found.split(split)]} == classes


def test_a_single_class_may_be_called_train(make_folder: MakeFolder) -> None:
    found = read_folder(FolderConfig(path=make_folder({"train": 2, "bus": 2}), split=ALL_TRAIN))
    assert found.class_names == ("bus", "train")


def test_splits_beside_classes_are_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 2, "test/dog": 2, "emu": 2})
    with pytest.raises(DataError, match=r"mixes splits and classes; got test, train beside emu"):
        read_folder(FolderConfig(path=root))


def test_class_in_two_splits_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 2, "test/cat": 2, "test/dog": 2})
    with pytest.raises(DataError, match=r"'test' and 'train' .* share the class 'cat'.*fix"):
        read_folder(FolderConfig(path=root))


def test_split_section_beside_split_folders_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"train/cat": 2, "test/dog": 2})
    with pytest.raises(ConfigError, match=r"carries its own splits.*remove 'split'"):
        read_folder(FolderConfig(path=root, split=SplitConfig()))


def test_val_classes_are_held_out_of_train(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "test/c": 2})
    found = read_folder(FolderConfig(path=root, val_classes=1))
    assert found.labels[found.split("val")].tolist() == [1, 1]
    assert found.labels[found.split("train")].tolist() == [0, 0]


def test_missing_folder_and_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder: .*photos.*fix"):
        read_folder(FolderConfig(path=tmp_path / "photos"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is not a folder"):
        read_folder(FolderConfig(path=tmp_path / "file"))
    with pytest.raises(DataError, match=r"no class folders.*fix: move"):
        read_folder(FolderConfig(path=tmp_path))


def test_empty_class_folder_is_refused_by_its_path(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2, "emu": 0})
    (root / "emu" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"class 'emu' .*photos.emu, where no file ends in .*\.png.* no image.*fix"):
        read_folder(FolderConfig(path=root))


def test_class_with_one_image_is_refused_by_name(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 1, "emu": 1})
    with pytest.raises(DataError, match=r"class 'dog' .* has one image; too few, too: 'emu'.*drop_small_classes"):
        read_folder(FolderConfig(path=root))


def test_many_small_classes_are_not_all_listed(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 3, **{f"x{i}": 2 for i in range(8)}})
    with pytest.raises(DataError, match=r"has few images; .* and 2 more; got 2 images; expected at least 3"):
        read_folder(FolderConfig(path=root, min_images_per_class=3))


def test_small_classes_are_dropped_on_request_and_listed(make_folder: MakeFolder) -> None:
    root = make_folder({"train/bee": 1, "train/cat": 2, "train/emu": 0, "test/dog": 3, "test/ant": 1})
    found = read_folder(FolderConfig(path=root, drop_small_classes=True, group_pattern=r"(\d)"))
    assert found.class_names == ("cat", "dog")
    assert [path.parent.name for path in found.images] == ["dog", "dog", "dog", "cat", "cat"]
    assert found.labels.tolist() == [1, 1, 1, 0, 0]
    assert found.split("train").tolist() == [3, 4]
    assert found.split("test").tolist() == [0, 1, 2]
    assert found.groups is not None
    assert found.groups.tolist() == [0, 1, 2, 0, 1]
    assert [line.split(":")[0] for line in found.skipped] == ["class 'ant'", "class 'bee'", "class 'emu'"]


def test_only_small_classes_is_one_error(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 1, "dog": 0})
    with pytest.raises(DataError, match=r"no class with 2 images; got 2 classes with 1 images"):
        read_folder(FolderConfig(path=root, drop_small_classes=True))


def test_files_that_are_no_pictures_are_left_alone(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    for name in ("Thumbs.db", "notes.txt", ".hidden.png", "0.PNG.part"):
        (root / "cat" / name).write_bytes(b"")
    (root / ".cache").mkdir()
    (root / "cat" / ".thumbs").mkdir()
    shutil.copy(root / "cat" / "0.png", root / "cat" / ".thumbs")
    found = read_folder(FolderConfig(path=root, split=ALL_TRAIN))
    assert len(found) == 4
    assert len(read_unlabelled(root)) == 4


def spoil(root: Path) -> list[Path]:
    """Three bad files beside good ones in class cat."""
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "cat" / "text.jpg").write_text("not a picture at all")
    whole = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    return [root / "cat" / name for name in ("empty.png", "text.jpg", "truncated.png")]


def test_bad_files_wait_until_read_without_skip_bad(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    spoil(root)
    found = read_folder(FolderConfig(path=root, split=ALL_TRAIN))
    assert len(found) == 7
    assert found.skipped == ()


def test_skip_bad_leaves_them_out_and_lists_each_once(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    bad = spoil(root)
    found = read_folder(FolderConfig(path=root, split=ALL_TRAIN, skip_bad=True))
    assert [path.name for path in found.images] == ["0.png", "1.png", "0.png", "1.png"]
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert len(found.skipped) == 3
    for path, line in zip(bad, found.skipped, strict=True):
        assert line.count(str(path)) == 1
        assert "\n" not in line


def test_class_whose_images_are_all_bad_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2, "emu": 0})
    (root / "emu" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="class 'emu'"):
        read_folder(FolderConfig(path=root, split=ALL_TRAIN, skip_bad=True))


def test_unsupported_pictures_are_refused_not_overlooked(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 2, "dog": 2})
    (root / "cat" / "phone.HEIC").write_bytes(b"1234")
    with pytest.raises(ImageError, match=r"phone\.HEIC.*not supported.*convert it"):
        read_folder(FolderConfig(path=root, split=ALL_TRAIN))
    found = read_folder(FolderConfig(path=root, split=ALL_TRAIN, skip_bad=True))
    assert len(found) == 4
    assert found.skipped == (f"{root / 'cat' / 'phone.HEIC'}: pictures of type .HEIC are not supported",)


def test_group_pattern_numbers_equal_captures_alike(tmp_path: Path, make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 0, "dog": 0})
    source = make_folder({"other": 1}) / "other" / "0.png"
    for name in ("cat/s1_a.png", "cat/s2_b.png", "cat/plain.png", "dog/s1_c.png", "dog/s2_d.png"):
        os.link(source, root / name)
    source.unlink()
    source.parent.rmdir()
    found = read_folder(FolderConfig(path=root, split=ALL_TRAIN, group_pattern=r"^(s\d)_"))
    by_name = dict(zip((path.name for path in found.images), np.asarray(found.groups).tolist(), strict=True))
    assert by_name == {"plain.png": -1, "s1_a.png": 0, "s2_b.png": 1, "s1_c.png": 0, "s2_d.png": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group_pattern": "("}, "no valid regular expression"),
        ({"group_pattern": "abc"}, "exactly one group"),
        ({"pth": "x"}, "pth"),
        ({"min_images_per_class": 0}, "min_images_per_class"),
    ],
)
def test_config_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FolderConfig.model_validate({"path": "x", **wrong})
