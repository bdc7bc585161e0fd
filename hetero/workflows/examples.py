"""Example queries for the report: some that found their class, some that did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hetero.data.dataset import Dataset
from hetero.data.pixels import read_pixels
from hetero.preprocess import PreprocessSpec
from hetero.report.query_sheet import thumbnail_base64
from hetero.report.schema import Example, Match, Picture
from hetero.retrieval.compat import CompatReport
from hetero.retrieval.exact import search_numpy

if TYPE_CHECKING:
    from hetero.workflows.evaluate import Searched

RIGHT, WRONG, MATCHES = 4, 4, 5  # enough to see what goes well and what goes wrong, on one screen


def make_examples(
    dataset: Dataset,
    spec: PreprocessSpec,
    test: Searched,
    students: Mapping[str, tuple[np.ndarray, CompatReport]],
    by_gallery: np.ndarray,
    seed: int,
) -> list[Example]:
    """A seeded choice of right and wrong queries of each student, searched in the gallery model's embeddings."""
    rng = np.random.default_rng(seed)
    protocol = test.protocol
    examples = []
    for name, (embedded, scored) in students.items():
        scores = scored.scores["heterogeneous"]
        hit = scores.r_at_1 >= 0.5
        for wanted, count in ((True, RIGHT), (False, WRONG)):
            pool = scores.queries[hit == wanted]
            for number in rng.choice(pool, min(count, len(pool)), replace=False):
                removed = protocol.removed(int(number))
                similarities, rows = search_numpy(
                    embedded[protocol.query_ids[[number]]],
                    by_gallery[protocol.gallery_ids],
                    min(MATCHES, len(protocol.gallery_ids) - len(removed)),
                    exclude=removed[None],
                )
                examples.append(_example(name, dataset, spec, test, int(number), similarities[0], rows[0]))
    return examples


def _example(
    student: str,
    dataset: Dataset,
    spec: PreprocessSpec,
    test: Searched,
    number: int,
    similarities: np.ndarray,
    rows: np.ndarray,
) -> Example:
    protocol = test.protocol
    query = int(protocol.query_ids[number])
    label = int(protocol.query_labels[number])
    places = [query, *protocol.gallery_ids[rows].tolist()]
    query_pixels, *found_pixels = read_pixels(dataset, test.indices[places], spec)
    matches = []
    for similarity, row, pixels in zip(similarities.tolist(), rows.tolist(), found_pixels, strict=True):
        place = int(protocol.gallery_ids[row])
        found = int(protocol.gallery_labels[row])
        matches.append(
            Match(
                id=dataset.image_id(int(test.indices[place])),
                class_name=dataset.class_names[found],
                similarity=similarity,
                correct=found == label,
                image_png=thumbnail_base64(pixels),
            )
        )
    return Example(
        student=student,
        query=Picture(
            id=dataset.image_id(int(test.indices[query])),
            class_name=dataset.class_names[label],
            image_png=thumbnail_base64(query_pixels),
        ),
        matches=tuple(matches),
    )
