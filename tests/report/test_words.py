"""Numbers and verdicts as every view writes them."""

from __future__ import annotations

import pytest

from hetero.report import words
from hetero.report.assemble import make_report
from hetero.report.numbers import Interval
from hetero.report.schema import Check, Report, RuleResult


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8714, "0.871"), (0.0, "0.000"), (1.0, "1.000"), (0.0021, "0.0021"), (0.01, "0.010"), (-0.5, "−0.500")],
)
def test_share(value: float, text: str) -> None:
    assert words.share(value) == text


def test_interval_and_difference() -> None:
    assert words.interval(Interval(value=0.5, low=0.4, high=0.6)) == "0.500 [0.400, 0.600]"
    assert words.interval(Interval.exact(0.5)) == "0.500"
    result = RuleResult(satisfied=False, difference=-0.02, low=-0.05, high=0.01)
    assert words.difference(result) == "−0.020 [−0.050, +0.010]"


def test_what_was_searched_says_what_was_left_out(report: Report) -> None:
    data = report.run.dataset
    assert words.searched(data) == "13,180 queries of 659 classes; leave-one-out"
    found = words.searched(data.model_copy(update={"queries_without_match": 1024, "unusable_images": 3}))
    assert found.endswith(
        "; 1,024 more queries have no possible match and are left out; 3 pictures of the data could not be used"
    )


@pytest.mark.parametrize(("value", "text"), [(1.04, "1.0×"), (9.94, "9.9×"), (23.02, "23×"), (1234.5, "1,234×")])
def test_ratio(value: float, text: str) -> None:
    assert words.ratio(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (1000, "1 k"), (52_100_000, "52.1 M"), (999_900, "1,000 k"), (2.5e9, "2.5 G"), (3e12, "3 T")],
)
def test_count(value: float, text: str) -> None:
    assert words.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.25, "4.2 s"), (61, "1 min 01 s"), (200, "3 min 20 s"), (3725, "1 h 02 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_shorten_keeps_both_ends_and_one_line() -> None:
    assert words.shorten("short", 5) == "short"
    assert words.shorten("photos/holiday/beach/IMG_0001.jpg", 15) == "photos/…001.jpg"
    assert len(words.shorten("x" * 100, 20)) == 20
    assert words.shorten("two\nlines\tof\x00 text\u202e", 40) == "two lines of text"


def test_summary_tells_result_rule_and_control(report: Report) -> None:
    text = words.summary(report)
    assert "Student tiny-23x, at 23× fewer MACs" in text
    assert "R@1 0.858 [0.852, 0.864]" in text
    assert "0.887 [0.881, 0.893] (96.7% of it)" in text
    assert "satisfied for R@1 (+0.018 [+0.013, +0.023]), satisfied for mAP@R" in text
    assert "negative control tiny-23x-alone" in text
    assert "R@1 0.0021 [0.0010, 0.0032] from the same gallery (chance: 0.0014)" in text
    assert "checks failed" not in text


def test_summary_of_a_failure_says_so(report: Report) -> None:
    failing = make_report(
        space_id=report.space_id,
        run=report.run,
        students=[report.students[2], report.students[3]],
        checks=[Check(name="speed", passed=False, value=1, expected="2"), report.checks[0]],
    )
    text = words.summary(failing)
    assert "not satisfied for R@1 (−0.0042 [−0.0094, +0.0010]), satisfied for mAP@R" in text
    assert "chance" not in text
    assert "1 of 2 checks failed: speed." in text
