"""The bundle: a directory that says what it holds, verified before anything in it reaches a runtime.

Specified in docs/bundle-spec.md; the manifest's records are in manifest.py. Imports no torch, onnx or onnxruntime:
phone labs read bundles, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporters.manifest import (
    COPY_AGAIN,
    MANIFEST,
    PLAIN_NAME,
    SEAL,
    FileEntry,
    Manifest,
    ModelFile,
    entry_of,
    parse_manifest,
)
from hetero import atomic
from hetero.errors import BundleError, ConfigError
from hetero.space import EmbeddingSpace, require_same_space

SUFFIX = ".hetero"
MAX_MANIFEST_BYTES = 1 << 20  # a real one has some 10 kB; parsing is not asked to survive more
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files had the listed hashes when it was opened; ``raw`` are the manifest's bytes, as read."""

    path: Path
    manifest: Manifest
    raw: bytes = field(repr=False)

    @property
    def space(self) -> EmbeddingSpace:
        """The space the bundle's models embed into."""
        return self.manifest.space

    def model_file(self, *, format: str = "onnx", precision: str = "fp32") -> ModelFile:
        """The exported model of this format and precision.

        Raises:
            BundleError: the bundle has none.
        """
        for file in self.manifest.files:
            if (file.format, file.precision) == (format, precision):
                return file
        raise BundleError(
            f"{self.path} has no {format} file of precision {precision}",
            expected="one of " + ", ".join(f"{file.format} {file.precision}" for file in self.manifest.files),
            fix="name one of these, or export again with this format",
        )

    def read(self, path: str) -> bytes:
        """The bytes of a listed file, hashed again now: hand these on, never the path, which others may change.

        Raises:
            BundleError: the file is not listed, or changed since the bundle was opened.
        """
        for entry in self.manifest.entries():
            if entry.path == path:
                return _read_entry(self.path, entry)
        raise BundleError(
            f"{self.path} lists no file {path!r}",
            expected=", ".join(entry.path for entry in self.manifest.entries()),
        )


def open_bundle(path: Path | str, *, expected_space: EmbeddingSpace | str | None = None) -> Bundle:
    """Verify a whole bundle: hashes, sizes, paths, schema and that nothing else lies in the folder.

    Args:
        path: the ``NAME.hetero`` directory.
        expected_space: the space (or its id) of the gallery to be searched.

    Raises:
        BundleError: anything that is not exactly as the manifest and ``bundle.sha256`` say; names the file.
        SpaceMismatchError: the bundle is sound but belongs to another space.
    """
    path = Path(path)
    atomic.recover(path)
    if not path.is_dir():
        raise BundleError(f"{path} is no bundle", expected=f"a directory NAME{SUFFIX}", fix="check the path")
    raw = read_regular(path, MANIFEST, MAX_MANIFEST_BYTES)
    seal = read_regular(path, SEAL, 200)
    if seal != seal_of(raw):
        raise BundleError(
            f"{path / MANIFEST} does not have the hash in {SEAL}, so one of the two was changed",
            expected=f"sha256 {hashlib.sha256(raw).hexdigest()} in {SEAL}, in the format of sha256sum",
            fix=COPY_AGAIN,
        )
    manifest = parse_manifest(raw, where=str(path / MANIFEST))
    _check_listing(path, {MANIFEST, SEAL} | {entry.path for entry in manifest.entries()})
    for entry in manifest.entries():
        _hash_entry(path, entry)
    bundle = Bundle(path=path, manifest=manifest, raw=raw)
    if expected_space is not None:
        require_space(bundle, expected_space)
    return bundle


def require_space(bundle: Bundle, expected: EmbeddingSpace | str) -> None:
    """Refuse a bundle whose vectors cannot be searched in a gallery of the space ``expected`` (or its id).

    Raises:
        SpaceMismatchError: naming both ids.
    """
    gallery_space = expected if isinstance(expected, str) else expected.id
    require_same_space(bundle.space.id, gallery_space, query=f"bundle {bundle.path}", gallery="the gallery")


def seal_of(manifest: bytes) -> bytes:
    """The content of ``bundle.sha256``: one line that ``sha256sum --check`` understands."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode("ascii")


def write_bundle(path: Path | str, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Write a bundle in one step, then open it as any reader would.

    Args:
        path: ``NAME.hetero``; an older bundle there is replaced.
        contents: the bytes of each listed file.

    Raises:
        ConfigError: the path has another suffix or holds something that is no bundle.
        BundleError: ``contents`` and the manifest do not agree.
        StorageError: the disk refused; an older bundle at ``path`` is untouched.
    """
    path = checked_destination(path)
    entries = {entry.path: entry for entry in manifest.entries()}
    wrong = sorted(entries.keys() ^ contents.keys())
    for name, data in contents.items():
        if name in entries and _identity(entry_of(name, data)) != _identity(entries[name]):
            wrong.append(name)
    if wrong:
        raise BundleError(
            "the manifest does not describe the files to be written",
            got=f"no or another content for {', '.join(wrong)}",
            fix="make each file's entry from the bytes that are written",
        )
    raw = (json.dumps(manifest.model_dump(mode="json"), indent=2, allow_nan=False) + "\n").encode("ascii")
    parse_manifest(raw)  # what cannot be read back is not written
    with atomic.directory(path, marker=MANIFEST) as folder:
        for name, data in {**contents, MANIFEST: raw, SEAL: seal_of(raw)}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return open_bundle(path)


def checked_destination(path: Path | str) -> Path:
    """The path a bundle may be written to: ``NAME.hetero`` that does not exist or is a bundle.

    Raises:
        ConfigError: another suffix, a name with odd characters, or something there that is no bundle.
    """
    path = Path(path)
    if path.suffix != SUFFIX or not PLAIN_NAME.fullmatch(path.stem):
        raise ConfigError(
            "a bundle's directory has a plain name and the suffix .hetero",
            got=repr(path.name),
            expected=f"letters, digits, '_', '-' and '.', then {SUFFIX}",
            fix=f"write to e.g. {path.with_name('student' + SUFFIX)}",
        )
    if (path.exists() or path.is_symlink()) and (path.is_symlink() or not (path / SEAL).is_file()):
        raise ConfigError(
            f"{path} exists and is no bundle, so it is not replaced",
            fix="move it away or choose another name",
        )
    return path


def _identity(entry: FileEntry) -> tuple[str, int]:
    return entry.sha256, entry.size_bytes


def _check_listing(root: Path, listed: set[str]) -> None:
    """Refuse links, devices and whatever the manifest does not name, in the whole tree under ``root``."""
    folders = {parent.as_posix() for name in listed for parent in Path(name).parents} - {"."}
    pending = [""]
    while pending:
        folder = pending.pop()
        for item in os.scandir(root / folder):
            name = f"{folder}{item.name}"
            if item.is_symlink():
                raise BundleError(f"{root / name} is a link", expected="files only", fix=COPY_AGAIN)
            if item.is_dir(follow_symlinks=False) and name in folders:
                pending.append(f"{name}/")
            elif name not in listed:
                raise BundleError(
                    f"{str(root / name)!a} is not listed in {MANIFEST}",
                    expected="the listed files and nothing else",
                    fix="remove it from the bundle",
                )


def _open_regular(root: Path, name: str) -> int:
    """A descriptor of a regular file, never through a link and never waiting for a pipe."""
    flags = os.O_RDONLY
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each is missing on some system
        flags |= getattr(os, flag, 0)
    try:
        descriptor = os.open(root / name, flags)
    except FileNotFoundError:
        if name == MANIFEST and (root / "model.json").is_file():
            raise BundleError(f"{root} is a checkpoint, not a bundle", fix="make one with hetero export") from None
        raise BundleError(f"{root / name} is missing", fix=COPY_AGAIN) from None
    except OSError as error:  # ELOOP for a link, EACCES, ENOTDIR, ENXIO for a socket
        raise BundleError(
            f"{root / name} cannot be opened as a regular file", got=error.strerror, fix=COPY_AGAIN
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BundleError(f"{root / name} is not a regular file", fix=COPY_AGAIN)
    return descriptor


def read_regular(root: Path, name: str, limit_bytes: int) -> bytes:
    """The bytes of the regular file ``root / name``.

    Raises:
        BundleError: it is missing, a link, no regular file, or larger than the limit.
    """
    with open(_open_regular(root, name), "rb") as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise BundleError(f"{root / name} is too large", expected=f"at most {limit_bytes} bytes", fix=COPY_AGAIN)
    return data


def _read_entry(root: Path, entry: FileEntry) -> bytes:
    data = read_regular(root, entry.path, entry.size_bytes)
    _require_content(root, entry, hashlib.sha256(data).hexdigest(), len(data))
    return data


def _hash_entry(root: Path, entry: FileEntry) -> None:
    digest, size_bytes = hashlib.sha256(), 0
    with open(_open_regular(root, entry.path), "rb") as stream:
        while size_bytes <= entry.size_bytes and (chunk := stream.read(_CHUNK_BYTES)):
            digest.update(chunk)
            size_bytes += len(chunk)
    _require_content(root, entry, digest.hexdigest(), size_bytes)


def _require_content(root: Path, entry: FileEntry, sha256: str, size_bytes: int) -> None:
    if (sha256, size_bytes) != _identity(entry):
        raise BundleError(
            f"{root / entry.path} is not the file that {MANIFEST} lists",
            got=f"{size_bytes} bytes, sha256 {sha256[:16]}…",
            expected=f"{entry.size_bytes} bytes, sha256 {entry.sha256[:16]}…",
            fix=COPY_AGAIN,
        )
