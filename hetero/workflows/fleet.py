"""What is measured of a fleet beside its students: the matrix, turned and mapped controls, the tuning's tax."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hetero.report import fleet
from hetero.report.numbers import Difference, Interval
from hetero.retrieval.bootstrap import intervals, paired_difference
from hetero.retrieval.compat import CompatReport
from hetero.retrieval.matrix import Pair, space_matrix
from hetero.retrieval.metrics import Scores, score
from hetero.retrieval.procrustes import mapped, orthogonal_map
from hetero.retrieval.protocol import Protocol
from hetero.retrieval.rotations import rotation_band

GALLERY = "gallery model"
"""What the gallery model is called beside its students."""
_METRICS = ("r_at_1", "map_at_r")


def make_matrix(
    by_gallery: np.ndarray,
    by_student: Mapping[str, np.ndarray],
    scored: Mapping[str, CompatReport],
    protocol: Protocol,
    *,
    seed: int,
    resamples: int,
) -> fleet.Matrix | None:
    """All compatible students and the gallery model against each other; None with fewer than two students.

    Args:
        by_gallery, by_student: embeddings of the protocol's images. scored: the cells that are known already.
    """
    if len(by_student) < 2:
        return None
    known: dict[Pair, Scores] = {}
    for name in by_student:
        own = scored[name].scores
        known |= {
            (GALLERY, GALLERY): own["paragon"],
            (name, GALLERY): own["heterogeneous"],
            (name, name): own["homogeneous"],
            (GALLERY, name): own["reverse"],
        }
    matrix = space_matrix({GALLERY: by_gallery, **by_student}, protocol, known)
    pairs = [(query, gallery) for query in matrix.models for gallery in matrix.models]
    values = np.stack([matrix.cells[pair].per_query(metric) for pair in pairs for metric in _METRICS], axis=1)
    measured = iter(intervals(values, seed=seed, resamples=resamples))
    cells = {
        pair: fleet.MatrixCell(
            query=pair[0],
            gallery=pair[1],
            **{metric: Interval(**next(measured).to_json()) for metric in _METRICS},
        )
        for pair in pairs
    }
    return fleet.Matrix(models=matrix.models, cells=tuple(cells.values()), minimum=cells[matrix.minimum()])


def make_band(
    query: np.ndarray, gallery: np.ndarray, protocol: Protocol, *, rotations: int, seed: int, threads: int
) -> fleet.Band:
    """Where a control's scores lie when its embeddings are turned at random."""
    band = rotation_band(query, gallery, protocol, rotations=rotations, seed=seed, threads=threads)
    return fleet.Band(rotations=rotations, r_at_1=band.central("r_at_1"), map_at_r=band.central("map_at_r"))


def score_mapped(
    query: np.ndarray, gallery: np.ndarray, train: tuple[np.ndarray, np.ndarray], protocol: Protocol
) -> Scores:
    """What a control finds in the gallery after the best rotation towards the gallery model.

    Args:
        query, gallery: embeddings of the protocol's images. train: those that the rotation is fitted on.
    """
    turned = mapped(query, orthogonal_map(*train))
    return score(turned[protocol.query_ids], gallery[protocol.gallery_ids], protocol)


def make_mapped(scores: Scores, *, seed: int, resamples: int) -> fleet.Mapped:
    """Intervals of what :func:`score_mapped` found."""
    values = np.stack([scores.per_query(metric) for metric in _METRICS], axis=1)
    measured = iter(intervals(values, seed=seed, resamples=resamples))
    return fleet.Mapped(**{metric: Interval(**next(measured).to_json()) for metric in _METRICS})


def make_tax(untuned: np.ndarray, tuned: Scores, protocol: Protocol, *, seed: int, resamples: int) -> fleet.Tax:
    """What the gallery model lost on itself when it was tuned.

    Args:
        untuned: embeddings of the protocol's images by the gallery model before. tuned: the paragon's scores.
    """
    before = score(untuned[protocol.query_ids], untuned[protocol.gallery_ids], protocol)
    return fleet.Tax(
        **{
            metric: Difference(
                **paired_difference(
                    before.per_query(metric), tuned.per_query(metric), seed, resamples=resamples
                ).to_json()
            )
            for metric in _METRICS
        }
    )
