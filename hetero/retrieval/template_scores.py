"""Both protocols of a benchmark of templates for a gallery model, its students and, apart from them, controls.

1:1: every model of the space searches every other's enrolled templates, each pair with its own thresholds. 1:N: the
gallery model alone (paragon), and each student against the gallery model's galleries (heterogeneous) and its own
(homogeneous). The compatibility rule (hetero/retrieval/compat.py) is asked at the strictest rate of each protocol.
Intervals and differences resample subjects: a subject has several templates, and they fail together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hetero.retrieval.bootstrap import Interval, cluster_sums, ratio_interval
from hetero.retrieval.comparisons import Comparisons
from hetero.retrieval.identification import Enrolled, Identification, identify
from hetero.retrieval.metrics import hits
from hetero.retrieval.pairs import OperatingPoint, pair_similarities, verify
from hetero.retrieval.verification_matrix import verification_cells

Pair = tuple[str, str]
"""Names of the query model and of the gallery model."""


@dataclass(frozen=True)
class Rule:
    """Heterogeneous minus homogeneous, paired over the probes' subjects.

    Attributes:
        student: whose. protocol: ``1:1`` or ``1:N``. metric: in words, such as ``TAR@FAR=0.001``.
    """

    student: str
    protocol: str
    metric: str
    difference: Interval

    @property
    def satisfied(self) -> bool:
        """Whether the whole 95 % interval lies above 0."""
        return self.difference.low > 0


@dataclass(frozen=True)
class Verification:
    """1:1: the operating points of each cell; apart from them, of each control against the gallery model."""

    cells: Mapping[Pair, tuple[OperatingPoint, ...]]
    controls: Mapping[str, tuple[OperatingPoint, ...]]
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Identifications:
    """1:N: what was found in each cell, controls apart, and a random ranking's expected rank-1 rate."""

    cells: Mapping[Pair, Identification]
    controls: Mapping[str, Identification]
    rules: tuple[Rule, ...]
    chance: float


def score_pairs(
    models: Mapping[str, np.ndarray],
    controls: Mapping[str, np.ndarray],
    comparisons: Comparisons,
    fars: tuple[float, ...],
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Verification:
    """The 1:1 protocol.

    Args:
        models: by name, the gallery model first, then the students of its space: ``[s, d]``, a row a template.
        controls: the same of models that are not of the space.
        comparisons: with pairs.
        fars: false accept rates, each supported.
        seed: of the intervals.
        say: told each cell that is done.

    Raises:
        RetrievalError: as :func:`hetero.retrieval.pairs.verify`.
    """
    pairs, subjects = comparisons.pairs, comparisons.subjects
    assert pairs is not None  # noqa: S101 - whoever calls has looked
    gallery = next(iter(models))
    cells: dict[Pair, tuple[OperatingPoint, ...]] = {}
    for cell, roc in verification_cells(models, pairs, fars, clusters=subjects, seed=seed):
        say(f"1:1: {cell[0]} against {cell[1]}, {len(pairs):,} pairs")
        cells[cell] = roc.points
    against = {
        name: verify(vectors, models[gallery], pairs, fars, clusters=subjects, seed=seed).points
        for name, vectors in controls.items()
    }
    strictest = int(np.argmin(fars))
    genuine = np.flatnonzero(pairs.same)
    same = type(pairs)(pairs.probe[genuine], pairs.enroll[genuine], pairs.same[genuine])
    ones = np.ones((len(same), 1))

    def accepted(query: str, enrolled: str) -> np.ndarray:
        threshold = cells[query, enrolled][strictest].similarity
        return (pair_similarities(models[query], models[enrolled], same) >= threshold).astype(np.float64)

    rules = []
    for name in list(models)[1:]:
        gained = (accepted(name, gallery) - accepted(name, name))[:, None]
        owner = subjects[same.probe]
        difference = ratio_interval(cluster_sums(gained, owner), cluster_sums(ones, owner), seed)
        rules.append(Rule(name, "1:1", f"TAR@FAR={fars[strictest]:g}", difference))
    return Verification(cells, against, tuple(rules))


def score_galleries(
    models: Mapping[str, np.ndarray],
    controls: Mapping[str, np.ndarray],
    comparisons: Comparisons,
    ranks: tuple[int, ...],
    fpirs: tuple[float, ...],
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Identifications:
    """The 1:N protocol; arguments as :func:`score_pairs`, with galleries and probes, ranks from 1 on and FPIRs.

    Raises:
        RetrievalError: as :func:`hetero.retrieval.identification.identify`.
    """
    rows = comparisons.probes
    assert rows is not None  # noqa: S101 - as above
    subjects, gallery = comparisons.subjects[rows], next(iter(models))

    def found(query: np.ndarray, enrolled: np.ndarray) -> Identification:
        galleries = {
            name: Enrolled(enrolled[listed], comparisons.subjects[listed])
            for name, listed in comparisons.galleries.items()
        }
        return identify(query[rows], subjects, galleries, ranks=ranks, fpirs=fpirs, clusters=subjects, seed=seed)

    cells: dict[Pair, Identification] = {}
    for name in models:
        for enrolled in dict.fromkeys((gallery, name)):
            say(f"1:N: {name} searches {enrolled}, {len(rows):,} probes")
            cells[name, enrolled] = found(models[name], models[enrolled])
    rules = tuple(_rule(name, cells[name, gallery], cells[name, name], subjects, seed) for name in list(models)[1:])
    expected = []
    for name, listed in comparisons.galleries.items():
        enrolled_subjects = comparisons.subjects[listed]
        right = [np.count_nonzero(enrolled_subjects == subject) for subject in subjects[comparisons.mated(name)]]
        expected.append(np.mean(right) / len(listed))
    against = {name: found(vectors, models[gallery]) for name, vectors in controls.items()}
    return Identifications(cells, against, rules, float(np.mean(expected)))


def _rule(name: str, large: Identification, own: Identification, subjects: np.ndarray, seed: int) -> Rule:
    """TPIR at the strictest FPIR, or the rank-1 rate without one: of one student, in both kinds of gallery."""
    points = [min(found.open_set, key=lambda point: point.fpir, default=None) for found in (large, own)]
    metric = "rank 1" if points[0] is None else f"TPIR@FPIR={points[0].fpir:g}"
    gains, mated = [], []
    for gallery in large.searches:
        kept = []
        for found, point in zip((large, own), points, strict=True):
            one = found.searches[gallery]
            chance = next(hits(one.first, 1))
            kept.append(chance if point is None else chance * (one.mate >= point.similarities[gallery]))
        mated.append(large.searches[gallery].mated.astype(np.float64))
        gains.append((kept[0] - kept[1]) * mated[-1])
    tops, bottoms = (cluster_sums(np.stack(columns, axis=1), subjects) for columns in (gains, mated))
    return Rule(name, "1:N", metric, ratio_interval(tops, bottoms, seed))
