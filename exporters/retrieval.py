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
FEWEST_ACCEPTED = 10  # pairs: of fewer, one more or less is no ratio to go by
_RULE_OF_THREE = 3.0  # Hanley and Lippman-Hand, If nothing goes wrong, is everything all right?, JAMA 1983
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
    """What the queries of one model found: scores, (true, false) accept rates at each threshold, similarities.

    A false accept rate of fewer than ``FEWEST_ACCEPTED`` pairs is given as that of so many.
    """

    scores: Scores
    rates: tuple[tuple[float, float], ...]
    similarities: Similarities


class Judge:
    """Compares files with the torch model in one retrieval test.

    Args:
        embed: the torch model's embeddings.
        thresholds: similarities calibrated for it, at which accept rates are compared; may be none.

    Raises:
        RetrievalError: embeddings that cannot be searched with, or a gallery in which nothing wrong can be found.
    """

    def __init__(self, test: RetrievalTest, embed: Embed, thresholds: Sequence[Threshold]) -> None:
        self.test = test
        if not (test.protocol.num_candidates > test.protocol.num_matches).any():
            raise RetrievalError(
                f"{test.name}: no query could find a picture of another class, so every model finds all",
                got="one class",
                expected="a gallery of several",
                fix="search a gallery of more classes, or without a retrieval test",
            )
        self._similarities = tuple(threshold.similarity for threshold in thresholds)
        self.torch = self._search(embed)

    def _search(self, embed: Embed) -> Searched:
        vectors = self.test.embed(embed)
        searched = vectors, self.test.gallery, self.test.protocol
        rates = accept_rates(*searched, self._similarities) if self._similarities else []
        accepted = tuple(
            (true.value, max(false.value, FEWEST_ACCEPTED / impostors)) for true, false, _, impostors in rates
        )
        return Searched(score(*searched), accepted, _similarities(*searched))

    def judge(self, embed: Embed, *, exact: bool = False) -> tuple[dict[str, dict[str, float]], Similarities]:
        """Measure a file: the numbers of the rungs ``retrieval``, ``flips`` and (with thresholds) ``thresholds``.

        A ``…_delta`` is the file's value less the torch model's. *Lost* are queries whose first match is right with
        the torch model only (the negative flip rate of Yan et al., Positive-congruent training, CVPR 2021), *won* the
        reverse. Of several thresholds the one that lost most true accepts, and the one that gained most false ones, is
        given. An interval reaches at least 3/n to both sides, for the bootstrap of n differences that are all zero is
        empty; but where the embeddings are torch's but for roundings (``exact``), no other query would differ, either.

        Raises:
            RetrievalError: embeddings that cannot be searched with.
        """
        found = self._search(embed)
        retrieval: dict[str, float] = {}
        for metric in ("r_at_1", "map_at_r"):
            ours, torchs = found.scores.per_query(metric), self.torch.scores.per_query(metric)
            delta = paired_difference(ours, torchs)
            retrieval[metric] = float(ours.mean())
            least = 0.0 if exact else _RULE_OF_THREE / len(ours)
            low, high = min(delta.low, delta.value - least), max(delta.high, delta.value + least)
            retrieval |= {f"{metric}_delta": delta.value, f"{metric}_low": low, f"{metric}_high": high}
        change = found.scores.r_at_1 - self.torch.scores.r_at_1
        rungs = {
            "retrieval": retrieval,
            "flips": {"lost": float(np.maximum(-change, 0).mean()), "won": float(np.maximum(change, 0).mean())},
        }
        if self._similarities:
            pairs = list(zip(found.rates, self.torch.rates, strict=True))
            rungs["thresholds"] = {
                "true_accept_delta": min(ours[0] - torchs[0] for ours, torchs in pairs),
                "false_accept_ratio": max(ours[1] / torchs[1] for ours, torchs in pairs),
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
