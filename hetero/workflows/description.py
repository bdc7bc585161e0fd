"""What a report says of its run: the data and how it was searched, the preset, how fast it trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hetero.config import RunConfig
from hetero.data.dataset import Dataset
from hetero.report import schema

_FREE_OF_PRESET = ("format", "path", "val_classes", "skip_bad", "min_images_per_class", "invert")


def describe_data(
    dataset: Dataset, split: str, queries: int, skipped: int, config: RunConfig
) -> schema.DataDescription:
    """What was searched: the pictures of ``split``, ``queries`` of them scored and ``skipped`` without a match."""
    protocol = "leave-one-out: every image is a query against all others"
    if dataset.roles is not None:
        protocol = "queries against the gallery, as the data's roles say"
    if dataset.groups is not None:
        protocol += "; images of one group never match each other"
    train, searched = dataset.split("train"), dataset.split(split)
    return schema.DataDescription(
        name=dataset.name,
        split=split,
        preset=_preset(config) if split == config.evaluation.split else None,
        images=len(searched),
        classes=len(np.unique(dataset.labels[searched])),
        queries=queries,
        queries_without_match=skipped,
        unusable_images=len(dataset.skipped),
        protocol=protocol,
        train_images=len(train),
        train_classes=len(np.unique(dataset.labels[train])),
    )


def _preset(config: RunConfig) -> str | None:
    """The name of the evaluation, and the data's keys that make it another than the published one."""
    data, name = config.data, config.evaluation.preset
    if name is None:
        return None
    changed = [
        f"{key}: {getattr(data, key)}"
        for key, of in type(data).model_fields.items()
        if key not in _FREE_OF_PRESET and getattr(data, key) != of.get_default(call_default_factory=True)
    ]
    return ", ".join([name, *changed])


def speeds(journal: Sequence[Mapping[str, Any]], config: RunConfig) -> dict[str, dict[str, float]]:
    """Seconds and images/s by phase, from the lines that survived: work thrown away by a kill is not counted."""
    seconds: dict[str, float] = {}
    images: dict[str, float] = {}
    last: dict[str, int] = {}
    for line in journal:
        phase = line["phase"]
        train = config.gallery.train if phase in ("gallery", "together") else config.student_training
        count = (line["step"] - last.get(phase, 0)) * (train.batch_size if train else 0)
        last[phase] = line["step"]
        seconds[phase] = seconds.get(phase, 0.0) + count / max(line["images_per_s"], 1e-9)
        images[phase] = images.get(phase, 0.0) + count
    return {
        "durations_s": {phase: round(value, 1) for phase, value in seconds.items()},
        "images_per_s": {phase: round(images[phase] / max(seconds[phase], 1e-9), 1) for phase in seconds},
    }
