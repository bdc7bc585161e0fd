"""Batches are a pure function of seed and epoch, and cover the data as promised."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hetero.data.sampler import pk_batches, shuffled_batches
from hetero.errors import DataError


def test_shuffled_batches_use_every_item_at_most_once():
    batches = shuffled_batches(103, 10, seed=1, epoch=0)
    assert batches.shape == (10, 10)
    assert len(np.unique(batches)) == 100
    assert batches.min() >= 0
    assert batches.max() < 103


def test_batches_repeat_for_the_same_seed_and_epoch_and_change_with_either():
    labels = np.repeat(np.arange(8), 5)
    for make in (
        lambda s, e: shuffled_batches(40, 8, seed=s, epoch=e),
        lambda s, e: pk_batches(labels, 8, 2, seed=s, epoch=e),
    ):
        assert np.array_equal(make(3, 4), make(3, 4))
        assert not np.array_equal(make(3, 4), make(3, 5))
        assert not np.array_equal(make(3, 4), make(4, 4))


def test_pk_batches_hold_k_images_of_each_of_p_classes_and_no_class_waits_long():
    labels = np.repeat(np.arange(10), [2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    batches = pk_batches(labels, 12, 3, seed=0, epoch=0)
    assert batches.shape == (65 // 12, 12)
    seen = Counter()
    for batch in batches:
        counts = Counter(labels[batch].tolist())
        assert set(counts.values()) == {3}
        assert len(counts) == 4
        seen.update(counts.keys())
    assert len(seen) == 10
    assert max(seen.values()) - min(seen.values()) <= 1
    for batch in batches:  # only a class with fewer than K images repeats one
        for label in np.unique(labels[batch]):
            own = batch[labels[batch] == label]
            assert len(np.unique(own)) == (3 if label > 0 else len(np.unique(own)))


def test_too_few_images_for_a_batch_is_refused():
    with pytest.raises(DataError, match=r"got 5 images; expected at least batch_size = 8"):
        shuffled_batches(5, 8, seed=0, epoch=0)


@pytest.mark.parametrize(("batch_size", "per_class"), [(9, 2), (40, 4)])
def test_an_unfillable_pk_batch_is_refused(batch_size, per_class):
    with pytest.raises(DataError, match="PK sampler cannot fill"):
        pk_batches(np.repeat(np.arange(8), 5), batch_size, per_class, seed=0, epoch=0)


def test_a_pk_sampler_without_a_whole_batch_is_refused():
    with pytest.raises(DataError, match="fewer training images than one batch"):
        pk_batches(np.repeat(np.arange(24), 2), 96, 4, seed=0, epoch=0)
