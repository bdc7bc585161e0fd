"""The same training on a CUDA GPU as on the CPU, where there is one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from fleets import TERMS, student, train, with_students
from test_run import Killed, StopAt
from toy import toy_tree

from hetero.journal import read_journal
from hetero.workflows.evaluate import evaluate_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

PAIRS = {"kind": "pk", "images_per_class": 4}
LOSSES = TERMS | {
    "alignment": {"alignment": {}},
    "centroid": {"centroid": {}},
    "logits": {"softmax": {}, "logits": {}},
    "relational": {"softmax": {}, "relational": {}},
}


def fleet(pictures, gallery, device, **training):
    """A student of every loss, and a line of metrics every step."""
    students = [
        student(name, loss=loss, **({"role": "control"} if name in ("logits", "relational") else {}))
        for name, loss in LOSSES.items()
    ]
    tree = with_students(
        pictures, gallery, *students, log_every_steps=1, stranger_views=True, sampler=PAIRS, **training
    )
    return tree | {"device": device}


def lines(run):
    return [line for line in read_journal(run.run / "metrics.jsonl") if line["phase"] == "students"]


def test_every_loss_is_on_the_gpu_what_it_is_on_the_cpu(pictures, gallery, tmp_path):
    runs = {
        device: lines(train(fleet(pictures, gallery, device, epochs=1), tmp_path / device))
        for device in ("cpu", "cuda")
    }
    first, other = (runs[device][0]["loss"] for device in ("cpu", "cuda"))
    for name in LOSSES:
        # convolutions on a GPU take 10 bits of their operands' fractions by default (TF32)
        assert other[name] == pytest.approx(first[name], rel=0.02, abs=0.002), name
    last, start = runs["cuda"][-1]["loss"], runs["cuda"][0]["loss"]
    assert last["alignment"]["total"] < start["alignment"]["total"]


@pytest.mark.parametrize("joint", [{"kind": "frozen"}, {"kind": "together"}, {"kind": "tuned", "epochs": 1}])
def test_a_run_from_fresh_weights_to_its_report(pictures, tmp_path, joint):
    tree = toy_tree(pictures) | {"joint": joint, "device": "cuda"}
    tree["students"][0]["loss"] = {"alignment": {"weight": 10}}
    tree["gallery"]["train"] = tree["gallery"]["train"] | {"precision": "bfloat16", "turned_classes": 0.5}
    remembered = {} if joint["kind"] == "together" else {"view_epochs": 1}
    tree["student_training"] = tree["student_training"] | {"stranger_views": True, "ema_decay": 0.5} | remembered
    tree["evaluation"] = tree["evaluation"] | {"rotations": 39, "procrustes": True}
    run = train(tree, tmp_path / "run")
    assert not run.stopped
    report = evaluate_run(run.run)
    assert report.run.device.startswith("cuda")
    shutil.copytree(run.run, tmp_path / "copy")
    searched = evaluate_run(tmp_path / "copy", overrides=["device=cpu"])
    for one, other in zip(report.students, searched.students, strict=True):
        assert one.cells.homogeneous.r_at_1.value == pytest.approx(other.cells.homogeneous.r_at_1.value, abs=0.03)


def test_a_run_that_a_gpu_began_goes_on_to_its_end(pictures, gallery, tmp_path):
    tree = fleet(pictures, gallery, "cuda", epochs=2, save_every_steps=2)
    with pytest.raises(Killed):
        train(tree, tmp_path / "run", progress=StopAt(5))
    resumed = train(tree, tmp_path / "run")
    assert [line["step"] for line in lines(resumed)] == list(range(1, 13))
    assert json.loads((resumed.run / "students" / "alignment" / "model.json").read_text())["role"] == "compatible"
