"""Files and directories that are either wholly there or not there at all, whatever kills the process.

The recipe: write to a hidden sibling, fsync it, rename it into place, fsync the parent.
A reader never sees half a file. A killed write leaves only a hidden ``.tmp-*`` sibling; the next write of the same
directory removes it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hetero.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
def directory(path: Path | str, *, marker: str) -> Iterator[Path]:
    """Yield an empty directory to fill; on success it takes the place of ``path``, on an exception it vanishes.

    An older directory at ``path`` is set aside first and removed last, so at every instant one of the two is
    complete on disk: :func:`recover` brings the older back if the process died between the two renames. Two writers
    of one path do not disturb each other: the last to finish wins.

    Args:
        marker: a file that every directory of this kind holds. An existing directory without it is somebody's own
            and is never replaced, unless it is empty.

    Raises:
        StorageError: the file system refused, or ``path`` is a directory of another kind; it is untouched.
    """
    path = Path(path)
    recover(path)
    _require_ours(path, marker)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        temporary = path.with_name(f"{_TEMPORARY}{path.name}.{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            with _lock(temporary):  # held while alive, so that no other writer takes it for stale
                yield temporary
                _fsync_tree(temporary)
                with _lock(path.parent):
                    _require_ours(path, marker)
                    _swap(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def recover(path: Path | str) -> None:
    """Finish or undo a replacement of the directory ``path`` that was cut short; does nothing otherwise.

    Safe beside a living writer: it waits until that one's renames are done.
    """
    path = Path(path)
    previous = path.with_name(f"{_PREVIOUS}{path.name}")
    if not previous.exists():
        return
    with storage_errors(path), _lock(path.parent):
        if not previous.exists():
            return
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)
        else:
            os.rename(previous, path)


def _swap(temporary: Path, path: Path) -> None:
    previous = path.with_name(f"{_PREVIOUS}{path.name}")
    replaces = path.exists()
    if replaces:
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(path, previous)
    try:
        os.rename(temporary, path)
    except BaseException:
        if replaces:
            os.rename(previous, path)
        raise
    _fsync_directory(path.parent)
    if replaces:
        shutil.rmtree(previous, ignore_errors=True)  # what is left of it, the next recover removes


def _require_ours(path: Path, marker: str) -> None:
    if path.is_dir() and not (path / marker).exists() and any(path.iterdir()):
        raise StorageError(
            f"{path} exists and is not ours to replace: it holds no {marker}",
            expected=f"a new name, an empty directory, or one written by hetero with {marker}",
            fix="name another directory",
        )


def _remove_stale(path: Path) -> None:
    """Remove temporaries of writers that died: those of this very name that nobody holds."""
    pattern = re.compile(re.escape(f"{_TEMPORARY}{path.name}.") + "[0-9a-f]{8}")
    for entry in path.parent.iterdir():
        if not pattern.fullmatch(entry.name):
            continue
        if not entry.is_dir():
            continue
        try:
            with _lock(entry, wait=False):
                shutil.rmtree(entry, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # a living writer's, or gone meanwhile


@contextmanager
def _lock(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the kernel's advisory lock on a directory; a dead process holds none. Windows has no ``flock``: no lock."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


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
