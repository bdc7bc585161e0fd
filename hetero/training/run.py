"""The run directory: what it holds, which version wrote it, and who may write to it now.

::

    run.json            schema version, config and its digest, tool versions
    metrics.jsonl       one line every ``log_every_steps``
    state/PHASE/step-*  committed training states
    gallery/            the gallery model's checkpoint
    students/NAME/      each student's
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import torch

import hetero
from hetero import atomic
from hetero.config import RunConfig
from hetero.errors import CheckpointError, ConfigError, StorageError

RUN_SCHEMA = 1


@contextmanager
def run_directory(path: Path, config: RunConfig) -> Iterator[Path]:
    """Make or reopen a run directory and hold its lock; a killed process leaves no lock behind.

    Raises:
        CheckpointError: another version wrote it. ConfigError: it belongs to another config.
        StorageError: another process is training in it.
    """
    with atomic.storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StorageError(
            f"another process is training in {path}", fix="wait for it, or name another directory with --out"
        ) from None
    try:
        if (path / "run.json").exists():
            _require_same_run(read_run(path), config, path)
        else:
            atomic.write_json(path / "run.json", _record(config))
        yield path
    finally:
        lock.release()


def read_run(path: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        CheckpointError: no run directory, damaged, or of another version.
    """
    file = path / "run.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{path} is no run directory", expected="a directory with run.json", fix="run hetero train first"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged", got=error, fix="restore it from a copy") from error
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != RUN_SCHEMA:
        raise CheckpointError(
            f"{path} was written by another version of hetero",
            got=f"schema_version {version!r}",
            expected=RUN_SCHEMA,
            fix="use that version, or start in another directory with --out; nothing was changed",
        )
    return dict(record)


def run_config(path: Path) -> RunConfig:
    """The config that a run directory was made with."""
    return RunConfig.model_validate(read_run(path)["config"])


def _record(config: RunConfig) -> dict[str, Any]:
    return {
        "schema_version": RUN_SCHEMA,
        "config_sha256": config.digest(),
        "config": config.model_dump(mode="json"),
        "versions": {
            "hetero": hetero.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }


def _require_same_run(record: dict[str, Any], config: RunConfig, path: Path) -> None:
    if record["config_sha256"] == config.digest():
        return
    old, new = _flat(record["config"]), _flat(config.model_dump(mode="json"))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    raise ConfigError(
        f"{path} belongs to a run with another config",
        got=", ".join(f"{key} {new.get(key)!r} (was {old.get(key)!r})" for key in changed[:5]),
        fix="use the old config to resume it, or name another directory with --out",
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {prefix: value}
    return {key: leaf for name, item in items for key, leaf in _flat(item, f"{prefix}.{name}".strip(".")).items()}
