"""A gallery on disk: vectors, what they are of, and a record that proves neither was changed.

``vectors.safetensors`` (``vectors`` float32 [n, dim]), ``items.csv`` (a line an image) and ``gallery.json``
(space, model, counts, SHA-256 of the two others and of itself). docs/retrieval.md specifies the format. A
search index is always rebuilt from this; none is ever loaded.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hetero import atomic
from hetero.data.dataset import NO_GROUP, ROLE_BOTH, ROLE_GALLERY, ROLE_QUERY
from hetero.errors import BundleError, RetrievalError
from hetero.retrieval.vectors import check_vectors

GALLERY_SCHEMA = 1
VECTORS, ITEMS, RECORD = "vectors.safetensors", "items.csv", "gallery.json"
_COLUMNS = ["row", "path", "label", "class_name", "group", "role"]
_ROLE_NAMES = {ROLE_BOTH: "both", ROLE_QUERY: "query", ROLE_GALLERY: "gallery"}
_ROLE_CODES = {name: code for code, name in _ROLE_NAMES.items()}


@dataclass(frozen=True)
class Item:
    """One gallery image.

    Attributes:
        path: where the picture is, or ``name[index]`` for one that has no file.
        label: class number; class_name: its name.
        group: ``NO_GROUP`` or the group whose members never match each other.
        role: ``ROLE_BOTH``, ``ROLE_QUERY`` or ``ROLE_GALLERY``.
    """

    path: str
    label: int
    class_name: str
    group: int = NO_GROUP
    role: int = ROLE_BOTH


class GalleryRecord(BaseModel):
    """The content of ``gallery.json`` except its own digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gallery_schema: int
    space_id: str = Field(min_length=1)
    model_weights_sha256: str = Field(min_length=1)
    dataset: str
    count: int = Field(gt=0)
    dim: int = Field(gt=0)
    sha256: dict[str, str]


@dataclass(frozen=True)
class Gallery:
    """An opened gallery: ``vectors`` float32 ``[n, dim]`` (read-only), one item a row, and its record."""

    vectors: np.ndarray
    items: tuple[Item, ...]
    record: GalleryRecord
    path: Path

    @property
    def labels(self) -> np.ndarray:
        """``int64 [n]``."""
        return np.array([item.label for item in self.items], np.int64)


def write_gallery(
    path: Path | str,
    vectors: np.ndarray,
    items: list[Item] | tuple[Item, ...],
    *,
    space_id: str,
    model_weights_sha256: str,
    dataset: str,
) -> GalleryRecord:
    """Write a gallery directory in one step; an older one at ``path`` is replaced.

    Args:
        path: the directory.
        vectors: ``[n, dim]``, L2-normalised; stored as float32.
        items: one a row.
        space_id: the space of the vectors.
        model_weights_sha256: digest of the weights of the model that made them.
        dataset: name, for messages.

    Raises:
        RetrievalError: vectors that cannot be searched, or not one item a vector.
        StorageError: the disk is full or not writable; the older gallery is untouched.
    """
    vectors = check_vectors("gallery vectors", vectors).astype(np.float32, copy=False)
    if len(items) != len(vectors):
        raise RetrievalError(
            "vectors and items disagree",
            got=f"{len(vectors)} vectors and {len(items)} items",
            expected="one item a vector",
        )
    files = {VECTORS: save({"vectors": vectors}), ITEMS: _render_items(items)}
    record = GalleryRecord(
        gallery_schema=GALLERY_SCHEMA,
        space_id=space_id,
        model_weights_sha256=model_weights_sha256,
        dataset=dataset,
        count=len(vectors),
        dim=vectors.shape[1],
        sha256={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )
    with atomic.directory(path, marker=RECORD) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        (folder / RECORD).write_bytes(_render_record(record))
    return record


def open_gallery(path: Path | str) -> Gallery:
    """Open a gallery directory and verify all of it: hashes, counts, shapes, finite unit vectors.

    Raises:
        BundleError: a missing, changed, linked or unexpected file, an unknown schema, counts that disagree,
            or vectors that cannot be searched; the message names the file.
    """
    folder = Path(path)
    atomic.recover(folder)
    record = _read_record(folder)
    data = {name: _read_file(folder, name) for name in (VECTORS, ITEMS)}
    for name, content in data.items():
        digest = hashlib.sha256(content).hexdigest()
        if digest != record.sha256[name]:
            raise _damaged(folder / name, f"SHA-256 {digest}", f"SHA-256 {record.sha256[name]}")
    items = _parse_items(folder / ITEMS, data[ITEMS])
    vectors = _parse_vectors(folder / VECTORS, data[VECTORS])
    if vectors.shape != (record.count, record.dim) or len(items) != record.count:
        raise _damaged(
            folder,
            f"vectors {list(vectors.shape)} and {len(items)} items",
            f"{record.count} of dimension {record.dim}, as {RECORD} says",
        )
    vectors.setflags(write=False)
    return Gallery(vectors, items, record, folder)


def _read_file(folder: Path, name: str) -> bytes:
    path = folder / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BundleError(
                f"{path} is not a plain file",
                expected="a file inside the gallery directory, no link and no device",
                fix="copy the gallery with its files, not links to them",
            )
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"the gallery at {folder} lacks {name}",
            fix="name a gallery directory, or write the gallery again",
        ) from error
    except OSError as error:
        raise BundleError(f"cannot read {path}", got=error.strerror, fix="check the permissions") from error


def _damaged(path: Path, got: object, expected: object) -> BundleError:
    return BundleError(
        f"{path} was damaged or changed",
        got=got,
        expected=expected,
        fix="write the gallery again from its images",
    )


def _digest(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _render_record(record: GalleryRecord) -> bytes:
    fields = record.model_dump(mode="json")
    return (json.dumps({**fields, "record_sha256": _digest(fields)}, indent=2) + "\n").encode("ascii")


def _read_record(folder: Path) -> GalleryRecord:
    path, raw = folder / RECORD, _read_file(folder, RECORD)
    try:
        fields = json.loads(raw.decode("utf-8"))
        fields.pop("record_sha256")
        schema = fields["gallery_schema"]
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}", "the record of a gallery") from error
    if schema != GALLERY_SCHEMA:
        raise BundleError(
            f"{path} has an unknown schema",
            got=schema,
            expected=GALLERY_SCHEMA,
            fix="open it with the version of hetero that wrote it, or write the gallery again",
        )
    try:
        record = GalleryRecord.model_validate(fields)
    except ValidationError as error:
        raise _damaged(path, str(error.errors()[0]["msg"]), "the keys of docs/retrieval.md") from error
    if set(record.sha256) != {VECTORS, ITEMS}:
        raise _damaged(path, f"files {sorted(record.sha256)}", f"exactly {VECTORS} and {ITEMS}")
    if raw != _render_record(record):  # which holds its digest, so that any byte changed shows
        raise _damaged(path, "content that does not fit its own digest", "the bytes that hetero wrote")
    return record


def _render_items(items: list[Item] | tuple[Item, ...]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180; and then a name holding \r or \n is quoted
    writer.writerow(_COLUMNS)
    for row, item in enumerate(items):
        writer.writerow([row, item.path, item.label, item.class_name, item.group, _ROLE_NAMES[item.role]])
    return text.getvalue().encode("utf-8", "surrogateescape")  # file names need not be valid UTF-8


def _parse_items(path: Path, data: bytes) -> tuple[Item, ...]:
    try:
        lines = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline=""), strict=True)
        if next(lines, None) != _COLUMNS:
            raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
        items = []
        for number, (row, image, label, class_name, group, role) in enumerate(lines):
            if int(row) != number:
                raise ValueError(f"row {row!r} stands at place {number}")
            items.append(Item(image, int(label), class_name, int(group), _ROLE_CODES[role]))
    except (ValueError, KeyError, csv.Error) as error:
        raise _damaged(path, str(error), "the item table of a gallery") from error
    return tuple(items)


def _parse_vectors(path: Path, data: bytes) -> np.ndarray:
    try:
        tensors = load(data)
        if list(tensors) != ["vectors"] or tensors["vectors"].dtype != np.float32:
            raise ValueError(f"it holds {', '.join(f'{name} {value.dtype}' for name, value in tensors.items())}")
        return check_vectors("its vectors", tensors["vectors"])
    except (SafetensorError, ValueError, KeyError, RetrievalError) as error:
        raise _damaged(path, str(error), "float32 'vectors' [n, dim] of unit length") from error
