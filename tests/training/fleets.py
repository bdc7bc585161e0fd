"""What the tests of students that train together share: their configs, and runs of them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from toy import toy_tree

from hetero.config import RunConfig
from hetero.logs import SilentProgress
from hetero.workflows.train import train_run

TERMS = {
    "influence": {"influence": {"prototypes": "classifier"}},
    "centres": {"influence": {}},
    "l2": {"alignment": {"distance": "l2", "weight": 1}},
    "contrastive": {"contrastive": {"weight": 10}},
    "triplet": {"triplet": {"margin": 0.5}},
    "contextual": {"contextual": {"weight": 4, "neighbours": 64}},
    "structure": {
        "structure": {"weight": 4, "parts": 4, "anchors": 8, "query_temperature": 0.1, "gallery_temperature": 0.1}
    },
    "ranking": {"ranking": {"weight": 20, "neighbours": 16, "temperature": 0.1}},
    "decoupled": {"decoupled": {"neighbours": 16}},
    "centre": {"softmax": {}, "centre": {"alignment": 1.0}},
}
"""Losses that each bring a student into the gallery model's space, in little training."""


def train(tree, out, progress=None, threads=None):
    return train_run(RunConfig.model_validate(tree), out, progress=progress or SilentProgress(), threads=threads)


def student(name, **changes):
    arch = {"size": 12, "channels": 1, "dim": 16, "stem_width": 4, "stages": [{"width": 6}, {"width": 8}]}
    return {"name": name, "arch": arch, "loss": {"alignment": {}}} | changes


def with_students(pictures, gallery, *added, **training):
    tree = toy_tree(pictures)
    tree["gallery"] = {"checkpoint": str(gallery)}
    tree["students"] = list(added)
    tree["student_training"] = tree["student_training"] | training
    return tree
