"""Two scored runs of one toy experiment, seeds 0 and 1."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
from commands import run
from toy import toy_tree, write_pictures


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    (folder / "toy.yaml").write_text(yaml.safe_dump(toy_tree(write_pictures(folder / "toy.npz"))))
    for seed in (0, 1):
        run("train", folder / "toy.yaml", "--out", folder / str(seed), "--set", f"seed={seed}", "--threads", "1")
        run("compat", folder / str(seed), code=1)
    return [folder / "0", folder / "1"]
