"""The configs made for a GPU, with their gallery model of ResNet-50's size in bfloat16: twenty steps on the CPU."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hetero.config import load_config
from hetero.data.glyphs import GlyphsConfig, read_glyphs
from hetero.data.npz import NpzConfig, read_npz
from hetero.journal import read_journal
from hetero.logs import SilentProgress
from hetero.models.cost import cost
from hetero.training.device import emulates_bfloat16, resolve_device
from hetero.workflows.evaluate import evaluate_run
from hetero.workflows.train import train_run

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS, BATCH = 20, 4


def subset(dataset, path: Path) -> Path:
    """As many training pictures as twenty steps take, and a few to search."""
    labels = np.asarray(dataset.labels)

    def some(split: str, classes: int, each: int) -> np.ndarray:
        indices = dataset.split(split)
        chosen = np.unique(labels[indices])[:classes]
        return np.concatenate([indices[labels[indices] == label][:each] for label in chosen])

    train, test = some("train", STEPS, BATCH), some("test", 5, 4)
    keep = np.concatenate([train, test])
    names, found = np.unique(labels[keep], return_inverse=True)
    np.savez(
        path,
        images=dataset.images[keep],
        labels=found.astype(np.int32),
        classes=np.array([dataset.class_names[name] for name in names]),
        train=np.arange(len(train)),
        test=np.arange(len(train), len(keep)),
    )
    return path


@pytest.fixture
def grocery(hetero_data, tmp_path):
    return subset(read_npz(NpzConfig(path=hetero_data / "grocery64.npz")), tmp_path / "few.npz")


@pytest.fixture
def glyphs(tmp_path):
    dataset = read_glyphs(GlyphsConfig(num_classes=60, size=96, cache=tmp_path / "cache"))
    return subset(dataset, tmp_path / "few.npz")


@pytest.mark.parametrize(("name", "side", "channels"), [("grocery", 64, 3), ("glyphs", 96, 1)])
def test_twenty_steps_of_a_gpu_config_on_the_cpu(name, side, channels, request, tmp_path):
    pictures = request.getfixturevalue(name)
    made = load_config(EXAMPLES / f"resnet50-{name}.yaml", [f"data={{format: npz, path: {pictures}}}"])
    assert (made.gallery.train.precision, made.student_training.precision) == ("bfloat16", "bfloat16")
    arithmetic = ("gallery.train.precision", "student_training.precision", "student_training.gallery_precision")
    emulated = emulates_bfloat16(resolve_device(made.device))  # where twenty steps take many minutes
    config = load_config(
        EXAMPLES / f"resnet50-{name}.yaml",
        [
            *(f"{key}=float32" for key in arithmetic if emulated),
            f"data={{format: npz, path: {pictures}}}",
            "gallery.train.epochs=1",
            "student_training.epochs=1",
            "student_training.sampler.images_per_class=2",
            "evaluation.rotations=39",
            "evaluation.false_accept_rates=[0.05]",
            *(f"{section}.{key}" for section in ("gallery.train", "student_training") for key in
              (f"batch_size={BATCH}", "lr=0.01", "log_every_steps=1")),
        ],
    )  # fmt: skip
    assert config.device == "auto"
    assert 20e6 < cost(config.gallery.arch).params < 30e6  # ResNet-50 without its classifier: 23.5 M
    assert (config.preprocess.height, config.preprocess.channels) == (side, channels)
    run = train_run(config, tmp_path / "run", progress=SilentProgress())
    lines = read_journal(run.run / "metrics.jsonl")
    for phase in ("gallery", "students"):
        steps = [line for line in lines if line["phase"] == phase]
        assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
        assert all(math.isfinite(part["total"]) for line in steps for part in line["loss"].values())
    first, last = (line["loss"]["gallery"]["softmax"] for line in (lines[0], lines[STEPS - 1]))
    assert last != first
    assert not run.stopped
    ratios = {student.name: student.macs.ratio for student in evaluate_run(run.run).students}
    for name, ratio in ratios.items():
        wanted = int(name.split("-")[0].removeprefix("x"))  # x25-alone: at least 25 times fewer MACs
        assert wanted <= ratio < 1.25 * wanted
