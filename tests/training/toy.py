"""A run that trains in seconds: sixteen classes of noisy patterns, a gallery model, a student and a control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from hetero.config import RunConfig, parse_config


def write_pictures(path: Path, *, num_classes: int = 16, images_per_class: int = 12, size: int = 12) -> Path:
    """An npz of ``num_classes`` random patterns, each seen many times under noise and small shifts."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (num_classes, size // 3, size // 3)).repeat(3, 1).repeat(3, 2)
    labels = np.arange(num_classes).repeat(images_per_class)
    images = np.empty((len(labels), size, size), dtype=np.uint8)
    for index, label in enumerate(labels):
        shifted = np.roll(patterns[label], rng.integers(-1, 2, 2), (0, 1))
        images[index] = np.clip(shifted + rng.normal(0, 60, shifted.shape), 0, 255)
    split = num_classes // 2 * images_per_class
    np.savez(
        path,
        images=images,
        labels=labels.astype(np.int32),
        classes=np.array([f"pattern {label}" for label in range(num_classes)]),
        train=np.arange(split),
        test=np.arange(split, len(labels)),
    )
    return path


def toy_tree(pictures: Path) -> dict:
    """The run config as a tree, for tests that change a key."""
    arch = {"size": 12, "channels": 1, "dim": 16, "stem_width": 8, "stages": [{"width": 16}, {"width": 24}]}
    small = arch | {"stem_width": 4, "stages": [{"width": 6}, {"width": 8}]}
    training = {
        "epochs": 3,
        "batch_size": 16,
        "lr": 0.05,
        "warmup_steps": 2,
        "log_every_steps": 4,
        "augment": {"translate": 0.1, "noise": 0.2},
    }
    return {
        "name": "toy",
        "data": {"format": "npz", "path": str(pictures)},
        "preprocess": {"height": 12, "width": 12, "channels": 1, "mean": [0.5], "std": [0.3]},
        "gallery": {"arch": arch, "train": training},
        "student_training": training,
        "students": [
            {"name": "small", "arch": small, "loss": {"influence": {}, "alignment": {"weight": 10}}},
            {"name": "alone", "role": "control", "arch": small, "loss": {"softmax": {}}},
        ],
        "evaluation": {"false_accept_rates": [0.01], "resamples": 200},
    }


def toy_config(pictures: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The validated config."""
    return parse_config(yaml.safe_dump(toy_tree(pictures)), overrides)


def write_config(folder: Path) -> Path:
    """Pictures and config as files; returns the config's path."""
    write_pictures(folder / "toy.npz")
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_tree(folder / "toy.npz")))
    return path
