"""What a report says of a fleet: the matrix and its worst cell, controls turned at random, the tuning's tax."""

from __future__ import annotations

import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
from toy import toy_tree, write_pictures

from hetero.config import RunConfig
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.logs import SilentProgress
from hetero.models.checkpoint import load_model
from hetero.models.embed import embed
from hetero.report import words
from hetero.report.build import build_html, load_report, render_terminal, write_report
from hetero.report.fleet import Band, Matrix
from hetero.report.markdown import render_markdown
from hetero.retrieval.histogram import threshold_at
from hetero.retrieval.metrics import score
from hetero.retrieval.protocol import leave_one_out
from hetero.retrieval.verification import count_pairs
from hetero.workflows.evaluate import evaluate_run
from hetero.workflows.train import train_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    tree = toy_tree(write_pictures(folder / "toy.npz"))
    tree["students"][0]["loss"] = {"alignment": {}}
    tree["students"].insert(1, tree["students"][0] | {"name": "second", "train": {"lr": 0.002}})
    tree["joint"] = {"kind": "tuned", "epochs": 1, "lr": 0.05, "pull": 5.0}
    tree["evaluation"]["rotations"] = 40
    tree["evaluation"]["procrustes"] = True
    tree["evaluation"]["expect"] = {"minimum_cell": 0.9}
    return train_run(RunConfig.model_validate(tree), folder / "run", progress=SilentProgress()).run


@pytest.fixture(scope="module")
def report(run):
    return evaluate_run(run)


def embedded(run, path, split="test"):
    model, dataset = (
        load_model(run / path),
        open_dataset(RunConfig.model_validate(toy_tree(run.parent / "toy.npz")).data),
    )
    test = dataset.split(split)
    vectors = embed(model.network, read_pixels(dataset, test, model.preprocess), model.preprocess)
    return vectors, leave_one_out(np.asarray(dataset.labels)[test])


def test_the_matrix_holds_every_pair_and_agrees_with_the_students_cells(run, report):
    assert report.matrix.models == ("gallery model", "small", "second")
    by_pair = {(cell.query, cell.gallery): cell for cell in report.matrix.cells}
    small = report.students[0].cells
    assert by_pair["gallery model", "gallery model"].r_at_1 == small.paragon.r_at_1
    assert by_pair["small", "gallery model"].map_at_r == small.heterogeneous.map_at_r
    (one, protocol), (other, _) = embedded(run, "students/small"), embedded(run, "students/second")
    expected = score(one, other, protocol).mean
    assert by_pair["small", "second"].r_at_1.value == pytest.approx(expected["r_at_1"])
    assert report.matrix.minimum.r_at_1.value == min(cell.r_at_1.value for cell in report.matrix.cells)
    [check] = [check for check in report.checks if check.name.startswith("minimum cell")]
    assert check.value == pytest.approx(report.matrix.minimum.r_at_1.value / small.paragon.r_at_1.value)
    assert check.passed == (check.value >= 0.9)
    assert report.matrix.minimum.query in check.name


def test_thresholds_are_set_on_the_training_pairs_of_student_and_gallery_model(run, report):
    [small] = [one for one in report.thresholds if one.student == "small"]
    queries, gallery = embedded(run, "students/small", "train"), embedded(run, "gallery", "train")
    training = count_pairs(queries[0], gallery[0], queries[1])
    test, others = embedded(run, "students/small"), embedded(run, "gallery")
    assert small.similarity == threshold_at(training, small.false_accept_rate)
    assert small.impostor_pairs == training.impostor.sum()
    measured = count_pairs(test[0], others[0], test[1])
    accepted = measured.lower_edges >= small.similarity
    assert small.true_accept_rate == pytest.approx(measured.genuine[accepted].sum() / measured.genuine.sum())
    assert small.measured_false_accept_rate == pytest.approx(
        measured.impostor[accepted].sum() / measured.impostor.sum()
    )
    assert small.similarity != threshold_at(measured, small.false_accept_rate)


def test_controls_alone_are_turned(report):
    turned = {student.name: student.rotated for student in report.students}
    assert turned["small"] is turned["second"] is None
    assert turned["alone"].rotations == 40
    assert 0 <= turned["alone"].r_at_1[0] < turned["alone"].r_at_1[1] < 0.6


def test_controls_alone_are_mapped_by_the_rotation_that_fits_the_training_pictures_best(run, report):
    [alone] = [student for student in report.students if student.mapped is not None]
    assert alone.name == "alone"
    (query, protocol), (gallery, _) = embedded(run, "students/alone"), embedded(run, "gallery")
    own, known = (embedded(run, path, "train")[0].astype(float) for path in ("students/alone", "gallery"))
    left, _, right = np.linalg.svd(own.T @ known)
    turned = query @ (left @ right)
    turned = (turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32)
    expected = score(turned, gallery, protocol).mean
    for metric in ("r_at_1", "map_at_r"):
        found = getattr(alone.mapped, metric)
        assert found.value == pytest.approx(expected[metric], abs=1e-6)
        assert found.low <= found.value <= found.high
    assert alone.mapped.map_at_r.value > alone.cells.heterogeneous.map_at_r.value
    [line] = [line for line in words.controls(report) if "best rotation" in line]
    assert line.startswith("alone")


def test_the_tax_is_the_difference_of_the_gallery_models_on_themselves(run, report):
    (before, protocol), (after, _) = embedded(run, "gallery-untuned"), embedded(run, "gallery")
    for metric in ("r_at_1", "map_at_r"):
        expected = score(before, before, protocol).mean[metric] - score(after, after, protocol).mean[metric]
        assert getattr(report.tax, metric).value == pytest.approx(expected, abs=1e-9)
    assert report.tax.map_at_r.low < report.tax.map_at_r.value < report.tax.map_at_r.high


def test_all_views_of_a_report_show_matrix_controls_and_tax(report, tmp_path):
    from rich.console import Console

    console = Console(width=200, record=True, file=StringIO())
    console.print(render_terminal(report))
    data, page = write_report(report, tmp_path)
    assert load_report(data) == report
    html = page.read_text()
    assert html == build_html(report)
    worst = words.matrix_cell(report.matrix.minimum)
    for text in (console.export_text(), render_markdown(report), html.replace("&#39;", "'")):
        assert worst in text
        assert words.minimum(report) in " ".join(text.split())
        assert words.controls(report)[0] in " ".join(text.split())
        assert words.tax(report.tax) in " ".join(text.split())
    assert html.count('class="minimum"') == 1


def test_a_matrix_that_is_not_whole_or_names_another_minimum_is_refused(report):
    content = report.matrix.model_dump()
    with pytest.raises(ValidationError, match="all pairs of models"):
        Matrix.model_validate(content | {"cells": content["cells"][:-1]})
    best = max(content["cells"], key=lambda cell: cell["r_at_1"]["value"])
    with pytest.raises(ValidationError, match="lowest r_at_1"):
        Matrix.model_validate(content | {"minimum": best})
    with pytest.raises(ValidationError, match="before it begins"):
        Band(rotations=3, r_at_1=(0.2, 0.1), map_at_r=(0, 1))


def test_a_control_outside_its_band_is_called_so(report):
    student = report.students[2]
    for value, word in ((0.0, "below"), (1.0, "ABOVE")):
        metrics = student.cells.heterogeneous.model_copy(
            update={"r_at_1": student.cells.heterogeneous.r_at_1.exact(value)}
        )
        cells = student.cells.model_copy(update={"heterogeneous": metrics})
        changed = report.model_copy(update={"students": (student.model_copy(update={"cells": cells}),)})
        assert f"{word} the central 95 %" in next(
            line for line in words.controls(changed) if "R@1" in line and "random" in line
        )
