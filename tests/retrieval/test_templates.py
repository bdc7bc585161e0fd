"""Template embeddings: a hand-worked video, a slow recomputation, order, templates without a usable image."""

from __future__ import annotations

import numpy as np
import pytest

from hetero.data.templates import TemplateSet
from hetero.errors import RetrievalError
from hetero.retrieval.templates import embed_templates


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def template_set(members, ids=None, subjects=None):
    """``[(row, image, medium)]`` as a set."""
    rows, images, media = (np.array(column) for column in zip(*members, strict=True))
    count = int(rows.max()) + 1 if ids is None else len(ids)
    ids = np.arange(count) if ids is None else np.array(ids)
    return TemplateSet(ids, np.zeros(count, int) if subjects is None else subjects, images, rows, media)


def test_a_long_video_weighs_as_much_as_one_still():
    """Three frames (1, 0) of one video and one still (0, 1): the diagonal, where a plain mean gives (3, 1)/√10."""
    images = np.array([[1, 0], [0, 1]], np.float32)
    found = embed_templates(images, template_set([(0, 0, 7), (0, 0, 7), (0, 0, 7), (0, 1, 8), (1, 1, 7)]))
    np.testing.assert_allclose(found.vectors, [[np.sqrt(0.5), np.sqrt(0.5)], [0, 1]], atol=1e-7)
    assert found.vectors.dtype == np.float32
    assert (found.positions.tolist(), found.left_out.tolist()) == ([0, 1], [])


def naive(images, members, count):
    """By definition, with dictionaries."""
    vectors = []
    for template in range(count):
        media = {}
        for row, image, medium in members:
            if row == template:
                media.setdefault(medium, []).append(images[image].astype(np.float64))
        mean = np.mean([np.mean(frames, axis=0) for frames in media.values()], axis=0)
        vectors.append(mean / np.linalg.norm(mean))
    return np.array(vectors)


def random_members(rng, templates, images):
    members = [
        (t, int(rng.integers(images)), int(rng.integers(4)))
        for t in range(templates)
        for _ in range(rng.integers(1, 9))
    ]
    return [members[i] for i in rng.permutation(len(members))]


@pytest.mark.parametrize("seed", range(5))
def test_embeddings_equal_the_definition_and_order_changes_no_bit(seed):
    rng = np.random.default_rng(seed)
    images = unit(rng, 40, 6)
    members = random_members(rng, 30, 40)
    found = embed_templates(images, template_set(members))
    np.testing.assert_allclose(found.vectors, naive(images, members, 30), atol=2e-7)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    again = embed_templates(images, template_set([members[i] for i in rng.permutation(len(members))]))
    np.testing.assert_array_equal(found.vectors, again.vectors)


def test_a_template_without_a_usable_image_is_an_error_or_listed():
    rng = np.random.default_rng(0)
    images = unit(rng, 3, 4)
    images[1] = np.nan  # not usable, so not looked at
    templates = template_set([(0, 0, 0), (1, 1, 0), (3, 2, 0), (3, 1, 1)], ids=[10, 20, 30, 40])
    usable = np.array([True, False, True])
    with pytest.raises(RetrievalError, match=r"2 templates have no usable image: 20, 30; got 2 of 4.*skip_empty=True"):
        embed_templates(images, templates, usable=usable)
    found = embed_templates(images, templates, usable=usable, skip_empty=True)
    np.testing.assert_allclose(found.vectors, images[[0, 2]], atol=1e-7)
    assert found.positions.tolist() == [0, -1, -1, 1]
    assert found.left_out.tolist() == [20, 30]
    with pytest.raises(RetrievalError, match="not a number"):
        embed_templates(images, templates, skip_empty=True)


def test_what_cannot_be_a_template_is_refused():
    images = np.array([[1, 0], [-1, 0]], np.float32)
    with pytest.raises(RetrievalError, match="media of template 5 cancel out"):
        embed_templates(images, template_set([(0, 0, 0), (0, 1, 1)], ids=[5]))
    with pytest.raises(RetrievalError, match=r"do not fit the templates; got \[2, 2\].*at least 3"):
        embed_templates(images, template_set([(0, 2, 0)]))
    with pytest.raises(RetrievalError, match="do not fit the templates"):
        embed_templates(images, template_set([(0, 0, 0)]), usable=np.array([1, 1]))
    with pytest.raises(RetrievalError, match="no image is usable"):
        embed_templates(images, template_set([(0, 0, 0)]), usable=np.array([False, False]), skip_empty=True)
    with pytest.raises(RetrievalError, match="image embeddings are not L2-normalised"):
        embed_templates(2 * images, template_set([(0, 0, 0)]))
