"""The best rotation after the fact: how far a student never told where the space lies can still be moved.

An orthogonal map keeps a student's own neighbourhoods and only turns them. What a student trained in the space does
better than such a mapped one is what training for compatibility is worth.
"""

from __future__ import annotations

import numpy as np

from hetero.errors import RetrievalError


def orthogonal_map(query_model: np.ndarray, gallery_model: np.ndarray) -> np.ndarray:
    """The orthogonal matrix R that makes ‖φ_q R − φ_g‖² least, ``float64 [d, d]``.

    Args:
        query_model, gallery_model: ``[m, d]``, embeddings of the same images; not those it will be judged on.

    Raises:
        RetrievalError: they do not have one shape.

    Source: Schönemann, A generalized solution of the orthogonal Procrustes problem, Psychometrika 1966.
    """
    if query_model.ndim != 2 or query_model.shape != gallery_model.shape:
        raise RetrievalError(
            "a map needs the same images embedded by both models",
            got=f"{list(query_model.shape)} and {list(gallery_model.shape)}",
            expected="[m, d] twice",
        )
    left, _, right = np.linalg.svd(query_model.astype(np.float64).T @ gallery_model.astype(np.float64))
    return left @ right


def mapped(query_model: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Embeddings ``float32 [m, d]`` turned by ``rotation``, L2-normalised as they were."""
    turned = query_model @ rotation
    unit: np.ndarray = (turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32)
    return unit
