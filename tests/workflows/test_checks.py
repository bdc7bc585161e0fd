"""What makes ``hetero compat`` exit with 1."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
from toy import toy_config

from hetero.report.fleet import Band
from hetero.report.numbers import Interval
from hetero.report.schema import Baseline, Baselines, Student
from hetero.workflows.checks import failed, make_checks


def metrics(value: float) -> dict:
    interval = {"value": value, "low": value, "high": value}
    return {"r_at_1": interval, "r_at_5": interval, "map_at_r": interval}


def student(name: str, role: str, *, paragon=0.9, heterogeneous=0.85, homogeneous=0.8, ratio=20) -> Student:
    difference = heterogeneous - homogeneous
    rule = {"satisfied": difference > 0, "difference": difference, "low": difference, "high": difference}
    cost = {"gallery": 100 * ratio, "query": 100, "ratio": ratio}
    cells = {"paragon": paragon, "heterogeneous": heterogeneous, "homogeneous": homogeneous, "reverse": heterogeneous}
    return Student.model_validate(
        {
            "name": name,
            "role": role,
            "cells": {cell: metrics(value) for cell, value in cells.items()},
            "rule": {"r_at_1": rule, "map_at_r": rule},
            "macs": cost,
            "params": cost,
        }
    )


BASELINES = Baselines(raw_pixels=Baseline(r_at_1=Interval.exact(0.3)), chance=Baseline(r_at_1=Interval.exact(0.01)))
EXPECT = "evaluation.expect={share_of_paragon: 0.9, macs_ratio: 10, paragon_r_at_1: 0.8, paragon_over_pixels: 0.5}"


def verdicts(tmp_path, *students: Student) -> list[str]:
    config = toy_config(tmp_path / "toy.npz", (EXPECT,))
    return [check.name for check in failed(make_checks(config, students, BASELINES))]


def test_a_good_run_has_no_failed_check(tmp_path):
    good = student("small", "compatible"), student("alone", "control", heterogeneous=0.02)
    assert verdicts(tmp_path, *good) == []
    config = toy_config(tmp_path / "toy.npz", (EXPECT,))
    assert len(make_checks(config, good, BASELINES)) == 6


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"heterogeneous": 0.79, "homogeneous": 0.7}, "small: heterogeneous R@1 / paragon R@1"),
        ({"ratio": 5}, "small: fewer MACs, times"),
        ({"homogeneous": 0.86}, "small: compatibility rule"),
        ({"paragon": 0.79, "heterogeneous": 0.75, "homogeneous": 0.7}, "paragon R@1"),
    ],
)
def test_each_expectation_fails_by_name(tmp_path, change, name):
    assert any(found.startswith(name) for found in verdicts(tmp_path, student("small", "compatible", **change)))


def test_a_control_above_three_times_chance_fails(tmp_path):
    assert verdicts(tmp_path, student("alone", "control", heterogeneous=0.03)) == []
    [name] = verdicts(tmp_path, student("alone", "control", heterogeneous=0.031))
    assert name.startswith("alone: a control's R@1")


def test_a_control_may_reach_what_its_embeddings_turned_at_random_reach(tmp_path):
    band = Band(rotations=100, r_at_1=(0.001, 0.05), map_at_r=(0.001, 0.05))
    turned = [
        student("alone", "control", heterogeneous=score).model_copy(update={"rotated": band}) for score in (0.05, 0.051)
    ]
    assert verdicts(tmp_path, turned[0]) == []
    [name] = verdicts(tmp_path, turned[1])
    assert name.startswith("alone: a control's R@1")


def test_rotations_never_make_the_bar_of_a_control_lower(tmp_path):
    band = Band(rotations=100, r_at_1=(0.001, 0.02), map_at_r=(0.001, 0.02))
    turned = student("alone", "control", heterogeneous=0.03).model_copy(update={"rotated": band})
    assert verdicts(tmp_path, turned) == []
