"""Who may match whom: never itself, never its group, roles respected."""

from __future__ import annotations

import numpy as np
import pytest

from hetero.data.dataset import NO_GROUP, Dataset
from hetero.errors import RetrievalError
from hetero.retrieval.metrics import score, similarity_blocks
from hetero.retrieval.protocol import Protocol, for_dataset, leave_one_out, query_gallery


def unit(rng, *shape):
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def candidates(protocol, query):
    return sorted(set(range(len(protocol.gallery_ids))) - set(protocol.removed(query).tolist()))


def test_leave_one_out_leaves_out_exactly_the_query():
    protocol = leave_one_out(np.array([0, 0, 1, 0]))
    assert candidates(protocol, 1) == [0, 2, 3]
    assert protocol.matches(1).tolist() == [0, 3]
    assert protocol.matches(2).tolist() == []
    assert protocol.num_matches.tolist() == [2, 2, 0, 2]
    assert protocol.num_candidates.tolist() == [3, 3, 3, 3]
    assert protocol.scorable.tolist() == [0, 1, 3]


def test_own_image_is_no_candidate_whichever_model_embedded_it():
    """Both models map image i to the same vector, so any leak of the own image would score R@1 = 1."""
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng, 40, 64), np.arange(40) // 2
    for query_side, gallery_side in ((vectors, vectors.copy()), (vectors, -vectors)):
        protocol = leave_one_out(labels)
        for numbers, similarities in similarity_blocks(query_side, gallery_side, protocol, np.arange(40)):
            own = similarities[np.arange(len(numbers)), numbers]
            assert np.isneginf(own).all()
            assert np.isneginf(similarities).sum() == len(numbers)
    assert score(vectors, vectors, leave_one_out(labels)).mean["r_at_1"] < 0.3


def test_image_in_both_roles_is_no_candidate_for_itself():
    protocol = query_gallery(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2]))
    assert protocol.query_ids.tolist() == [0, 1]
    assert protocol.gallery_ids.tolist() == [0, 2, 3]
    assert candidates(protocol, 0) == [1, 2]
    assert candidates(protocol, 1) == [0, 1, 2]
    assert protocol.matches(0).tolist() == [1]
    assert protocol.matches(1).tolist() == [0, 1]


def test_members_of_one_group_never_match_each_other():
    groups = np.array([7, 7, NO_GROUP, 8, NO_GROUP, 7])
    protocol = leave_one_out(np.array([0, 0, 0, 1, 1, 1]), groups)
    assert candidates(protocol, 0) == [2, 3, 4]
    assert protocol.matches(0).tolist() == [2]
    assert candidates(protocol, 2) == [0, 1, 3, 4, 5]
    assert protocol.matches(2).tolist() == [0, 1]
    assert candidates(protocol, 5) == [2, 3, 4]
    assert protocol.num_candidates.tolist() == [3, 3, 5, 5, 5, 3]


def test_group_exclusion_removes_wrong_candidates_of_the_group_too():
    """Query 0's nearest is a wrong image of its own group; without it the first answer is right."""
    radians = np.radians([0, 1, 20, 50])
    vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    labels = np.array([0, 1, 0, 1])
    assert score(vectors, vectors, leave_one_out(labels)).r_at_1[0] == 0.0
    assert score(vectors, vectors, leave_one_out(labels, np.array([5, 5, 6, 6]))).r_at_1[0] == 1.0


def test_queries_without_a_match_are_counted_not_scored():
    protocol = leave_one_out(np.array([0, 0, 1]), np.array([1, 2, 3]))
    vectors = unit(np.random.default_rng(1), 3, 4)
    scores = score(vectors, vectors, protocol)
    assert scores.skipped == 1
    assert scores.queries.tolist() == [0, 1]


def dataset(**more):
    return Dataset(
        name="toy",
        images=np.zeros((6, 2, 2), np.uint8),
        labels=np.array([0, 0, 1, 1, 1, 0]),
        class_names=("a", "b"),
        splits={"test": np.arange(6)},
        **more,
    )


def test_dataset_protocol_uses_positions_in_the_chosen_images():
    chosen = np.array([5, 2, 3, 0])
    plain = for_dataset(dataset(), chosen)
    assert plain.query_labels.tolist() == [0, 1, 1, 0]
    assert plain.matches(0).tolist() == [3]
    roles = for_dataset(dataset(roles=np.array([2, 0, 1, 2, 0, 1], np.int8)), chosen)
    assert roles.query_ids.tolist() == [0, 1]
    assert roles.gallery_ids.tolist() == [2, 3]
    grouped = for_dataset(dataset(groups=np.array([1, 9, 4, 4, 9, 1])), chosen)
    assert grouped.matches(0).tolist() == []
    with pytest.raises(RetrievalError, match="no query has a possible match in the gallery; got 4 queries"):
        _ = grouped.scorable
    both = for_dataset(dataset(roles=np.zeros(6, np.int8), groups=np.array([1, 9, 4, 5, 9, 2])), chosen)
    assert both.matches(1).tolist() == [2]


def test_protocol_refuses_what_does_not_fit():
    ids, labels = np.arange(3), np.zeros(3, np.int64)
    with pytest.raises(RetrievalError, match="query ids, labels and groups disagree in length"):
        Protocol(ids, ids, labels[:2], labels)
    with pytest.raises(RetrievalError, match="gallery ids, labels and groups disagree in length"):
        Protocol(ids, ids, labels, labels, labels, labels[:1])
    with pytest.raises(RetrievalError, match="groups are given for one side only"):
        Protocol(ids, ids, labels, labels, labels, None)
    with pytest.raises(RetrievalError, match="an image stands twice in the gallery"):
        Protocol(ids, np.array([0, 1, 1]), labels, labels)
    with pytest.raises(RetrievalError, match="the query is empty; fix: give at least one image the role query"):
        query_gallery(labels, np.array([2, 2, 2]))
    with pytest.raises(RetrievalError, match="the gallery is empty"):
        query_gallery(labels, np.array([1, 1, 1]))
    with pytest.raises(RetrievalError, match=r"roles do not fit the images; got .* with values .*7"):
        query_gallery(labels, np.array([0, 1, 7]))
    with pytest.raises(RetrievalError, match="roles do not fit"):
        query_gallery(labels, np.array([0, 1]))
