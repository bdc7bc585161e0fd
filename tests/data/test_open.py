from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from hetero.data.csv import CsvConfig
from hetero.data.folder import FolderConfig
from hetero.data.glyphs import GlyphsConfig
from hetero.data.npz import NpzConfig
from hetero.data.open import open_dataset, parse_data_config
from hetero.errors import ConfigError

MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"format": "folder", "path": "x"}, FolderConfig),
        ({"format": "csv", "path": "x"}, CsvConfig),
        ({"format": "npz", "path": "x"}, NpzConfig),
        ({"format": "glyphs"}, GlyphsConfig),
    ],
)
def test_format_chooses_the_config(section: dict[str, object], kind: type) -> None:
    config = parse_data_config(section)
    assert isinstance(config, kind)
    assert parse_data_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"format": "folder", "path": "x", "skip_bda": True},
            r"got data\.skip_bda: unknown key, .*nearest: skip_bad.*fix",
        ),
        ({"format": "folder", "path": "x", "split": {"tset": 0}}, r"data\.split\.tset"),
        ({"format": "npz"}, r"data\.path: Field required"),
        ({"format": "zip", "path": "x"}, r"data: .*'folder', 'csv', 'npz', 'glyphs'"),
        ({"path": "x"}, "data: .*format"),
        ({"format": "npz", "path": "x", "val_classes": -1, "allow_pickle": True}, "data.val_classes.*allow_pickle"),
    ],
)
def test_wrong_sections_are_refused_by_key(section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_data_config(section)


def test_every_format_opens(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/a": 2, "test/b": 2})
    lines = [f"photos/{place}/{i}.png,{place[-1]},{place[:-2]}\n" for place in ("train/a", "test/b") for i in range(2)]
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(lines))
    np.savez(
        tmp_path / "all.npz", images=np.zeros((4, 3, 3), np.uint8), labels=np.array([0, 0, 1, 1]),
        classes=np.array(["a", "b"]), train=np.array([0, 1]), test=np.array([2, 3]),
    )  # fmt: skip
    for config in (
        FolderConfig(path=root),
        CsvConfig(path=tmp_path / "list.csv"),
        NpzConfig(path=tmp_path / "all.npz"),
    ):
        dataset = open_dataset(config)
        assert dataset.class_names == ("a", "b")
        assert {name: dataset.labels[i].tolist() for name, i in dataset.splits.items()} == {
            "train": [0, 0], "test": [1, 1],
        }  # fmt: skip


def test_importing_it_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, hetero.data.open; print([m for m in ('torch', 'matplotlib', 'fontTools') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
