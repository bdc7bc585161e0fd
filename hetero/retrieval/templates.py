"""One embedding for each template: the mean of its media, each the mean of its frames.

The convention of the IJB benchmarks. With v an image's embedding (L2-normalised), medium m of template T holding
the images I(m), e(T) = Σ_m (1/|I(m)|) Σ_{i∈I(m)} v_i, divided by its norm: a video of 200 frames weighs as much as
one still. Source: Crosswhite et al., Template adaptation for face verification and identification, FG 2017 (average
media encodings); the evaluation code in common use for IJB-C does the same. That code can also weigh images by a
detector's score and add the mirrored image; neither belongs to the benchmark, neither is done here.

The frames of a medium are summed as multiples of 2⁻²⁶ (hetero/retrieval/vectors.py), exactly, and the media in the
order of their numbers: the order of images changes no bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hetero.data.templates import TemplateSet
from hetero.errors import RetrievalError
from hetero.retrieval.vectors import check_vectors, on_grid

_LEAST_NORM = 2.0**-20  # of a mean of unit vectors; below it the direction is that of rounding errors
_NAMED_IN_MESSAGE = 5


@dataclass(frozen=True)
class TemplateEmbeddings:
    """Embeddings of those templates that have one.

    Attributes:
        vectors: ``float32 [s, d]``, L2-normalised.
        positions: ``int64 [t]``, the row in ``vectors`` of each template of the set, -1 where it was left out.
        left_out: ``int64 [t - s]``, ids of the templates without a usable image.
    """

    vectors: np.ndarray
    positions: np.ndarray
    left_out: np.ndarray


def embed_templates(
    embeddings: np.ndarray, templates: TemplateSet, *, usable: np.ndarray | None = None, skip_empty: bool = False
) -> TemplateEmbeddings:
    """One L2-normalised embedding a template.

    Args:
        embeddings: ``[n, d]``, one L2-normalised row for each image of the dataset; rows that are not usable are not
            looked at.
        templates: which images make which template.
        usable: ``bool [n]``, images whose embedding counts (those that could be read); None: all.
        skip_empty: leave a template without a usable image out and list it, instead of failing.

    Raises:
        RetrievalError: embeddings of another number of images or not normalised, a template without a usable image
            (unless ``skip_empty``), or one whose media cancel out.
    """
    embeddings = np.asarray(embeddings)
    chosen = np.ones(len(embeddings), bool) if usable is None else np.asarray(usable)
    last = int(templates.images.max(initial=-1))
    if chosen.shape != embeddings.shape[:1] or chosen.dtype != bool or last >= len(embeddings):
        raise RetrievalError(
            "the image embeddings do not fit the templates",
            got=f"{list(embeddings.shape)} embeddings, usable {chosen.dtype} {list(chosen.shape)}",
            expected=f"a row for each image of the dataset, at least {last + 1}, and one bool each",
        )
    if not chosen.any():
        raise RetrievalError("no image is usable", got=f"{len(chosen)} images", expected="at least one")
    place = np.cumsum(chosen) - 1
    images = check_vectors("image embeddings", embeddings if chosen.all() else embeddings[chosen])
    member = np.flatnonzero(chosen[templates.images])
    member = member[np.lexsort((templates.media[member], templates.rows[member]))]
    rows, media, image = templates.rows[member], templates.media[member], place[templates.images[member]]
    filled, starts = np.unique(rows, return_index=True)
    empty = np.setdiff1d(np.arange(len(templates)), filled)
    if len(empty) and not skip_empty:
        named = ", ".join(str(name) for name in templates.ids[empty[:_NAMED_IN_MESSAGE]].tolist())
        raise RetrievalError(
            f"{len(empty)} templates have no usable image: {named}{', …' if len(empty) > _NAMED_IN_MESSAGE else ''}",
            got=f"{len(filled)} of {len(templates)} templates with at least one",
            fix="repair the images, or leave such templates out with skip_empty=True",
        )
    vectors = np.empty((len(filled), images.shape[1]), np.float32)
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        vectors[number] = _mean_of_media(
            on_grid(images[image[start:stop]]), media[start:stop], int(templates.ids[filled[number]])
        )
    positions = np.full(len(templates), -1, np.int64)
    positions[filled] = np.arange(len(filled))
    return TemplateEmbeddings(vectors, positions, templates.ids[empty])


def _mean_of_media(vectors: np.ndarray, media: np.ndarray, template: int) -> np.ndarray:
    """Of exact ``vectors [m, d]`` with ``media [m]`` sorted: ``float64 [d]`` of unit length."""
    _, starts, counts = np.unique(media, return_index=True, return_counts=True)
    means = np.add.reduceat(vectors, starts, axis=0) / counts[:, None]
    mean = means.sum(axis=0) / len(means)
    norm = float(np.sqrt(mean @ mean))
    if norm < _LEAST_NORM:
        raise RetrievalError(
            f"the media of template {template} cancel out",
            got=f"a mean of norm {norm:.2g} over {len(means)} media",
            expected=f"at least {_LEAST_NORM:.2g}",
            fix="look at the embeddings of its images: vectors that point in opposite ways show no one subject",
        )
    unit: np.ndarray = mean / norm
    return unit
