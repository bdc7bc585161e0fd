"""``hetero query``: the top matches of image files in a gallery, and a picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hetero.data.dataset import ROLE_QUERY, path_and_box
from hetero.errors import ImageError, MissingExtraError, RetrievalError
from hetero.preprocess import PreprocessSpec, load_image
from hetero.report.query_sheet import save_query_sheet
from hetero.retrieval.gallery import Gallery
from hetero.retrieval.index import Index

TILE_PX = 96  # side of a picture on the sheet


@dataclass(frozen=True)
class Match:
    """One gallery picture found: cosine similarity, class and path."""

    similarity: float
    class_name: str
    path: str


@dataclass(frozen=True)
class QueryVectors:
    """Queries ready to be searched.

    Attributes:
        vectors: ``float32 [n, dim]``. paths: of the ``n`` readable files. skipped: a line for each other file.
    """

    vectors: np.ndarray
    paths: tuple[Path, ...]
    skipped: tuple[str, ...]
    space_id: str
    name: str


def embed_with_checkpoint(model: Path, paths: Sequence[Path], *, skip_bad: bool = False) -> QueryVectors:
    """Embed image files with a checkpoint, in torch.

    Raises:
        CheckpointError: no such checkpoint. ImageError: a file cannot be read, without ``skip_bad``.
    """
    try:
        from hetero.models.checkpoint import load_model
        from hetero.models.embed import embed
    except ImportError:
        raise MissingExtraError("querying with a checkpoint", "torch", "train") from None
    loaded = load_model(model)
    pixels, kept, skipped = [], [], []
    for path in paths:
        try:
            pixels.append(load_image(path, loaded.preprocess))
            kept.append(path)
        except ImageError as error:
            if not skip_bad:
                raise
            skipped.append(str(error))
    vectors = (
        embed(loaded.network, np.stack(pixels), loaded.preprocess)
        if pixels
        else np.empty((0, loaded.space.dim), np.float32)
    )
    return QueryVectors(vectors, tuple(kept), tuple(skipped), loaded.space.id, f"query model {loaded.card.name!r}")


def find_matches(queries: QueryVectors, gallery: Gallery, top: int) -> list[list[Match]]:
    """The ``top`` most similar gallery pictures of each query; pictures with role ``query`` are not searched.

    Raises:
        SpaceMismatchError: queries and gallery are in different spaces; names both ids.
        RetrievalError: nothing to search with or in.
    """
    rows = np.array([row for row, item in enumerate(gallery.items) if item.role != ROLE_QUERY], np.int64)
    if len(rows) == 0:
        raise RetrievalError(f"{gallery.path} has no picture to be found", fix="index pictures of role gallery or both")
    index = Index(gallery.vectors[rows], space_id=gallery.record.space_id, name=f"gallery {gallery.path}")
    similarities, places = index.search(
        queries.vectors, min(top, len(rows)), space_id=queries.space_id, name=queries.name
    )
    return [
        [
            Match(float(similarity), gallery.items[rows[place]].class_name, gallery.items[rows[place]].path)
            for similarity, place in zip(*row, strict=True)
        ]
        for row in zip(similarities, places, strict=True)
    ]


def save_sheet(query: Path, matches: Sequence[Match], out: Path) -> None:
    """Save the query beside its matches as a PNG; a match whose file is gone is an empty tile with its caption."""
    spec = PreprocessSpec(height=TILE_PX, width=TILE_PX, channels=3, resize="pad")
    blank = np.full((TILE_PX, TILE_PX, 3), 224, np.uint8)
    tiles = []
    for match in matches:
        try:
            path, box = path_and_box(match.path)
            picture = load_image(path, spec, box=box)
        except ImageError:
            picture = blank
        tiles.append((picture, match.class_name, match.similarity, match.path))
    save_query_sheet(load_image(query, spec), tiles, out, query_name=str(query))
