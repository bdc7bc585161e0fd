"""A run scored by a preset: its pictures written as published files, read back and searched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hetero.errors import ConfigError
from hetero.report.build import render_terminal
from hetero.workflows.evaluate import evaluate_run


@pytest.fixture(scope="module")
def birds(config, tmp_path_factory):
    """The toy set's pictures in the layout of CUB-200-2011."""
    content = np.load(config.parent / "toy.npz")
    root = tmp_path_factory.mktemp("birds")
    lists = {name: [] for name in ("images", "image_class_labels", "classes")}
    for label, name in enumerate(content["classes"]):
        folder = f"{label + 1:03d}.{name.replace(' ', '_')}"
        (root / "images" / folder).mkdir(parents=True)
        lists["classes"].append(f"{label + 1} {folder}")
    for i, (pixels, label) in enumerate(zip(content["images"], content["labels"], strict=True)):
        path = f"{lists['classes'][label].split()[1]}/{i:04d}.png"
        Image.fromarray(pixels).save(root / "images" / path)
        lists["images"].append(f"{i + 1} {path}")
        lists["image_class_labels"].append(f"{i + 1} {label + 1}")
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return f"data={{format: cub200, path: '{root}', train_classes: 8}}"


def test_a_preset_adds_its_recalls_to_every_cell(trained, birds):
    plain = evaluate_run(trained)
    report = evaluate_run(trained, overrides=[birds, "evaluation.preset=cub200"])
    assert report.run.dataset.preset == "cub200, train_classes: 8"  # the published one has a hundred
    for before, after in zip(plain.students, report.students, strict=True):
        assert before.recalls == {}
        assert after.recall_ranks == (1, 2, 4, 8)
        for cell in ("paragon", "heterogeneous", "homogeneous", "reverse"):
            old, new = getattr(before.cells, cell), getattr(after.cells, cell)
            assert new == old  # the same pictures
            found = after.recalls[cell]
            assert found[1] == old.r_at_1
            assert found[4].value <= old.r_at_5.value <= found[8].value
    assert render_terminal(report)


def test_another_split_has_recalls_but_is_not_called_by_the_preset(trained, birds):
    report = evaluate_run(trained, split="train", overrides=[birds, "evaluation.preset=cub200"])
    assert report.students[0].recall_ranks == (1, 2, 4, 8)
    assert report.run.dataset.preset is None


def test_a_preset_of_other_data_is_refused(trained):
    with pytest.raises(ConfigError, match="preset cub200 belongs to data of format cub200, not npz"):
        evaluate_run(trained, overrides=["evaluation.preset=cub200"])
