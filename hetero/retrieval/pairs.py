"""1:1 verification over a list of pairs: the true accept rate at a stated false accept rate (TAR@FAR).

A pair (probe, enrolled template) is accepted where its similarity is at least the threshold. The threshold of a FAR
is the least multiple of 2⁻²⁰ at which at most that share of the list's impostor pairs is accepted; TAR is the share
of its genuine pairs accepted there. The probe is embedded by the query model and the enrolled template by the gallery
model, and each (query model, gallery model) pair has thresholds of its own: the same number means other things to
other models.

Sources: Maze et al., IARPA Janus Benchmark – C: face dataset and protocol, ICB 2018 (1:1 protocol, ROC);
ISO/IEC 19795-1:2021 (false and true match rates, there FMR and 1 − FNMR of comparisons).

Thresholds and TAR are of the same pairs, as in the benchmark; a threshold to be deployed is calibrated on other
classes (hetero/retrieval/verification.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hetero.data.templates import TemplatePairs
from hetero.errors import RetrievalError
from hetero.retrieval.bootstrap import Interval, ratio_interval
from hetero.retrieval.histogram import PairCounts, histogram, require_pairs, threshold_at
from hetero.retrieval.vectors import check_vectors, on_grid

FARS = (1e-2, 1e-3, 1e-4)
_BLOCK_BYTES = 64 * 2**20  # of vectors gathered at a time, on each side


@dataclass(frozen=True)
class OperatingPoint:
    """One point of the ROC.

    Attributes:
        far: the stated false accept rate.
        similarity: its threshold; a pair of at least this similarity is accepted.
        true_accept_rate, false_accept_rate: measured at that threshold, with intervals that keep it fixed.
    """

    far: float
    similarity: float
    true_accept_rate: Interval
    false_accept_rate: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain dict, with ``{"value", "low", "high"}`` for each rate."""
        return {
            "far": self.far,
            "similarity": self.similarity,
            "true_accept_rate": self.true_accept_rate.to_json(),
            "false_accept_rate": self.false_accept_rate.to_json(),
        }


@dataclass(frozen=True)
class Roc:
    """TAR at each stated FAR.

    Attributes:
        points: in the order of the rates asked for.
        counts: of all pairs, by similarity: any other point of the curve follows from it.
        units: how many probes (or clusters of them) the intervals resample.
    """

    points: tuple[OperatingPoint, ...]
    counts: PairCounts
    units: int

    def to_json(self) -> dict[str, Any]:
        """Plain dict: ``points``, ``genuine_pairs``, ``impostor_pairs``, ``units``."""
        return {
            "points": [point.to_json() for point in self.points],
            "genuine_pairs": int(self.counts.genuine.sum()),
            "impostor_pairs": int(self.counts.impostor.sum()),
            "units": self.units,
        }


def verify(
    probes: np.ndarray,
    enrolled: np.ndarray,
    pairs: TemplatePairs,
    fars: tuple[float, ...] = FARS,
    *,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> Roc:
    """TAR at each FAR over a list of pairs.

    Args:
        probes: ``[q, d]``, L2-normalised, by the query model; ``pairs.probe`` are rows of it.
        enrolled: ``[n, d]``, L2-normalised, by the gallery model; ``pairs.enroll`` are rows of it.
        pairs: which are compared.
        fars: stated false accept rates.
        clusters: ``int [q]``, optional, such as the probes' subjects: the bootstrap draws whole clusters of probes
            instead of single probes. A pair belongs to its probe, and the pairs of a unit stay together.
        seed: of the bootstrap.

    Raises:
        RetrievalError: fewer than 10/FAR impostor pairs, no genuine pair, rows or clusters that do not fit the
            embeddings, or vectors that are not finite and normalised.
    """
    require_enough(pairs, fars)
    similarities = pair_similarities(probes, enrolled, pairs)
    if clusters is not None and np.shape(clusters) != (len(probes),):
        raise RetrievalError(
            "the clusters do not fit the probes", got=list(np.shape(clusters)), expected=f"[{len(probes)}]"
        )
    unit = pairs.probe if clusters is None else np.asarray(clusters)[pairs.probe]
    present, unit = np.unique(unit, return_inverse=True)

    def per_unit(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(unit[chosen], minlength=len(present))

    counts = PairCounts(
        histogram(similarities[~pairs.same]), histogram(similarities[pairs.same]), len(np.unique(pairs.probe))
    )
    genuine, impostor = per_unit(pairs.same), per_unit(~pairs.same)
    points = []
    for far in fars:
        threshold = threshold_at(counts, far)
        accepted = similarities >= threshold
        points.append(
            OperatingPoint(
                far,
                threshold,
                ratio_interval(per_unit(accepted & pairs.same), genuine, seed),
                ratio_interval(per_unit(accepted & ~pairs.same), impostor, seed),
            )
        )
    return Roc(tuple(points), counts, len(present))


def require_enough(pairs: TemplatePairs, fars: tuple[float, ...]) -> None:
    """Refuse, before anything is embedded, a list that cannot support the rates.

    Raises:
        RetrievalError: fewer than 10/FAR impostor pairs for one of them, or no genuine pair.
    """
    genuine = int(np.count_nonzero(pairs.same))
    for far in fars:
        require_pairs(
            len(pairs) - genuine,
            far,
            counted="pairs of different subjects",
            fix="use a longer list of pairs, or state a higher rate",
        )
    if genuine == 0:
        raise RetrievalError(
            "the list holds no genuine pair, so there is no true accept rate",
            got=f"{len(pairs)} pairs, all of different subjects",
            expected="at least one pair of one subject",
        )


def pair_similarities(probes: np.ndarray, enrolled: np.ndarray, pairs: TemplatePairs) -> np.ndarray:
    """Exact similarity of each pair, ``float64 [p]`` (docs/retrieval.md); vectors are gathered block by block.

    Args:
        probes, enrolled: ``[q, d]`` and ``[n, d]``, L2-normalised.
        pairs: rows of them.

    Raises:
        RetrievalError: a row outside the embeddings, or vectors that do not fit each other or are not normalised.
    """
    enrolled = check_vectors("enrolled embeddings", enrolled)
    probes = check_vectors("probe embeddings", probes, dim=enrolled.shape[1])
    for side, rows, vectors in (("probe", pairs.probe, probes), ("enrolled", pairs.enroll, enrolled)):
        if rows.max() >= len(vectors):
            raise RetrievalError(
                f"a pair names a {side} template that has no embedding",
                got=f"row {rows.max()}",
                expected=f"0..{len(vectors) - 1}",
                fix="embed every template of the pairs, or leave pairs out with TemplatePairs.at",
            )
    left, right = on_grid(probes), on_grid(enrolled)
    similarities = np.empty(len(pairs))
    size = max(1, _BLOCK_BYTES // (8 * left.shape[1]))
    for start in range(0, len(pairs), size):
        block = slice(start, start + size)
        np.einsum("pd,pd->p", left[pairs.probe[block]], right[pairs.enroll[block]], out=similarities[block])
    return similarities
