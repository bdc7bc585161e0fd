"""What a report refuses, so that nobody has to wonder whether its parts agree."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hetero.report.assemble import curves_from_journal, make_report, thin_curves
from hetero.report.numbers import Interval
from hetero.report.schema import CurvePoint, Picture, Report, json_schema

SPEC = Path(__file__).resolve().parents[2] / "docs" / "report-spec.md"
Document = dict[str, Any]


def changed(report: Report, change: Callable[[Document], object]) -> Document:
    document = json.loads(report.model_dump_json(by_alias=True))
    change(document)
    return document


def test_a_report_survives_json(report: Report) -> None:
    text = report.model_dump_json(by_alias=True)
    assert json.loads(text)["schema"] == 1
    assert Report.model_validate_json(text) == report


def test_top_level_keys_are_the_first_compatible_students(report: Report) -> None:
    control_first = make_report(
        space_id=report.space_id, run=report.run, students=(report.students[3], *report.students[:3])
    )
    first = report.students[0]
    assert (control_first.cells, control_first.rule, control_first.macs) == (first.cells, first.rule, first.macs)


@pytest.mark.parametrize("key", ["cells", "rule", "macs"])
def test_top_level_keys_of_another_student_are_refused(report: Report, key: str) -> None:
    document = changed(report, lambda d: d.update({key: d["students"][1][key]}))
    with pytest.raises(ValidationError, match=f"top-level {key} must equal {key} of 'tiny-23x'"):
        Report.model_validate(document)


def test_a_report_without_compatible_student_is_refused(report: Report) -> None:
    with pytest.raises(ValueError, match="at least one student with role 'compatible'"):
        make_report(space_id=report.space_id, run=report.run, students=report.students[3:])
    document = changed(report, lambda d: d.update(students=d["students"][3:]))
    with pytest.raises(ValidationError, match="at least one student with role 'compatible'"):
        Report.model_validate(document)


def _set(path: str, value: object) -> Callable[[Document], None]:
    """A change of the value at ``a.0.b``; a part that is missing on the way is an error of the test."""

    def change(document: Document) -> None:
        *way, last = path.split(".")
        place: Any = document
        for part in way:
            place = place[int(part) if part.isdigit() else part]
        place[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("students.1.cells.reverse.r_at_1.value", math.nan, "finite"),
        ("students.1.cells.reverse.r_at_1.value", 1.2, "less than or equal"),
        ("students.1.cells.reverse.r_at_1.low", 0.9, "does not hold its value"),
        ("students.1.cells.reverse.r_at_1.high", 0.8, "does not hold its value"),
        ("students.1.cells.reverse.r_at_5.value", None, "valid number"),
        ("students.1.cells.reverse.r_at_5", {"value": 0.5, "low": 0.4, "high": 0.6}, "is above r_at_5"),
        ("students.1.cells.reverse.r_at_9", {"value": 0.5, "low": 0.4, "high": 0.6}, "Extra inputs"),
        ("students.1.rule.map_at_r.satisfied", False, "satisfied means low > 0"),
        ("students.2.rule.r_at_1.satisfied", True, "satisfied means low > 0"),
        ("students.1.rule.map_at_r.high", 0.01, "does not hold its value"),
        ("students.1.rule.map_at_r.difference", 0.0425, "its cells differ by"),
        ("students.1.macs.ratio", 44.0, "ratio is 44.0, but gallery / query is"),
        ("students.1.macs.query", 0, "greater than 0"),
        ("students.1.macs.query", 10**400, "less than or equal"),
        ("students.1.params", {"gallery": 10, "query": 5, "ratio": 2.0}, "gallery models of different cost"),
        ("students.1.cells.paragon.r_at_1.value", 0.8872, "disagree on the paragon's r_at_1"),
        ("students.1.role", "student", "'compatible' or 'control'"),
        ("students.1.name", "tiny-23x", "two students have the same name"),
        ("thresholds.0.student", "huge", "thresholds name the student 'huge'; the students are tiny-23x,"),
        ("histograms.0.student", "huge", "histograms name the student 'huge'"),
        ("examples.0.student", "huge", "examples name the student 'huge'"),
        ("examples.0.matches", [], "at least 1 item"),
        ("examples.0.query.image_png", "not base64!", "must be base64"),
        ("examples.0.query.image_png", "R0lGODlhAQ==", "must be a PNG"),
        ("examples.0.query.image_png", "A" * 200_001, "at most 200000"),
        ("histograms.0.edges.3", -1.0, "edges must increase"),
        ("histograms.0.matching", [1, 2], "80 bins need 80 counts, got 2 matching and 80 non_matching"),
        ("histograms.0.non_matching", [1], "got 80 matching and 1 non_matching"),
        ("run.config.seed", math.inf, "finite"),
        ("run.config_sha256", "abc", "match pattern"),
        ("run.durations_s.gallery", -1.0, "greater than or equal to 0"),
        ("curves.0.loss", math.nan, "finite"),
        ("schema", 2, "Input should be 1"),
        ("colour", "blue", "Extra inputs"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(report: Report, path: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Report.model_validate(changed(report, _set(path, value)))


def test_a_report_cannot_be_changed(report: Report) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        report.space_id = "other"


def test_a_file_name_that_is_not_utf8_does_not_lose_the_report() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    odd = Picture(id=name, class_name=name)
    assert odd.id == "caf?.png"
    assert Picture.model_validate_json(odd.model_dump_json()) == odd


def test_an_exact_number_is_its_own_interval() -> None:
    assert Interval.exact(0.25) == Interval(value=0.25, low=0.25, high=0.25)


def test_thin_curves_keeps_the_ends_of_every_phase() -> None:
    points = [
        CurvePoint(phase=phase, step=step, epoch=0, loss=1.0)
        for phase, count in (("long", 1000), ("short", 3), ("one", 1))
        for step in range(count)
    ]
    kept = thin_curves(points, limit=5)
    steps = {phase: [p.step for p in kept if p.phase == phase] for phase in ("long", "short", "one")}
    assert steps["short"] == [0, 1, 2]
    assert steps["one"] == [0]
    assert len(steps["long"]) == 5
    assert steps["long"][0] == 0
    assert steps["long"][-1] == 999
    assert max(b - a for a, b in zip(steps["long"], steps["long"][1:], strict=False)) <= 251
    assert thin_curves([]) == ()


def test_curves_from_journal_sums_the_totals_and_names_the_terms() -> None:
    line = {"phase": "p", "step": 10, "epoch": 1, "lr": 0.1, "images_per_s": 500.0}
    one = {"a": {"total": 5.0, "influence": 3.0, "alignment": 0.2}}
    two = one | {"b": {"total": 2.0, "influence": 2.0}}
    single = {"a": {"total": 5.0, "softmax": 5.0}}
    first, second, third = curves_from_journal([line | {"loss": loss} for loss in (one, two, single)])
    assert (first.loss, first.images_per_s, first.epoch) == (5.0, 500.0, 1.0)
    assert first.terms == {"influence": 3.0, "alignment": 0.2}
    assert second.loss == 7.0
    assert second.terms == {
        "a/total": 5.0,
        "a/influence": 3.0,
        "a/alignment": 0.2,
        "b/total": 2.0,
        "b/influence": 2.0,
    }
    assert third.terms == {}


def test_the_specification_names_every_key_of_the_model() -> None:
    schema = json_schema()
    models = {"Report": schema} | {n: d for n, d in schema["$defs"].items() if "properties" in d}
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", SPEC.read_text(encoding="utf-8"), re.S | re.M))
    assert set(sections) == set(models)
    for name, model in models.items():
        documented = re.findall(r"^\| `(\w+)` \|", sections[name], re.M)
        assert documented == list(model["properties"]), name


def test_the_json_schema_requires_what_the_specification_calls_present() -> None:
    required = set(json_schema()["required"])
    assert required == {"space_id", "run", "students", "cells", "rule", "macs"}


def test_recalls_survive_json_by_rank(with_recalls: Report) -> None:
    assert with_recalls.students[0].recall_ranks == (1, 10, 100, 1000)
    text = with_recalls.model_dump_json(by_alias=True)
    assert list(json.loads(text)["students"][0]["recalls"]["reverse"]) == ["1", "10", "100", "1000"]
    assert Report.model_validate_json(text) == with_recalls


def test_a_report_without_preset_has_no_recalls(report: Report) -> None:
    assert report.students[0].recall_ranks == ()
    assert report.run.dataset.preset is None


@pytest.mark.parametrize(
    ("cell", "found", "message"),
    [
        ("reverse", {"0": 0.5}, "greater than or equal to 1"),
        ("reverse", {"ten": 0.5}, "valid integer"),
        ("upward", {"1": 0.5}, "Input should be 'paragon'"),
        ("homogeneous", {"1": 0.8402, "10": 0.96, "1000": 0.99}, "recalls of homogeneous are at [1, 10, 1000], others"),
        ("homogeneous", {"1": 0.84, "10": 0.96, "100": 0.97, "1000": 0.99}, "at 1: 0.84, but r_at_1 0.8402"),
        ("homogeneous", {"1": 0.8402, "10": 0.98, "100": 0.97, "1000": 0.99}, "0.98, 0.97, 0.99] at [1, 5, 10, 100"),
        ("homogeneous", {"1": 0.8402, "10": 0.9, "100": 0.97, "1000": 0.99}, "R@k of homogeneous falls with the rank"),
        ("paragon", {"1": 0.8871, "10": 0.98, "100": 0.985, "1000": 0.99}, "disagree on the paragon's recalls"),
    ],
)
def test_recalls_that_contradict_the_cells_are_refused(
    with_recalls: Report, cell: str, found: dict[str, float], message: str
) -> None:
    exact = {rank: {"value": value, "low": value, "high": value} for rank, value in found.items()}
    with pytest.raises(ValidationError, match=re.escape(message)):
        Report.model_validate(changed(with_recalls, lambda d: d["students"][0]["recalls"].update({cell: exact})))


def test_recalls_are_of_all_cells_and_all_students_or_none(with_recalls: Report) -> None:
    with pytest.raises(ValidationError, match="not of all of paragon, heterogeneous, homogeneous, reverse"):
        Report.model_validate(changed(with_recalls, lambda d: d["students"][0]["recalls"].pop("reverse")))
    with pytest.raises(ValidationError, match="disagree on the paragon's recalls"):
        Report.model_validate(changed(with_recalls, lambda d: d["students"][0].pop("recalls")))
