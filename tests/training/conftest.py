"""Small pictures and a finished gallery model, so that only students have to be trained."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fleets import train
from toy import toy_config, toy_tree, write_pictures

from hetero.logs import SilentProgress
from hetero.workflows.train import train_run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "toy.npz")


@pytest.fixture(scope="module")
def gallery(pictures, tmp_path_factory):
    """A finished gallery model, so that only students have to be trained."""
    tree = toy_tree(pictures) | {"students": []}
    return train(tree, tmp_path_factory.mktemp("gallery") / "run").gallery


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A whole run: nothing may be changed in it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train_run(toy_config(pictures), out, progress=SilentProgress())
