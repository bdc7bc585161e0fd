"""Files and directories that are either wholly there or not there at all, whatever kills the process.

The recipe: write to a hidden sibling, fsync it, rename it into place, fsync the parent.
A reader never sees half a file; an interrupted write leaves only a hidden ``.tmp-*`` sibling, which the next removes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hetero.errors import StorageError

_TEMPORARY = ".tmp-"
_PREVIOUS = ".previous-"


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace the file at ``path`` by ``data`` in one step.

    Raises:
        StorageError: the file system refused (disk full, read-only, no permission); the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f"{_TEMPORARY}{path.name}.{uuid.uuid4().hex[:8]}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_directory(path.parent)


def write_text(path: Path | str, text: str) -> None:
    """Replace the UTF-8 text file at ``path`` in one step; errors as :func:`write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: object) -> None:
    """Replace the JSON file at ``path`` in one step: UTF-8, two spaces, NaN refused with ``ValueError``."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def directory(path: Path | str) -> Iterator[Path]:
    """Yield an empty directory to fill; on success it takes the place of ``path``, on an exception it vanishes.

    An older directory at ``path`` is set aside first and removed last, so at every instant one of the two is
    complete on disk: :func:`recover` brings the older back if the process died between the two renames.

    Raises:
        StorageError: the file system refused; the older directory is untouched.
    """
    path = Path(path)
    recover(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f"{_TEMPORARY}{path.name}.*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = path.with_name(f"{_TEMPORARY}{path.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            yield temporary
            _fsync_tree(temporary)
            if path.exists():
                previous = path.with_name(f"{_PREVIOUS}{path.name}")
                os.rename(path, previous)
                os.rename(temporary, path)
                _fsync_directory(path.parent)
                shutil.rmtree(previous)
            else:
                os.rename(temporary, path)
                _fsync_directory(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            recover(path)
            raise


def recover(path: Path | str) -> None:
    """Finish or undo a replacement of the directory ``path`` that was cut short; does nothing otherwise."""
    path = Path(path)
    previous = path.with_name(f"{_PREVIOUS}{path.name}")
    if not previous.exists():
        return
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
    else:
        os.rename(previous, path)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full disk and a refused path into one clear :class:`StorageError` about ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full while saving {path}",
                got=f"{_free_bytes(path)} bytes free",
                fix="free some space and run the same command again; everything saved before is intact",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StorageError(
                f"cannot write {path}",
                got=error.strerror,
                fix="name a directory that you may write to",
            ) from error
        raise


def _free_bytes(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _fsync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(folder, name), "rb") as stream:
                os.fsync(stream.fileno())
        _fsync_directory(Path(folder))


def _fsync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a directory; the rename itself is done
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
