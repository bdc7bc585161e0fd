"""The upper rungs of the parity ladder: does an exported file still find what the torch model finds?

Query pictures are embedded by the file and by the torch model, and both search one gallery, embedded by the gallery
model. Differences are paired by query, with 95 % bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from exporters.manifest import Similarities
from hetero.errors import RetrievalError
from hetero.retrieval.bootstrap import paired_difference
from hetero.retrieval.metrics import Scores, score
from hetero.retrieval.protocol import Protocol
from hetero.retrieval.verification import Threshold, accept_rates, count_pairs

BLOCK = 2048  # pictures embedded at a time: a large split never lies in memory as pixels
HISTOGRAM_BINS = 80
HISTOGRAM_QUERIES = 1000  # millions of pairs: the curves do not change any more
Embed = Callable[[np.ndarray], np.ndarray]
"""``uint8 [n, h, w, c] -> float32 [n, dim]``."""


@dataclass(frozen=True)
class RetrievalTest:
    """Queries and the gallery that an exported file is to find them in.

    Attributes:
        name: of the data, for the manifest, such as ``omniglot/test``.
        read: ``int [m]`` query numbers to their pictures, ``uint8 [m, h, w, c]``, preprocessed.
        gallery: ``float32 [n, dim]``, unit length, in the protocol's order of the gallery.
        protocol: who is searched against whom.
    """

    name: str
    read: Callable[[np.ndarray], np.ndarray]
    gallery: np.ndarray
    protocol: Protocol

    def __post_init__(self) -> None:
        if len(self.gallery) != len(self.protocol.gallery_ids):
            raise RetrievalError(
                "the gallery does not fit the protocol",
                got=f"{len(self.gallery)} embeddings",
                expected=f"{len(self.protocol.gallery_ids)}, one for each gallery picture of the protocol",
            )

    @classmethod
    def of_arrays(
        cls,
        name: str,
        queries: np.ndarray,
        query_labels: np.ndarray,
        gallery: np.ndarray,
        gallery_labels: np.ndarray,
    ) -> RetrievalTest:
        """Queries in memory against a gallery of other pictures.

        Args:
            queries: ``uint8 [q, h, w, c]``, preprocessed.
            gallery: ``float32 [n, dim]``, unit length: the gallery model's embeddings.
            query_labels, gallery_labels: ``int [q]`` and ``[n]``; the same label is a match.

        Raises:
            RetrievalError: lengths that disagree, or nothing on a side.
        """
        ids = np.arange(len(queries) + len(gallery))
        sides = ids[: len(queries)], ids[len(queries) :], np.asarray(query_labels), np.asarray(gallery_labels)
        return cls(name, lambda numbers: queries[numbers], gallery, Protocol(*sides))

    def embed(self, embed: Embed) -> np.ndarray:
        """All queries, ``float32 [q, dim]``, read and embedded in blocks."""
        numbers = np.arange(len(self.protocol.query_ids))
        blocks = (numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK))
        return np.concatenate([embed(self.read(block)) for block in blocks])


@dataclass(frozen=True)
class Searched:
    """What the queries of one model found: scores, (true, false) accept rates at each threshold, similarities."""

    scores: Scores
    rates: tuple[tuple[float, float], ...]
    similarities: Similarities


class Judge:
    """Compares files with the torch model in one retrieval test.

    Args:
        embed: the torch model's embeddings.
        thresholds: similarities calibrated for it, at which accept rates are compared; may be none.

    Raises:
        RetrievalError: embeddings that cannot be searched with.
    """

    def __init__(self, test: RetrievalTest, embed: Embed, thresholds: Sequence[Threshold]) -> None:
        self.test = test
        self._similarities = tuple(threshold.similarity for threshold in thresholds)
        self.torch = self._search(embed)

    def _search(self, embed: Embed) -> Searched:
        vectors = self.test.embed(embed)
        searched = vectors, self.test.gallery, self.test.protocol
        rates = accept_rates(*searched, self._similarities) if self._similarities else []
        accepted = tuple((true.value, false.value) for true, false, _, _ in rates)
        return Searched(score(*searched), accepted, _similarities(*searched))

    def judge(self, embed: Embed) -> tuple[dict[str, dict[str, float]], Similarities]:
        """Measure a file: the numbers of the rungs ``retrieval``, ``flips`` and (with thresholds) ``thresholds``.

        A ``…_delta`` is the file's value less the torch model's. *Lost* are queries whose first match is right with
        the torch model only (the negative flip rate of Yan et al., Positive-congruent training, CVPR 2021), *won* the
        reverse. Of several thresholds the one that shifted most is given.

        Raises:
            RetrievalError: embeddings that cannot be searched with.
        """
        found = self._search(embed)
        retrieval: dict[str, float] = {}
        for metric in ("r_at_1", "map_at_r"):
            ours, torchs = found.scores.per_query(metric), self.torch.scores.per_query(metric)
            delta = paired_difference(ours, torchs)
            retrieval[metric] = float(ours.mean())
            retrieval |= {f"{metric}_delta": delta.value, f"{metric}_low": delta.low, f"{metric}_high": delta.high}
        change = found.scores.r_at_1 - self.torch.scores.r_at_1
        rungs = {
            "retrieval": retrieval,
            "flips": {"lost": float(np.maximum(-change, 0).mean()), "won": float(np.maximum(change, 0).mean())},
        }
        if self._similarities:
            pairs = list(zip(found.rates, self.torch.rates, strict=True))
            rungs["thresholds"] = {
                "true_accept_delta": min(
                    (ours[0] - torchs[0] for ours, torchs in pairs), key=lambda value: -abs(value)
                ),
                "false_accept_ratio": max(ours[1] / torchs[1] if torchs[1] else 1.0 for ours, torchs in pairs),
            }
        return rungs, found.similarities


def _similarities(queries: np.ndarray, gallery: np.ndarray, protocol: Protocol) -> Similarities:
    counts = count_pairs(queries, gallery, protocol, max_queries=HISTOGRAM_QUERIES)
    edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
    place = np.clip(np.searchsorted(edges, counts.lower_edges, side="right") - 1, 0, HISTOGRAM_BINS - 1)
    matching, other = (
        tuple(np.bincount(place, weights=part, minlength=HISTOGRAM_BINS).astype(int).tolist())
        for part in (counts.genuine, counts.impostor)
    )
    return Similarities(matching=matching, non_matching=other)
