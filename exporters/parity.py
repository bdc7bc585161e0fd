"""How far an exported model lies from the torch model it came from, on the same pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from exporters.manifest import Parity
from hetero.errors import ExportError
from hetero.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from torch import nn

UNIT_LENGTH_TOLERANCE = 1e-5  # of a row's length: some float32 roundings over the components
_NEARER = 1e-6  # of a cosine: what roundings make of equal pictures


def reference_embeddings(
    network: nn.Module, pixels: np.ndarray, preprocess: PreprocessSpec, *, batch_size: int = 8
) -> np.ndarray:
    """Embeddings of the bare torch network, with colour and length normalisation recomputed in numpy float64.

    Shares no code with the exported graph on purpose, so that a mistake in that graph cannot cancel out.

    Args:
        network: takes colour-normalised float32 ``[b, c, h, w]``; run in evaluation mode, then as it was.
        pixels: ``uint8 [n, h, w, c]``.

    Returns:
        ``float32 [n, dim]``, rows of unit length (a zero row stays zero).
    """
    import torch

    from exporters.graph import NORM_EPSILON
    from exporters.source import evaluation_mode

    parts = []
    with evaluation_mode(network), torch.no_grad():
        for start in range(0, len(pixels), batch_size):
            colours = pixels[start : start + batch_size].astype(np.float64) / 255
            colours = (colours - np.asarray(preprocess.mean)) / np.asarray(preprocess.std)
            batch = np.ascontiguousarray(colours.transpose(0, 3, 1, 2), dtype=np.float32)
            parts.append(network(torch.from_numpy(batch)).numpy().astype(np.float64))
    vectors = np.concatenate(parts)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, NORM_EPSILON)).astype(np.float32)


def compare(reference: np.ndarray, candidate: np.ndarray) -> Parity:
    """Measure two sets of embeddings ``float32 [n, dim]`` against each other, n ≥ 1; nothing is judged.

    The cosine of a zero vector counts as 0 with any other, as 1 with a zero vector: those are equal.

    Raises:
        ExportError: the shapes differ, or a value is not finite, so that no number could be recorded.
    """
    if reference.shape != candidate.shape or not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise ExportError(
            "the exported model's embeddings cannot be compared with the torch model's",
            got=f"{list(candidate.shape)}, {int((~np.isfinite(candidate)).sum())} not finite",
            expected=f"{list(reference.shape)}, all finite",
            fix="look for an overflow or a division by zero in the network",
        )
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    similarities = _unit(b) @ _unit(a).T
    found = similarities.diagonal() >= similarities.max(axis=1) - _NEARER
    cosines[~a.any(axis=1) & ~b.any(axis=1)] = 1
    return Parity(
        max_abs=float(np.abs(a - b).max()),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        self_r_at_1=float(found.mean()),
        images=len(a),
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def length_error(vectors: np.ndarray) -> float:
    """How far the length of a row of ``vectors [n, dim]`` is from 1 at most; 0 of none, NaN where one is not finite."""
    return float(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max(initial=0.0))


def probe_pixels(shape: Sequence[int], *, count: int = 16, seed: int = 0) -> np.ndarray:
    """Pixels for a parity check, ``uint8 [count + 2, *shape]``: black, white, seeded noise, seeded flat patches.

    Args:
        shape: ``(height, width, channels)``.
    """
    height, width, channels = shape
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    patches = random.integers(0, 256, (count, -(-height // 4), -(-width // 4), channels), dtype=np.uint8)
    smooth = patches.repeat(4, axis=1).repeat(4, axis=2)[:, :height, :width]
    noise[count // 2 :] = smooth[count // 2 :]
    ends = np.stack([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)])
    return np.concatenate([ends, noise])


def synthetic_images(preprocess: PreprocessSpec, *, count: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Seeded pictures ``uint8 [h, w, 3]``, larger than the input so that golden vectors cover resizing."""
    random = np.random.default_rng(seed)
    images = []
    for index in range(count):
        height, width = preprocess.height + 5 + 11 * index, preprocess.width + 23 - 3 * (index % 7)
        rows, columns = np.mgrid[0:height, 0:width]
        image = np.empty((height, width, 3), np.uint8)
        for channel in range(3):
            period = random.uniform(3, 20, 2)
            wave = np.sin(rows / period[0]) + np.cos(columns / period[1])
            image[..., channel] = ((wave + 2) * 63.75).astype(np.uint8)
        top, left = random.integers(0, height // 2), random.integers(0, width // 2)
        image[top : top + height // 4, left : left + width // 3] = random.integers(0, 256, 3)
        images.append(image)
    return images
