"""The gallery model's embeddings of views that come round again, so that its forward runs once per view."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hetero import atomic

Embedder = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n d"]]
_KNOWN = 1 << 32  # beside the checksum, which may be 0


@runtime_checkable
class Store(Protocol):
    """Where embeddings of views are kept."""

    def get(self, view: int) -> Tensor | None:
        """The embeddings of one view, None where they are not known."""

    def put(self, view: int, embedding: Tensor) -> None:
        """Keep the embeddings of one view."""


class MemoryStore:
    """On the device that the gallery model is on; gone with the process."""

    def __init__(self) -> None:
        self._known: dict[int, Tensor] = {}

    def get(self, view: int) -> Tensor | None:
        """See :class:`Store`."""
        return self._known.get(view)

    def put(self, view: int, embedding: Tensor) -> None:
        """See :class:`Store`."""
        self._known[view] = embedding


class DiskStore:
    """In two files under a folder, so that a resumed run finds them.

    A view counts as known only where its bytes have the recorded checksum: a kill or a full disk in the middle costs
    the view, not the training.

    Args:
        key: names what the embeddings depend on, as a digest; other keys are other files.
        views: how many there are.
    """

    def __init__(self, folder: Path, key: str, views: int) -> None:
        self._data, self._views = folder / f"views-{key}.f32", views
        with atomic.storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            marks = folder / f"views-{key}.crc"
            if not marks.exists() or marks.stat().st_size != 8 * views:
                marks.write_bytes(bytes(8 * views))
            self._marks = np.memmap(marks, np.uint64, "r+", shape=(views,))
        self._rows: np.ndarray | None = None

    def get(self, view: int) -> Tensor | None:
        """See :class:`Store`."""
        if self._marks[view] == 0:
            return None
        if self._rows is None:
            size = self._data.stat().st_size if self._data.exists() else 0
            if size == 0 or size % (4 * self._views):
                return None
            self._rows = np.memmap(self._data, np.float32, "r+").reshape(self._views, -1)
        row = np.array(self._rows[view])
        if int(self._marks[view]) != _KNOWN | zlib.crc32(row.tobytes()):
            return None
        width = int(row[0])
        if width < 1 or (len(row) - 1) % width:
            return None
        return torch.from_numpy(row[1:].reshape(-1, width))

    def put(self, view: int, embedding: Tensor) -> None:
        """See :class:`Store`.

        Raises:
            StorageError: the disk refused.
        """
        row = np.concatenate(([embedding.shape[1]], embedding.float().cpu().numpy().reshape(-1))).astype(np.float32)
        with atomic.storage_errors(self._data):
            rows = self._rows
            if rows is None or rows.shape[1] != len(row):
                if not self._fits(row):
                    _reserve(self._data, 4 * self._views * len(row))
                rows = self._rows = np.memmap(self._data, np.float32, "r+", shape=(self._views, len(row)))
            rows[view] = row
            self._marks[view] = _KNOWN | zlib.crc32(row.tobytes())

    def _fits(self, row: np.ndarray) -> bool:
        return self._data.exists() and self._data.stat().st_size == 4 * self._views * len(row)


def _reserve(path: Path, size_bytes: int) -> None:
    """A file of that size whose room is taken now: a disk that is full would end the process when a page is written."""
    with open(path, "wb") as stream:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size_bytes)
        else:
            stream.truncate(size_bytes)


class GalleryMemory:
    """A frozen gallery model that remembers what it made of each of ``views`` batches.

    Batches are told apart by step: steps that differ by a multiple of ``views`` show the same pictures. Nothing has
    to be saved to resume a run: a batch that is not remembered is embedded again, to the same bits.

    Args:
        gallery: embeds a batch; the frozen network, in evaluation mode.
        views: number of different batches, or None where none comes twice: then nothing is kept.
    """

    def __init__(self, gallery: Embedder, views: int | None, store: Store | None = None) -> None:
        self._gallery, self._views, self._store = gallery, views, store or MemoryStore()

    def at(self, step: int) -> Embedder:
        """What embeds the pictures of ``step``: the network, or the memory of it."""
        views = self._views
        return self._gallery if views is None else lambda image: self._recall(step % views, image)

    def _recall(self, view: int, image: Tensor) -> Tensor:
        known = self._store.get(view)
        if known is not None:
            return known.to(image.device)
        embedding = self._gallery(image)
        self._store.put(view, embedding)
        return embedding
