"""Training states that survive ``kill -9``: each is a directory that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hetero import atomic
from hetero.errors import CheckpointError

_log = logging.getLogger(__name__)
KEPT_STATES = 2  # the newest, and the one before it in case a disk returns damaged bytes for the newest


@dataclass(frozen=True)
class State:
    """A committed step.

    Attributes:
        step: number of steps done. tensors: of all trainees. meter: running sums of the metrics line under way.
    """

    step: int
    tensors: Mapping[str, Tensor]
    meter: Mapping[str, Any]


def commit_state(folder: Path, state: State) -> None:
    """Save a state as ``folder/step-000000123``, then drop all but the last two.

    Raises:
        StorageError: the disk refused; the states before it are untouched.
    """
    data = save({name: tensor.contiguous() for name, tensor in state.tensors.items()})
    with atomic.directory(folder / _name(state.step), marker="state.json") as new:
        (new / "state.safetensors").write_bytes(data)
        record = {"step": state.step, "sha256": hashlib.sha256(data).hexdigest(), "meter": dict(state.meter)}
        (new / "state.json").write_text(json.dumps(record), encoding="utf-8")
    for old in _committed(folder)[:-KEPT_STATES]:
        shutil.rmtree(old)


def latest_state(folder: Path) -> State | None:
    """The newest committed state that reads back intact, or None where none was ever committed.

    Raises:
        CheckpointError: states exist, but none is intact.
    """
    committed = _committed(folder)
    for path in reversed(committed):
        try:
            record = json.loads((path / "state.json").read_text(encoding="utf-8"))
            data = (path / "state.safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                raise ValueError("its SHA-256 is not the recorded one")
            return State(step=record["step"], tensors=load(data), meter=record["meter"])
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            _log.warning("training state %s is damaged (%s); taking the one before it", path, error)
    if committed:
        raise CheckpointError(
            f"no training state in {folder} is intact",
            got=", ".join(path.name for path in committed),
            fix="restore the folder from a copy, or start anew in another run directory",
        )
    return None


def _committed(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _name(step: int) -> str:
    return f"step-{step:09d}"
