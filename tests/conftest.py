"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "training"))
sys.path.insert(0, str(Path(__file__).parent / "losses"))


@pytest.fixture(scope="session")
def hetero_data() -> Path:
    """The folder of real image sets named by ``HETERO_DATA``; required where ``CI`` is set."""
    folder = os.environ.get("HETERO_DATA")
    if folder and (Path(folder) / "omniglot28.npz").is_file():
        return Path(folder)
    reason = f"HETERO_DATA names no folder with omniglot28.npz (it is {folder!r})"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def needs() -> Callable[[str], ModuleType]:
    """Imports an optional package by name or skips the test without it; required where ``CI`` is set."""

    def imported(name: str) -> ModuleType:
        return importlib.import_module(name) if os.environ.get("CI") else pytest.importorskip(name)

    return imported


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that trains in seconds."""
    from toy import write_config

    return write_config(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def trained(config: Path) -> Path:
    """Its run directory, trained by the command: nothing may be changed in it."""
    from commands import documents, run

    longer = ["--set=gallery.train.epochs=12", "--set=student_training.epochs=30"]
    content = documents(run("train", config, "--out", config.parent / "run", "--json", *longer))
    assert Path(content["gallery"]).is_dir()
    return config.parent / "run"
