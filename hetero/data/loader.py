"""Batches of pixels, read ahead on a thread: from memory where the set fits, from files on a thread pool otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue

import numpy as np

from hetero.data.dataset import Dataset
from hetero.data.pixels import read_pixels
from hetero.preprocess import PreprocessSpec

MEMORY_LIMIT_BYTES = 1 << 30  # decoded training pixels kept in memory up to this size; a phone album fits, ImageNet not
READ_AHEAD = 3  # batches: enough to ride out one slow file, little enough to cost no memory worth naming
_POLL_S = 0.1


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        step: 0-based position in the phase. epoch: 0-based.
        pixels: ``uint8 [b, h, w, c]``. labels: ``int64 [b]``, positions among the training classes.
    """

    step: int
    epoch: int
    pixels: np.ndarray
    labels: np.ndarray


class Loader:
    """The batches of one phase, addressable by step so that a resumed run continues at its data position.

    Args:
        plan: maps an epoch to ``int64 [steps, b]`` positions into ``indices`` (see :mod:`hetero.data.sampler`).
        workers: decoding threads, where pictures are files.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: np.ndarray,
        spec: PreprocessSpec,
        plan: Callable[[int], np.ndarray],
        *,
        workers: int = 2,
        memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    ) -> None:
        self._dataset, self._indices, self._spec, self._plan, self._workers = dataset, indices, spec, plan, workers
        self.classes, labels = np.unique(dataset.labels[indices], return_inverse=True)
        self._labels = labels.astype(np.int64)
        self.steps_per_epoch = len(plan(0))
        size = len(indices) * spec.height * spec.width * spec.channels
        self._pixels = read_pixels(dataset, indices, spec, workers=workers) if size <= memory_limit_bytes else None

    def batches(self, first_step: int, end_step: int) -> Iterator[Batch]:
        """Yield the batches of steps ``first_step … end_step − 1``, reading ahead; a reader's error is raised here."""
        queue: Queue[Batch | BaseException | None] = Queue(READ_AHEAD)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    queue.put(item, timeout=_POLL_S)
                    return
                except Full:
                    continue

        def read() -> None:
            try:
                for batch in self._read(first_step, end_step):
                    put(batch)
                    if stop.is_set():
                        return
                put(None)
            except BaseException as error:  # handed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=read, name="hetero-loader", daemon=True)
        thread.start()
        try:
            while True:
                item = queue.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while True:
                try:
                    queue.get_nowait()
                except Empty:
                    break
            thread.join()

    def _read(self, first_step: int, end_step: int) -> Iterator[Batch]:
        planned_epoch, plan = -1, np.empty((0, 0), dtype=np.int64)
        for step in range(first_step, end_step):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != planned_epoch:
                planned_epoch, plan = epoch, self._plan(epoch)
            chosen = plan[position]
            if self._pixels is not None:
                pixels = self._pixels[chosen]
            else:
                pixels = read_pixels(self._dataset, self._indices[chosen], self._spec, workers=self._workers)
            yield Batch(step=step, epoch=epoch, pixels=pixels, labels=self._labels[chosen])
