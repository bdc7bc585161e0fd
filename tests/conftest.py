"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

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
