"""Which runs are one experiment: what differs beside seed, students and precision is refused; so are damaged scores."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_summary import rewritten

from hetero.errors import CheckpointError, ConfigError
from hetero.workflows.experiment import without_folders
from hetero.workflows.scores import SCORES
from hetero.workflows.summary import summarise


def test_runs_that_are_not_seeds_of_one_experiment_are_refused(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"repeats what another run of the same seed has.*alone, .*small"):
        summarise([runs[0], runs[0]])
    with pytest.raises(ConfigError, match="a summary needs runs"):
        summarise([])
    with pytest.raises(ConfigError, match="have no seed in common"):
        summarise([runs[0]], versus=[runs[1]])

    def changed(name, change):
        other = tmp_path / name
        shutil.copytree(runs[1], other)
        report = json.loads((other / "report.json").read_text())
        change(report)
        (other / "report.json").write_text(json.dumps(report))
        return other

    for name, change, what in (
        ("lr", lambda r: r["run"]["config"]["student_training"].update(lr=0.5), "training of small"),
        (
            "loss",
            lambda r: r["run"]["config"]["students"][0]["loss"]["alignment"].update(weight=3),
            "training of small",
        ),
        ("gallery", lambda r: r["run"]["config"]["gallery"]["train"].update(lr=0.5), "training of the gallery model"),
        ("pictures", lambda r: r["run"]["config"]["preprocess"].update(mean=[0.4]), "training of the gallery model"),
        ("division", lambda r: r["run"]["config"]["data"].update(min_images_per_class=3), "data"),
        ("data", lambda r: r["run"]["dataset"].update(split="val"), "data"),
        ("protocol", lambda r: r["run"]["dataset"].update(protocol="another"), "data"),
    ):
        with pytest.raises(ConfigError, match=rf"{name} does not belong to the experiment.*got other {what}"):
            summarise([runs[0], changed(name, change)])
    elsewhere = changed("space", lambda r: r["run"].update(seed=0))
    with pytest.raises(ConfigError, match=r"have seed 0 both, but not one gallery model"):
        summarise([runs[0], elsewhere])


def test_folders_do_not_count_wherever_they_stand_in_a_config():
    config = {"data": {"path": "there/shop"}, "gallery": {"checkpoint": "runs/0/gallery"}, "seed": 3,
              "student_training": {"cache": "disk", "unlabelled": {"path": "here/phones", "per_batch": 5}}}  # fmt: skip
    assert without_folders(config) == {
        "data": {"path": "shop"}, "gallery": {"checkpoint": "gallery"}, "seed": 3,
        "student_training": {"cache": "disk", "unlabelled": {"path": "phones", "per_batch": 5}},
    }  # fmt: skip


def test_damaged_or_missing_scores_are_refused(runs, tmp_path):
    def broken(name, change):
        return rewritten(runs[1], tmp_path / name, change)

    fewer = broken("fewer", lambda a: a.update({key: values[:50] for key, values in a.items()}))
    with pytest.raises(CheckpointError, match=r"does not belong to the report.*paragon: 50 queries"):
        summarise([runs[0], fewer])
    others = broken("others", lambda a: a.update({key: 1 - values for key, values in a.items()}))
    with pytest.raises(CheckpointError, match=r"does not belong to the report.*mean R@1"):
        summarise([runs[0], others])
    missing = broken("missing", lambda a: [a.pop(key) for key in list(a) if key.startswith("alone/homogeneous")])
    with pytest.raises(CheckpointError, match=r"does not belong to the report.*alone/homogeneous: 0 queries"):
        summarise([runs[0], missing])
    with pytest.raises(CheckpointError, match="does not hold the scores of a run"):
        summarise([runs[0], broken("short", lambda a: a.update({"small|r_at_1": a["small|r_at_1"][:5]}))])
    with pytest.raises(CheckpointError, match="does not hold the scores of a run"):
        summarise([runs[0], broken("none", lambda a: [a.pop(k) for k in list(a) if k.startswith("paragon")])])
    cut = broken("cut", lambda a: None)
    (cut / SCORES).write_bytes((cut / SCORES).read_bytes()[:200])
    with pytest.raises(CheckpointError, match="is damaged"):
        summarise([runs[0], cut])
    (cut / SCORES).unlink()
    with pytest.raises(CheckpointError, match="there is no"):
        summarise([runs[0], cut])
    pickled = broken("pickle", lambda a: a.update({"small|r_at_1": np.array([{}], dtype=object)}))
    with pytest.raises(CheckpointError, match="is damaged"):
        summarise([runs[0], pickled])
