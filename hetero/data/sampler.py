"""Which pictures make which batch: a pure function of seed and epoch, so that a resumed run needs no sampler state."""

from __future__ import annotations

import numpy as np

from hetero.errors import DataError


def shuffled_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Every item at most once, in random order: ``int64 [count // batch_size, batch_size]`` positions.

    Raises:
        DataError: fewer items than one batch.
    """
    if count < batch_size:
        raise _too_few(count, batch_size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    steps = count // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def pk_batches(labels: np.ndarray, batch_size: int, images_per_class: int, *, seed: int, epoch: int) -> np.ndarray:
    """P classes × K images a batch: ``int64 [len(labels) // batch_size, batch_size]`` positions into ``labels``.

    Classes are drawn without replacement within a batch and all come round before one comes twice; a class with
    fewer than K images repeats some.

    Source: Hermans et al., In defense of the triplet loss, 2017, PK batches.

    Raises:
        DataError: a batch size that K does not divide, or fewer classes than a batch needs.
    """
    per_batch, remainder = divmod(batch_size, images_per_class)
    classes = np.unique(labels)
    if remainder or per_batch > len(classes):
        raise DataError(
            "the PK sampler cannot fill a batch",
            got=f"batch_size {batch_size}, images_per_class {images_per_class}, {len(classes)} classes",
            expected="batch_size = images_per_class × at most the number of classes",
            fix="change batch_size or sampler.images_per_class",
        )
    if len(labels) < batch_size:
        raise _too_few(len(labels), batch_size)
    rng = np.random.default_rng((seed, epoch))
    members = {int(label): np.flatnonzero(labels == label) for label in classes}
    steps = len(labels) // batch_size
    batches = np.empty((steps, per_batch, images_per_class), dtype=np.int64)
    queue: list[int] = []
    for step in range(steps):
        if len(queue) < per_batch:
            again = list(queue)  # at the end of the next round, so that no batch holds a class twice
            queue += [int(c) for c in rng.permutation(classes) if int(c) not in again] + again
        chosen, queue = queue[:per_batch], queue[per_batch:]
        for row, label in enumerate(chosen):
            own = members[label]
            batches[step, row] = rng.choice(own, images_per_class, replace=len(own) < images_per_class)
    return batches.reshape(steps, batch_size)


def _too_few(count: int, batch_size: int) -> DataError:
    return DataError(
        "there are fewer training images than one batch holds",
        got=f"{count} images",
        expected=f"at least batch_size = {batch_size}",
        fix="lower batch_size or add images",
    )
