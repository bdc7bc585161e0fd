"""One real export with everything measured, for the tests of what is shown of a bundle."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from exporters import Bundle
from exporters.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def measured(needs: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """ONNX and TFLite, fp32 and int8, with a retrieval test and thresholds."""
    needs("tensorflow")
    from measured import measured_bundle

    return measured_bundle(tmp_path_factory.mktemp("measured"))


@pytest.fixture(scope="session")
def varied(measured: Bundle) -> Manifest:
    """The same with every verdict: ONNX int8 keeps two layers in float and was allowed a rung, TFLite int8 is left
    out though it kept one, and one runtime is wrong for TFLite fp32.
    """
    content: dict[str, Any] = json.loads(measured.raw)
    _, onnx_int8, tflite, left_out = content["files"]
    onnx_int8["kept_float"] = [layer["name"] for layer in onnx_int8["layers"][:2]]
    onnx_int8["ladder"][3] |= {"status": "allowed", "measured": {"lost": 0.0625, "won": 0.0}}
    tflite["runtimes"][-1] |= {"right": False, "reason": "max_abs 0.25 of this runtime"}
    content["files"].pop()
    entry = {key: left_out[key] for key in ("format", "precision", "recipe", "attempts", "ladder", "layers")}
    entry["ladder"][2] |= {"status": "failed"}
    entry["ladder"][2]["measured"] |= {"r_at_1_delta": -0.0417, "r_at_1_low": -0.1042, "r_at_1_high": 0.0}
    entry["kept_float"] = [layer["name"] for layer in left_out["layers"][:1]]
    content["blocked"] = [{**entry, "reason": "retrieval: r_at_1_delta -0.0417: calibrate on other pictures"}]
    return Manifest.model_validate_json(json.dumps(content))
