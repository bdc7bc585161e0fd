"""Template sets and pair lists refuse what does not fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hetero.data.templates import TemplatePairs, TemplateSet
from hetero.errors import DataError


def template_set(**changes: Any) -> TemplateSet:
    fields = {"ids": [3, 7], "subjects": [0, 1], "images": [0, 1, 1], "rows": [0, 0, 1], "media": [5, 6, 5]}
    return TemplateSet(**{name: np.array(value) for name, value in {**fields, **changes}.items()})


def test_a_template_set_is_checked_and_immutable() -> None:
    found = template_set()
    assert len(found) == 2
    with pytest.raises(ValueError, match="read-only"):
        found.rows[0] = 1
    for changes, message in (
        ({"media": [5, 6]}, r"disagree in length; got \[3, 3, 2\]"),
        ({"subjects": [0]}, "2 ids and 1 subjects"),
        ({"ids": [7, 3]}, "must ascend"),
        ({"ids": [3, 3]}, "must ascend"),
        ({"rows": [0, 0, 2]}, r"unknown template; got rows 0\.\.2; expected 0\.\.1"),
        ({"rows": [0, 0, -1]}, r"got rows -1\.\.0"),
    ):
        with pytest.raises(DataError, match=message):
            template_set(**changes)


def test_pairs_are_checked_and_can_be_led_to_other_rows() -> None:
    pairs = TemplatePairs(np.array([0, 1, 2]), np.array([3, 3, 0]), np.array([True, False, False]))
    moved = pairs.at(np.array([2, -1, 0, 1]))
    assert (moved.probe.tolist(), moved.enroll.tolist(), moved.same.tolist()) == ([2, 0], [1, 2], [True, False])
    assert pairs.at(np.array([2, 3, 0, -1])).probe.tolist() == [0]
    with pytest.raises(
        DataError, match=r"no pair of templates is left; got 3 pairs, each with a template that has no im"
    ):
        pairs.at(np.array([-1, -1, -1, 1]))
    with pytest.raises(DataError, match="three columns of one length"):
        TemplatePairs(np.array([0]), np.array([1, 2]), np.array([True]))
    with pytest.raises(DataError, match=r"int64 answers"):
        TemplatePairs(np.array([0]), np.array([1]), np.array([1]))
    with pytest.raises(DataError, match=r"negative row; fix: leave such pairs out with TemplatePairs\.at"):
        TemplatePairs(np.array([0]), np.array([-1]), np.array([True]))
