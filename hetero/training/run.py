"""The run directory: what it holds, which version wrote it, and who may write to it now.

::

    run.json            schema version, config and its digest, tool versions
    metrics.jsonl       one line every ``log_every_steps``
    state/PHASE/step-*  committed training states
    gallery/            the gallery model's checkpoint; gallery-untuned/: before its tuning
    students/NAME/      each student's
    stopped.json        students that diverged, and why
    cache/              gallery embeddings of views that come round again
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import filelock
import torch
from pydantic import BaseModel, ConfigDict

import hetero
from hetero import atomic
from hetero.config import RunConfig
from hetero.errors import CheckpointError, ConfigError, DataError, StorageError
from hetero.record import read_record

RUN_SCHEMA: Final = 2
_log = logging.getLogger(__name__)


@contextmanager
def run_directory(
    path: Path, config: RunConfig, *, data_sha256: str, unlabelled_sha256: str | None = None
) -> Iterator[Path]:
    """Make or reopen a run directory and hold its lock; a killed process leaves no lock behind.

    The evaluation section may change at any time, the students until their training has begun, and everything until
    any has: what else decides the weights must be as it was.

    Args:
        data_sha256: digest of the dataset, see :func:`hetero.data.dataset.digest`.
        unlabelled_sha256: of the unlabelled pictures, which may come or change until the students' training has begun.

    Raises:
        CheckpointError: another version wrote it. ConfigError: it belongs to another config, or is a folder of
            something else. DataError: it belongs to other data.
        StorageError: another process is training in it.
    """
    _require_run_or_empty(path)
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
        old, begun = None, False
        if (path / "run.json").exists():
            old = read_run(path)
            begun = any((path / name).exists() for name in ("metrics.jsonl", "state", "gallery", "students"))
            if begun:
                _require_same_run(old, config, path)
                _require_same_data(path, "data", data_sha256, old.data_sha256)
            if _students_have_begun(path):
                _require_same_data(path, "unlabelled pictures", unlabelled_sha256, old.unlabelled_sha256)
        record = _record(config, data_sha256, unlabelled_sha256)
        if old is not None and begun:
            if old.threads != record.threads and not _finished(path, config):
                _log.warning(
                    "this run began with --threads %d and goes on with %d: not to the same bits",
                    old.threads,
                    record.threads,
                )
            record = record.model_copy(update={"threads": old.threads, "versions": old.versions})
        atomic.write_json(path / "run.json", record.model_dump(mode="json"))
        yield path
    finally:
        lock.release()


def _require_run_or_empty(path: Path) -> None:
    """A folder of pictures, named by mistake, stays as it is; hidden files, as a kill leaves them, do not count."""
    if not path.is_dir() or (path / "run.json").exists():
        return
    found = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if found:
        raise ConfigError(
            f"{path} is neither a run directory nor empty",
            got=f"a folder with {', '.join(found[:3])}" + (", …" if len(found) > 3 else ""),
            fix="name a new directory with --out",
        )


class RunRecord(BaseModel):
    """The content of ``run.json``.

    Attributes:
        versions, threads: what the training began with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = RUN_SCHEMA
    config_sha256: str
    config: RunConfig
    data_sha256: str
    unlabelled_sha256: str | None = None
    versions: dict[str, str]
    threads: int


def read_run(path: Path) -> RunRecord:
    """The content of ``run.json``.

    Raises:
        CheckpointError: no run directory, damaged, or of another version.
    """
    return read_record(
        path / "run.json",
        RunRecord,
        schema=RUN_SCHEMA,
        absent=CheckpointError(
            f"{path} is no run directory", expected="a directory with run.json", fix="run hetero train first"
        ),
        instead="use that version, or start in another directory with --out; nothing was changed",
    )


def run_config(path: Path) -> RunConfig:
    """The config that a run directory was last trained with."""
    return read_run(path).config


def _record(config: RunConfig, data_sha256: str, unlabelled_sha256: str | None) -> RunRecord:
    return RunRecord(
        config_sha256=config.digest(),
        config=config,
        data_sha256=data_sha256,
        unlabelled_sha256=unlabelled_sha256,
        versions={
            "hetero": hetero.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        threads=torch.get_num_threads(),
    )


def _finished(path: Path, config: RunConfig) -> bool:
    names = ["gallery", *(f"students/{student.name}" for student in config.students)]
    missing = [name for name in names if not (path / name / "model.json").exists()]
    return not missing or ("gallery" not in missing and (path / "stopped.json").exists())


def _students_have_begun(path: Path) -> bool:
    begun = [path / "students", *(path / "state" / phase for phase in ("students", "together", "tuning"))]
    return any(folder.exists() for folder in begun)


def _require_same_data(path: Path, what: str, found: str | None, expected: str | None) -> None:
    if found != expected:
        got, wanted = (f"digest {one[:16]}…" if one else "none" for one in (found, expected))
        raise DataError(
            f"the {what} of {path} changed since the run began",
            got=got,
            expected=wanted,
            fix=f"restore the {what} to resume, or name another directory with --out",
        )


def _require_same_run(record: RunRecord, config: RunConfig, path: Path) -> None:
    free = {"evaluation", "device"}
    if not _students_have_begun(path):
        free |= {"students", "student_training"}
    old, new = (_flat(c.model_dump(mode="json", exclude=free)) for c in (record.config, config))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if not changed:
        return
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
