"""1:N identification: closed set (rank k, CMC) and open set (TPIR at a stated FPIR), over one gallery or several.

A probe is *mated* in a gallery that holds a template of its subject. Its *mate* is the most similar of them.

- Closed set, mated probes only: rank-k rate = share whose mate is among the k most similar (CMC, the curve over k).
- Open set: FPIR(t) = share of the non-mated probes for which any candidate has similarity ≥ t. The threshold of a
  stated FPIR is the least multiple of 2⁻²⁰ at which FPIR(t) is at most that. TPIR(t) = share of the mated probes whose
  mate has similarity ≥ t and is among the first ``max_rank`` candidates (1 unless said otherwise).
- Several galleries, as the two of IJB-C whose subjects are disjoint: all probes are searched in each, which has its
  own threshold, and the rates are averaged.

Sources: Maze et al., IARPA Janus Benchmark – C: face dataset and protocol, ICB 2018 (1:N protocol, galleries G1 and
G2); Grother et al., Face recognition vendor test, part 2: identification, NISTIR 8271, 2019 (FPIR(N, T), and FNIR(N, R,
T) = 1 − TPIR); ISO/IEC 19795-1:2021 (false-positive and true-positive identification rates).

Equal similarities have no order, so a rank counts by its chance over all orders of the tie (docs/retrieval.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hetero.errors import RetrievalError
from hetero.retrieval.bootstrap import Interval, cluster_sums, ratio_interval
from hetero.retrieval.histogram import histogram, least_step, require_trials
from hetero.retrieval.metrics import hits, similarity_blocks
from hetero.retrieval.protocol import Protocol

FPIRS = (0.1, 0.01)
RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Enrolled:
    """One gallery.

    Attributes:
        vectors: ``[n, d]``, L2-normalised, by the gallery model.
        subjects: ``int [n]``; a subject may have several templates.
    """

    vectors: np.ndarray
    subjects: np.ndarray


@dataclass(frozen=True)
class Search:
    """What one gallery gave each probe.

    Attributes:
        mated: ``bool [q]``, whether the gallery holds the probe's subject.
        best: ``float64 [q]``, similarity of the most similar candidate.
        mate: ``float64 [q]``, similarity of the mate; -inf where there is none.
        first: ``int64 [q, 3]``: candidates more similar than the mate, candidates as similar, and templates of the
            subject among the latter; (0, 1, 0) where there is no mate.
    """

    mated: np.ndarray
    best: np.ndarray
    mate: np.ndarray
    first: np.ndarray


@dataclass(frozen=True)
class OpenSetPoint:
    """TPIR at one FPIR, averaged over the galleries.

    Attributes:
        fpir: the stated false positive identification rate.
        similarities: the threshold of each gallery, by its name.
        true_positive_rate, false_positive_rate: TPIR and FPIR there, with intervals that keep the thresholds fixed.
    """

    fpir: float
    similarities: Mapping[str, float]
    true_positive_rate: Interval
    false_positive_rate: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain dict, with ``{"value", "low", "high"}`` for each rate."""
        return {
            "fpir": self.fpir,
            "similarities": dict(self.similarities),
            "true_positive_rate": self.true_positive_rate.to_json(),
            "false_positive_rate": self.false_positive_rate.to_json(),
        }


@dataclass(frozen=True)
class Identification:
    """Closed and open set rates, averaged over the galleries.

    Attributes:
        rank_rates: by rank k, the closed-set rate.
        open_set: in the order of the rates asked for.
        max_rank: up to which rank a mate counts in the open set.
        mated, non_mated: how many probes are which, by gallery.
        searches: what each gallery gave each probe, by gallery.
    """

    rank_rates: Mapping[int, Interval]
    open_set: tuple[OpenSetPoint, ...]
    max_rank: int
    mated: Mapping[str, int]
    non_mated: Mapping[str, int]
    searches: Mapping[str, Search]

    def cmc(self, max_rank: int) -> np.ndarray:
        """Closed-set rates at ranks 1 … max_rank, ``float64 [max_rank]``, averaged over the galleries."""
        curves = [
            [chances.mean() for chances in hits(search.first[search.mated], max_rank)]
            for search in self.searches.values()
        ]
        curve: np.ndarray = np.mean(curves, axis=0)
        return curve

    def to_json(self) -> dict[str, Any]:
        """Plain dict: ``rank_rates`` (rank as text), ``open_set``, ``max_rank``, ``mated``, ``non_mated``."""
        return {
            "rank_rates": {str(rank): rate.to_json() for rank, rate in self.rank_rates.items()},
            "open_set": [point.to_json() for point in self.open_set],
            "max_rank": self.max_rank,
            "mated": dict(self.mated),
            "non_mated": dict(self.non_mated),
        }


def identify(
    probes: np.ndarray,
    subjects: np.ndarray,
    galleries: Mapping[str, Enrolled],
    *,
    ranks: tuple[int, ...] = RANKS,
    fpirs: tuple[float, ...] = FPIRS,
    max_rank: int = 1,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> Identification:
    """Search every probe in every gallery.

    Args:
        probes: ``[q, d]``, L2-normalised, by the query model.
        subjects: ``int [q]``, in the numbering of the galleries.
        galleries: by name; for one, ``{"all": Enrolled(...)}``.
        ranks: of the closed-set rates.
        fpirs: stated false positive identification rates; empty for the closed set alone.
        max_rank: up to which rank a mate counts in the open set.
        clusters: ``int [q]``, optional, such as ``subjects``: the bootstrap draws whole clusters of probes.
        seed: of the bootstrap.

    Raises:
        RetrievalError: fewer than 10/FPIR non-mated probes in a gallery, a gallery without a mated probe, ranks below
            1, lengths that disagree, or vectors that are not finite and normalised.
    """
    subjects = np.asarray(subjects)
    if not galleries or min((*ranks, max_rank)) < 1:
        raise RetrievalError(
            "identification needs a gallery and ranks from 1 on",
            got=f"{len(galleries)} galleries, ranks {list(ranks)}, max_rank {max_rank}",
        )
    searches = {}
    for name, gallery in galleries.items():
        require_probes(name, subjects, np.asarray(gallery.subjects), fpirs)
        searches[name] = search(probes, subjects, gallery)
    mated = np.stack([one.mated for one in searches.values()], axis=1)

    def averaged(numerators: list[np.ndarray], denominators: np.ndarray) -> Interval:
        sums = np.stack(numerators, axis=1) * denominators, denominators.astype(np.float64)
        if clusters is not None:
            sums = cluster_sums(sums[0], clusters), cluster_sums(sums[1], clusters)
        return ratio_interval(*sums, seed)

    chances = {name: list(hits(one.first, max((*ranks, max_rank)))) for name, one in searches.items()}
    points = []
    for fpir in fpirs:
        at = {name: least_step(histogram(one.best[~one.mated]), fpir) for name, one in searches.items()}
        found = [chances[name][max_rank - 1] * (one.mate >= at[name]) for name, one in searches.items()]
        raised = [(one.best >= at[name]).astype(np.float64) for name, one in searches.items()]
        points.append(OpenSetPoint(fpir, at, averaged(found, mated), averaged(raised, ~mated)))
    return Identification(
        rank_rates={rank: averaged([chances[name][rank - 1] for name in searches], mated) for rank in ranks},
        open_set=tuple(points),
        max_rank=max_rank,
        mated={name: int(one.mated.sum()) for name, one in searches.items()},
        non_mated={name: int((~one.mated).sum()) for name, one in searches.items()},
        searches=searches,
    )


def search(probes: np.ndarray, subjects: np.ndarray, gallery: Enrolled) -> Search:
    """Search every probe in one gallery, block by block: at most 64 MiB of similarities are held.

    Args:
        probes, subjects: ``[q, d]`` and ``int [q]``.
        gallery: what they are searched in.

    Raises:
        RetrievalError: lengths that disagree, or vectors that are not finite and normalised.
    """
    numbers, rows = np.arange(len(subjects)), np.arange(len(gallery.subjects))
    # no probe template is enrolled, so ids only have to differ
    protocol = Protocol(numbers + len(rows), rows, np.asarray(subjects), np.asarray(gallery.subjects))
    best, mate = np.empty(len(numbers)), np.full(len(numbers), -np.inf)
    first = np.tile(np.array([0, 1, 0]), (len(numbers), 1))
    for block, similarities in similarity_blocks(probes, gallery.vectors, protocol, numbers):
        best[block] = similarities.max(axis=1)
        for number, row in zip(block.tolist(), similarities, strict=True):
            mates = row[protocol.matches(number)]
            if len(mates):
                mate[number] = mates.max()
                ahead, reached = np.count_nonzero(row > mate[number]), np.count_nonzero(row >= mate[number])
                first[number] = ahead, reached - ahead, np.count_nonzero(mates == mate[number])
    return Search(protocol.num_matches > 0, best, mate, first)


def require_probes(name: str, subjects: np.ndarray, enrolled: np.ndarray, fpirs: tuple[float, ...]) -> None:
    """Refuse, before anything is embedded, a gallery and probes that cannot support the rates.

    Args:
        name: of the gallery, for the message.
        subjects, enrolled: ``int [q]`` of the probes and ``int [n]`` of the gallery.
        fpirs: the rates.

    Raises:
        RetrievalError: no mated probe, or fewer than 10/FPIR non-mated ones for one of the rates.
    """
    mated = int(np.isin(subjects, enrolled).sum())
    if mated == 0:
        raise RetrievalError(
            f"no probe has a mate in gallery {name!r}",
            got=f"{len(subjects)} probes, {len(enrolled)} enrolled templates",
            expected="at least one probe of an enrolled subject",
            fix="check that probes and gallery number their subjects alike",
        )
    for fpir in fpirs:
        require_trials(
            len(subjects) - mated,
            fpir,
            rate="false positive identification rate",
            short="FPIR",
            trials="non-mated probes",
            counted=f"probes without a mate in gallery {name!r}",
            fix="use more probes of subjects that are not enrolled, or state a higher rate",
        )
