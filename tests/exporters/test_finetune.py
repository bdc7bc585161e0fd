"""Fine-tuning to rounded numbers: it recovers what rounding costs, and is used where nothing else passes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporters import export
from exporters.finetune import FineTuning, finetuned
from exporters.fold import fold
from exporters.graph import GraphNetwork
from exporters.parity import compare, reference_embeddings
from exporters.quantize import QuantizedNetwork, Scheme, as_image, observe
from exporters.recipes import RECIPES
from exporters.trace import trace
from hetero.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parent))
from networks import SPEC, wide
from pictures import search, smooth
from test_faults import SPACE

COARSE = Scheme(3, None)  # three bits: rounding costs ten times what eight cost


def test_fine_tuning_recovers_what_coarse_weights_lose_on_pictures_it_never_saw() -> None:
    network = wide()
    graph = fold(trace(network, SPEC))
    pixels, unseen = smooth(480, SPEC, classes=240, seed=2), smooth(96, SPEC, classes=24, seed=1)
    targets, expected = (reference_embeddings(network, images, SPEC) for images in (pixels, unseen))
    lines: list[str] = []
    tuning = FineTuning(pixels, targets, epochs=4, batch_size=48, rate=1e-3)
    tuned = finetuned(graph, COARSE, pixels[:64], tuning, say=lines.append)
    assert len(lines) == 4

    def lost(candidate: Any, scheme: Scheme | None = COARSE) -> float:
        with torch.no_grad():
            quantised = (
                GraphNetwork(candidate)
                if scheme is None
                else QuantizedNetwork(candidate, observe(candidate, pixels[:64]), scheme)
            )
            return 1 - compare(expected, quantised(as_image(unseen)).numpy()).mean_cosine

    assert lost(tuned) < 0.7 * lost(graph)
    shuffled = FineTuning(pixels, np.roll(targets, 1, axis=0), epochs=4, batch_size=48, rate=1e-3)
    assert lost(finetuned(graph, COARSE, pixels[:64], shuffled)) > lost(graph)  # the targets are what teaches
    assert lost(graph, None) < 1e-6  # the graph it was given is as it was


def test_fine_tuning_twice_gives_the_same_weights() -> None:
    network = wide()
    graph = fold(trace(network, SPEC))
    pixels = smooth(96, SPEC)
    tuning = FineTuning(pixels, reference_embeddings(network, pixels, SPEC), epochs=1, batch_size=48)
    first, second = (finetuned(graph, COARSE, pixels, tuning) for _ in range(2))
    for one, other, before in zip(first.operations, second.operations, graph.operations, strict=True):
        for name in one.weights:
            assert torch.equal(one.weights[name], other.weights[name])
            assert not torch.equal(one.weights[name], before.weights[name])


def test_export_fine_tunes_where_no_number_of_float_layers_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a tuned network may pass here: the first one's files are all measured as failing."""
    network, lines = wide(), list[str]()
    pixels = smooth(96, SPEC, classes=24, seed=1)
    strict = tuple(
        recipe if recipe.precision != "int8" else type(recipe)(**{**vars(recipe), "limits": {"min_cosine": 1.1}})
        for recipe in RECIPES
    )
    monkeypatch.setattr("exporters.recipes.RECIPES", strict)
    options: dict[str, Any] = {
        "preprocess": SPEC,
        "space": SPACE,
        "precisions": ["fp32", "int8"],
        "calibration": pixels,
        "retrieval": search(lambda images: reference_embeddings(network, images, SPEC), SPEC),
        "leave_out": True,
        "say": lines.append,
    }
    tuning = FineTuning(pixels, reference_embeddings(network, pixels, SPEC), epochs=1, batch_size=48)
    export(network, tmp_path / "a.hetero", **options)
    assert not any("fine-tuning" in line for line in lines)
    tuned = export(network, tmp_path / "a.hetero", finetuning=tuning, **options)
    assert any("fine-tuning, epoch 1 of 1" in line for line in lines)
    [left_out] = tuned.manifest.blocked  # a limit that nothing keeps
    assert left_out.precision == "int8"
    assert left_out.kept_float
    assert set(left_out.kept_float) <= {layer.name for layer in left_out.layers}


def test_targets_must_fit_the_pictures() -> None:
    pixels = smooth(96, SPEC)
    with pytest.raises(ConfigError, match=r"one gallery embedding for each picture.*got 96 pictures, 95 embeddings"):
        FineTuning(pixels, np.zeros((95, 12), np.float32))
    with pytest.raises(ConfigError, match="at least 128"):
        FineTuning(pixels, np.zeros((96, 12), np.float32), batch_size=128)
