"""Plots: well-formed, deterministic, saying in words what they show, drawn at the right places."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from hetero.errors import MissingExtraError
from hetero.report import canvas, cost_plot, histograms
from hetero.report.assemble import make_report
from hetero.report.canvas import spread
from hetero.report.curves import _curve_panels
from hetero.report.plots import Plot, plot_cells, plot_cost, plot_curves, plot_histograms
from hetero.report.schema import Cost, CurvePoint, Histogram, Report, Student

ALL = [plot_cells, plot_cost, plot_histograms, plot_curves]


def remade(report: Report, *paths: tuple[str, object]) -> Report:
    """The report with some values of its JSON replaced (``students.0.name`` and so on)."""
    document: Any = json.loads(report.model_dump_json(by_alias=True))
    for path, value in paths:
        *way, last = path.split(".")
        place = document
        for part in way:
            place = place[int(part) if part.isdigit() else part]
        place[int(last) if last.isdigit() else last] = value
    return Report.model_validate(document)


@pytest.fixture(scope="module")
def drawn(report: Report) -> dict[str, Plot]:
    """Every plot of the report by the name of its function, drawn once."""
    return {draw.__name__: draw(report) for draw in ALL}


def comments(plot: Plot) -> list[str]:
    """The texts of a plot: matplotlib notes each beside its outlines."""
    return [part.split("-->")[0].strip() for part in plot.svg.split("<!--")[1:]]


@pytest.mark.parametrize("draw", ALL)
def test_a_plot_is_well_formed_deterministic_and_loads_nothing(
    report: Report, drawn: dict[str, Plot], draw: Any
) -> None:
    plot = drawn[draw.__name__]
    root = ElementTree.fromstring(plot.svg)
    assert root.tag.endswith("svg")
    assert plot == draw(report)
    assert "<!DOCTYPE" not in plot.svg
    assert "<script" not in plot.svg
    links = [value for one in root.iter() for key, value in one.attrib.items() if key.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert len(plot.svg) < 300_000
    assert plot.data_uri.startswith("data:image/svg+xml;base64,")
    assert plot.caption
    for student in report.students[:3]:
        assert student.name in plot.alt or draw is plot_curves


def test_the_cells_plot_names_and_numbers_every_cell(drawn: dict[str, Plot]) -> None:
    plot = drawn["plot_cells"]
    texts = comments(plot)
    for text in ("R@1", "R@5", "mAP@R", "tiny-23x", "tiny-23x-alone, control", "0.858", "0.533", "0.0021"):
        assert text in texts
    assert "heterogeneous R@1 0.858 [0.852, 0.864]" in plot.alt
    assert "mAP@R 0.606" in plot.alt


def test_the_cost_plot_names_ratios_and_what_is_below_its_axis(drawn: dict[str, Plot]) -> None:
    plot = drawn["plot_cost"]
    texts = comments(plot)
    for text in ("tiny-100x (100×)", "tiny-23x / tiny-23x-alone (23×)", "paragon 0.887", "control, homogeneous"):
        assert text in texts
    assert "Below the axis: tiny-23x-alone in the gallery, R@1 0.0021" in plot.caption
    assert "tiny-45x: 1.16 M MACs, 45× fewer than the gallery model" in plot.alt


def test_the_cost_plot_draws_a_control_that_is_not_at_chance(report: Report, drawn: dict[str, Plot]) -> None:
    high = json.loads(report.students[0].cells.model_dump_json())
    working = remade(
        report,
        ("students.3.cells", high),
        ("students.3.rule", json.loads(report.students[0].rule.model_dump_json())),
    )
    plot = plot_cost(working)
    assert "Below the axis" not in plot.caption
    marks = [one.svg.count(canvas.CONTROL_COLOUR) for one in (drawn["plot_cost"], plot)]
    assert marks[0] < marks[1]


@pytest.mark.filterwarnings("error")
def test_the_cost_plot_takes_a_student_as_large_as_the_gallery_model(report: Report) -> None:
    only = report.students[0]
    equal = Cost.of(only.macs.gallery, only.macs.gallery)
    large = Student.model_validate(only.model_dump() | {"macs": equal.model_dump()})
    plot = plot_cost(make_report(space_id=report.space_id, run=report.run, students=[large]))
    assert "tiny-23x (1.0×)" in comments(plot)
    heavier = Cost.of(only.macs.gallery, 3 * only.macs.gallery)
    heavy = Student.model_validate(only.model_dump() | {"macs": heavier.model_dump()})
    plot = plot_cost(make_report(space_id=report.space_id, run=report.run, students=[heavy]))
    assert "tiny-23x (0.3×)" in comments(plot)


def test_the_histogram_density_has_area_one() -> None:
    edges = np.array([-1.0, -0.5, 0.5, 1.0])
    density = histograms._density([1, 6, 1], edges)
    assert np.sum(density * np.diff(edges)) == pytest.approx(1.0)
    np.testing.assert_allclose(density, [0.25, 0.75, 0.25])
    np.testing.assert_array_equal(histograms._density([0, 0, 0], edges), [0, 0, 0])


def test_the_histogram_plot_labels_thresholds(drawn: dict[str, Plot]) -> None:
    plot = drawn["plot_histograms"]
    texts = comments(plot)
    assert "FAR 0.001: ≥ 0.462, TAR 0.831" in texts
    assert texts.count("matching") == 4
    assert "tiny-23x, heterogeneous: 4,164,715 matching pairs with mean 0.65" in plot.alt


def test_the_histogram_plot_takes_thresholds_on_the_left_and_empty_histograms(report: Report) -> None:
    empty = Histogram(student="tiny-45x", cell="reverse", edges=(-1, 0, 1), matching=(0, 0), non_matching=(0, 0))
    left = remade(
        report,
        ("histograms", [json.loads(empty.model_dump_json())]),
        ("thresholds.0.student", "tiny-45x"),
        ("thresholds.0.cell", "reverse"),
        ("thresholds.0.similarity", -0.5),
    )
    plot = plot_histograms(left)
    assert "tiny-45x, reverse: no pairs." in plot.alt
    assert "tiny-45x, reverse" in comments(plot)
    assert "FAR 0.001: ≥ -0.500, TAR 0.831" in comments(plot)
    assert "matching" not in comments(plot)


def test_similarity_limits_leave_out_only_the_far_tails() -> None:
    edges = (-1.0, -0.5, 0.0, 0.5, 1.0)
    wide = Histogram(student="s", edges=edges, matching=(0, 0, 9, 0), non_matching=(0, 50, 50, 0))
    tail = Histogram(student="s", edges=edges, matching=(1, 0, 99_999, 0), non_matching=(0, 1, 0, 0))
    assert histograms._similarity_limits([wide]) == (-0.5, 0.5)
    assert histograms._similarity_limits([tail]) == (-0.5, 0.5)
    above = Histogram(student="s", edges=edges, matching=(0, 0, 0, 0), non_matching=(0, 99_999, 0, 1))
    assert histograms._similarity_limits([above]) == (-0.5, 0.0)
    both = Histogram(student="s", edges=edges, matching=(0, 0, 90, 10), non_matching=(0, 50, 50, 0))
    assert histograms._similarity_limits([above, both]) == (-0.5, 1.0)


def test_curves_have_a_panel_for_the_loss_each_student_and_the_speed(report: Report, drawn: dict[str, Plot]) -> None:
    points = [one for one in report.curves if one.phase == "students"]
    panels = dict(_curve_panels(points))
    assert list(panels) == ["loss", "tiny-23x", "tiny-45x", "tiny-100x", "images/s"]
    assert list(panels["tiny-45x"]) == ["influence", "alignment"]
    steps, heights = panels["tiny-45x"]["alignment"]
    assert steps == [one.step for one in points]
    assert heights == [one.terms["tiny-45x/alignment"] for one in points]
    texts = comments(drawn["plot_curves"])
    for text in ("gallery: loss", "gallery: images/s", "students: tiny-100x", "influence"):
        assert text in texts
    assert "gallery: loss from 12.01 at step 0" in drawn["plot_curves"].alt


def test_curves_take_one_point_no_speed_and_a_term_called_loss(report: Report) -> None:
    point = CurvePoint(phase="p", step=3, epoch=0.5, loss=2.0, terms={"loss": 9.0, "b": 1.0})
    assert dict(_curve_panels([point])) == {"loss": {"loss": ([3], [2.0]), "b": ([3], [1.0])}}
    one = remade(report, ("curves", [json.loads(point.model_dump_json())]))
    assert "p: loss from 2 at step 3 to 2 at step 3." in plot_curves(one).alt


def test_names_are_drawn_as_they_are_not_as_mathematics(report: Report) -> None:
    name = r"cost $5 \frac{ $"
    hostile = remade(
        report,
        ("students.0.name", name),
        ("thresholds", []),
        ("examples", []),
        ("histograms.0.student", name),
        ("curves", [{"phase": name, "step": 1, "epoch": 0, "loss": 1, "terms": {f"{name}/a": 1, f"{name}/漢": 2}}]),
    )
    for draw in ALL:
        plot = draw(hostile)
        ElementTree.fromstring(plot.svg)
        assert any(name in text or name.replace("$", r"\$") in text for text in comments(plot))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 5.0], [1.0, 5.0]),
        ([5.0, 1.0], [5.0, 1.0]),
        ([5.0, 5.0, 5.0], [5.0, 6.0, 7.0]),
        ([9.8, 9.9], [9.0, 10.0]),
        ([-3.0, 0.5], [0.0, 1.0]),
        ([], []),
    ],
)
def test_spread_keeps_labels_apart_and_inside(values: list[float], expected: list[float]) -> None:
    assert spread(values, 1.0, 0.0, 10.0) == pytest.approx(expected)


def test_student_names_that_would_overlap_are_stacked(report: Report) -> None:
    figure = canvas.new_figure(3)
    axes = figure.subplots()
    axes.set_xscale("log")
    cost_plot.name_students(axes, sorted(report.students, key=lambda one: one.macs.query), 3e5, 1e8)
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert heights["tiny-100x (100×)"] == heights["tiny-45x (45×)"] < heights["tiny-23x / tiny-23x-alone (23×)"]


def test_without_matplotlib_the_extra_is_named(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hetero\[report\]'"):
        plot_cells(report)


def test_importing_the_room_imports_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, hetero.report.build, hetero.report.assemble, hetero.report.query_sheet\n"
        "heavy = {'torch', 'matplotlib', 'jinja2', 'faiss'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_drawing_leaves_matplotlibs_settings_alone(report: Report) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot_cells(report)
    assert dict(matplotlib.rcParams) == before
    code = (
        "import sys\nfrom hetero.report.canvas import new_figure, to_svg\nto_svg(new_figure(1))\n"
        "sys.exit(int('matplotlib.pyplot' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
