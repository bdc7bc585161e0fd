"""What a benchmark of templates compares, and which rates so many comparisons can support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hetero.data.templates import TemplatePairs, TemplateSet
from hetero.errors import DataError
from hetero.retrieval.histogram import least_rate, trials_needed
from hetero.retrieval.identification import require_probes
from hetero.retrieval.pairs import require_enough


@dataclass(frozen=True)
class Comparisons:
    """The protocols over those templates that have an image; rows are those of their embeddings.

    Attributes:
        subjects: ``int64 [s]``, whom each template shows.
        pairs: of 1:1; None without it.
        galleries, probes: of 1:N, ``int64`` rows by gallery and of the probes; empty and None without it.
        left_out: ``int64``, ids of the templates without an image.
    """

    subjects: np.ndarray
    pairs: TemplatePairs | None
    galleries: Mapping[str, np.ndarray]
    probes: np.ndarray | None
    left_out: np.ndarray

    @property
    def impostor_pairs(self) -> int:
        """Pairs of different subjects in the list of 1:1."""
        return 0 if self.pairs is None else int(np.count_nonzero(~self.pairs.same))

    def mated(self, gallery: str) -> np.ndarray:
        """``bool [q]``: the probes whose subject a gallery holds."""
        return np.isin(self.subjects[self.probes], self.subjects[self.galleries[gallery]])


@dataclass(frozen=True)
class UnsupportedRate:
    """A rate that was asked for and left out.

    Attributes:
        kind: ``FAR`` or ``FPIR``. rate: as asked for.
        trials, needed: how many impostor pairs (non-mated probes, where they are fewest) there are, and must be.
        least: the least rate that they can support, None where there is none.
    """

    kind: str
    rate: float
    trials: int
    needed: int
    least: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain dict of the attributes."""
        return dict(vars(self))


def make_comparisons(
    templates: TemplateSet,
    pairs: TemplatePairs | None,
    galleries: Mapping[str, np.ndarray],
    probes: np.ndarray | None,
) -> Comparisons:
    """Leave out the templates that lost all their images; the arguments are those of :class:`hetero.data.ijbc.Ijbc`.

    Raises:
        DataError: a protocol of which nothing is left.
    """
    filled = templates.filled()
    positions = np.where(filled, np.cumsum(filled) - 1, -1)

    def rows(listed: np.ndarray, what: str) -> np.ndarray:
        found: np.ndarray = positions[listed][positions[listed] >= 0]
        if len(found) == 0:
            raise DataError(
                f"no template of {what} has an image", got=f"{len(listed)} templates", fix="unpack the images"
            )
        return found

    return Comparisons(
        subjects=templates.subjects[filled],
        pairs=None if pairs is None else pairs.at(positions),
        galleries={name: rows(listed, f"gallery {name}") for name, listed in galleries.items()},
        probes=None if probes is None else rows(probes, "the probes"),
        left_out=templates.ids[~filled],
    )


def choose_rates(
    comparisons: Comparisons, fars: Sequence[float], fpirs: Sequence[float], *, only_supported: bool
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[UnsupportedRate, ...]]:
    """The FARs and FPIRs to measure, before anything is embedded.

    Args:
        fars, fpirs: asked for; of a protocol that is not there they are not looked at.
        only_supported: leave out those with too few comparisons, and name them, instead of refusing.

    Returns:
        FARs, FPIRs, and what was left out.

    Raises:
        RetrievalError: a rate without support (names the least that has it), no FAR left, a number that is no rate.
    """
    non_mated = min((int((~comparisons.mated(name)).sum()) for name in comparisons.galleries), default=0)
    left_out: list[UnsupportedRate] = []

    def supported(kind: str, rates: Sequence[float], trials: int) -> tuple[float, ...]:
        kept = []
        for rate in dict.fromkeys(rates):
            if only_supported and 0 < rate < 1 and trials < trials_needed(rate):
                left_out.append(UnsupportedRate(kind, rate, trials, trials_needed(rate), least_rate(trials)))
            else:
                kept.append(rate)
        return tuple(kept)

    kept_fars: tuple[float, ...] = ()
    kept_fpirs = supported("FPIR", fpirs, non_mated) if comparisons.probes is not None else ()
    if comparisons.pairs is not None:
        kept_fars = supported("FAR", fars, comparisons.impostor_pairs)
        require_enough(comparisons.pairs, kept_fars or (max(fars),))
    if comparisons.probes is not None:
        for name, enrolled in comparisons.galleries.items():
            subjects = comparisons.subjects
            require_probes(name, subjects[comparisons.probes], subjects[enrolled], kept_fpirs)
    return kept_fars, kept_fpirs, tuple(left_out)
