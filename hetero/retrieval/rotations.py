"""What chance looks like for a given student: its own embeddings, turned at random, in the gallery model's gallery.

A student that never learnt where the space lies is placed as if by chance. Chance as such, right answers over
candidates, does not know how a student's embeddings lie: in a few clumps, say. Its own under random rotations do.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hetero.errors import RetrievalError
from hetero.retrieval.exact import search_numpy
from hetero.retrieval.protocol import Protocol

CENTRAL = 0.95


@dataclass(frozen=True)
class RotationBand:
    """Scores of a student's embeddings under random rotations, ``float64 [rotations]`` each.

    Attributes:
        r_at_1, map_at_r: the mean over the queries, of each rotation.
    """

    r_at_1: np.ndarray
    map_at_r: np.ndarray

    def central(self, metric: str) -> tuple[float, float]:
        """Between which a score lies that is one more of these, with probability 0.95.

        Of fewer than 39 rotations that is less, as nothing lies beyond the least and the greatest of them.

        Source: Hyndman and Fan, Sample quantiles in statistical packages, 1996 (definition 6).
        """
        tail = 50 * (1 - CENTRAL)
        low, high = np.percentile(getattr(self, metric), [tail, 100 - tail], method="weibull")
        return float(low), float(high)


def rotation_band(
    query_model: np.ndarray,
    gallery_model: np.ndarray,
    protocol: Protocol,
    *,
    rotations: int = 100,
    seed: int = 0,
    threads: int = 1,
) -> RotationBand:
    """Search the gallery model's gallery with a student's embeddings, turned by rotations drawn at random.

    Args:
        query_model, gallery_model: ``[m, d]``, L2-normalised embeddings of the same images.
        protocol: whose ids are rows of both.
        rotations: how many, each uniform over all rotations and reflections of the d dimensions.
        threads: how many of them at a time.

    Raises:
        RetrievalError: no rotation, or vectors that do not fit.

    Source: Mezzadri, How to generate random matrices from the classical compact groups, 2007 (QR with signs).
    """
    if rotations < 1:
        raise RetrievalError("a band needs rotations", got=rotations, expected="at least 1")
    generator = np.random.default_rng(seed)
    queries = query_model[protocol.query_ids][protocol.scorable]
    gallery = gallery_model[protocol.gallery_ids]
    matches = protocol.num_matches[protocol.scorable]
    removed = [protocol.removed(int(number)) for number in protocol.scorable]
    widest = max((len(rows) for rows in removed), default=0)
    exclude = np.full((len(removed), max(1, widest)), -1, np.int64)
    for row, rows in zip(exclude, removed, strict=True):
        row[: len(rows)] = rows
    right_labels = protocol.query_labels[protocol.scorable]
    turns = [random_rotation(queries.shape[1], generator).astype(np.float32) for _ in range(rotations)]
    # equal similarities are found in the order of the rows: at random, as a score is the mean over their orders
    orders = [generator.permutation(len(gallery)) for _ in range(rotations)]

    def scores(turn: np.ndarray, order: np.ndarray) -> tuple[float, float]:
        shuffled, labels = gallery[order], protocol.gallery_labels[order]
        moved = np.append(np.argsort(order), -1)[exclude]  # -1, no row, stays
        turned = queries @ turn
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        first, precision = np.empty(len(turned)), np.empty(len(turned))
        for depth in np.unique(matches):
            some = matches == depth
            _, rows = search_numpy(turned[some], shuffled, int(depth), exclude=moved[some])
            right = labels[rows] == right_labels[some][:, None]
            first[some] = right[:, 0]
            precision[some] = (np.cumsum(right, axis=1) / np.arange(1, depth + 1) * right).mean(1)
        return float(first.mean()), float(precision.mean())

    with ThreadPoolExecutor(threads) as pool:
        return RotationBand(*np.array(list(pool.map(scores, turns, orders))).T)


def random_rotation(dim: int, generator: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix ``float64 [dim, dim]``, uniformly distributed (Haar)."""
    basis, triangle = np.linalg.qr(generator.normal(size=(dim, dim)))
    return basis * np.sign(np.diag(triangle))
