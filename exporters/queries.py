"""A bundle as the query model of the commands: embeds a data set's pictures, or picture files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from exporters.bundle import open_bundle
from exporters.verify import embed_files, embed_pixels
from hetero.data.dataset import Dataset
from hetero.workflows.query import QueryVectors


def dataset_embedder(path: Path, *, threads: int) -> Callable[[Dataset, np.ndarray], np.ndarray]:
    """A function that embeds the chosen pictures of a data set with the bundle at ``path``, opened once.

    Raises:
        BundleError: the bundle does not open.
    """
    bundle = open_bundle(path)

    def embed(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
        if dataset.plain_files:
            return embed_files(bundle, [dataset.images[i] for i in indices], threads=threads)[0]
        from hetero.data.pixels import read_pixels

        return embed_pixels(bundle, read_pixels(dataset, indices, bundle.manifest.preprocess), threads=threads)

    return embed


def query_vectors(path: Path, images: Sequence[Path], *, skip_bad: bool) -> QueryVectors:
    """Picture files, embedded with the bundle at ``path``.

    Raises:
        BundleError: the bundle does not open. ImageError: a file cannot be used, without ``skip_bad``.
    """
    bundle = open_bundle(path)
    vectors, skipped = embed_files(bundle, images, skip_bad=skip_bad)
    left_out = {entry.index for entry in skipped}
    kept = tuple(image for place, image in enumerate(images) if place not in left_out)
    lines = tuple(entry.reason for entry in skipped)
    return QueryVectors(vectors, kept, lines, bundle.manifest.space.id, f"bundle {path}")
