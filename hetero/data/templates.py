"""Templates: several pictures that together stand for one sighting of a subject, and lists of template pairs.

In face recognition benchmarks what is enrolled and searched is not an image but a *template*: the images and
video frames that are known to show one subject. Frames of one video share a *medium*, so that a long video does
not outweigh the stills (docs/retrieval.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hetero.errors import DataError


@dataclass(frozen=True)
class TemplateSet:
    """Which images of a dataset make which template. An image may be in several templates.

    Attributes:
        ids: ``int64 [t]``, the templates' names, ascending. Everywhere else a template is its row here.
        subjects: ``int64 [t]``, whom each shows: labels of the dataset.
        images: ``int64 [m]``, a dataset image for each membership.
        rows: ``int64 [m]``, the template it is in.
        media: ``int64 [m]``, the medium it comes from; equal within a template for frames of one video.

    Raises:
        DataError: lengths that disagree, ids not ascending, or a row outside the templates.
    """

    ids: np.ndarray
    subjects: np.ndarray
    images: np.ndarray
    rows: np.ndarray
    media: np.ndarray

    def __post_init__(self) -> None:
        lengths = [len(values) for values in (self.images, self.rows, self.media)]
        if len(set(lengths)) > 1 or len(self.ids) != len(self.subjects):
            raise DataError(
                "the arrays of a template set disagree in length",
                got=f"{lengths} images, rows and media, {len(self.ids)} ids and {len(self.subjects)} subjects",
                expected="one row and one medium an image, one subject a template",
            )
        if len(self.ids) == 0 or (np.diff(self.ids) <= 0).any():
            raise DataError("template ids must ascend", got=f"{len(self.ids)} ids", expected="each once, sorted")
        if len(self.rows) and (self.rows.min() < 0 or self.rows.max() >= len(self.ids)):
            raise DataError(
                "a template set has an image of an unknown template",
                got=f"rows {self.rows.min()}..{self.rows.max()}",
                expected=f"0..{len(self.ids) - 1}",
            )
        for values in (self.ids, self.subjects, self.images, self.rows, self.media):
            values.setflags(write=False)

    def __len__(self) -> int:
        return len(self.ids)

    def filled(self) -> np.ndarray:
        """``bool [t]``: the templates that have an image."""
        return np.isin(np.arange(len(self)), self.rows)


@dataclass(frozen=True)
class TemplatePairs:
    """Pairs to compare: one template searched (probe), one enrolled.

    Attributes:
        probe, enroll: ``int64 [p]``, rows of the templates (or of their embeddings). The query model embeds the
            probe, the gallery model the enrolled one.
        same: ``bool [p]``, whether both show one subject.

    Raises:
        DataError: no pair, lengths that disagree, a negative row.
    """

    probe: np.ndarray
    enroll: np.ndarray
    same: np.ndarray

    def __post_init__(self) -> None:
        shapes = [values.shape for values in (self.probe, self.enroll, self.same)]
        if len(set(shapes)) > 1 or self.probe.ndim != 1 or self.same.dtype != bool or len(self.same) == 0:
            raise DataError(
                "a list of pairs needs three columns of one length",
                got=f"{shapes[0]} probes, {shapes[1]} enrolled, {shapes[2]} {self.same.dtype} answers",
                expected="int [p], int [p], bool [p], at least one pair",
            )
        if min(int(self.probe.min()), int(self.enroll.min())) < 0:
            raise DataError(
                "a pair names a template by a negative row",
                fix="leave such pairs out with TemplatePairs.at(positions)",
            )
        for values in (self.probe, self.enroll, self.same):
            values.setflags(write=False)

    def __len__(self) -> int:
        return len(self.same)

    def at(self, positions: np.ndarray) -> TemplatePairs:
        """The same pairs over other rows; those of a template at -1 are left out.

        Args:
            positions: ``int [t]``, the new row of each template, -1 where it has none.

        Raises:
            DataError: no pair is left.
        """
        probe, enroll = positions[self.probe], positions[self.enroll]
        kept = (probe >= 0) & (enroll >= 0)
        if not kept.any():
            raise DataError(
                "no pair of templates is left",
                got=f"{len(kept)} pairs, each with a template that has no image",
                expected="a pair of two templates with images",
                fix="unpack the images of the release beside its lists",
            )
        return TemplatePairs(probe[kept], enroll[kept], self.same[kept])
