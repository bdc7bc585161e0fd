"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


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
