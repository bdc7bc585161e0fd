"""Runs in an environment that has litert-torch: turns a saved network into TFLite files.

A script, not imported by anyone (litert.py starts it): it needs litert-torch with what comes along, and nothing of
this project. Its arguments are the archive that ``torch.export.save`` wrote, the folder for the files, and the
precisions. It writes ``PRECISION.tflite`` for each, and ``answer.json``: the versions of what made them, or the step
that failed.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

# TFLite's own dynamic range leaves smaller tensors float, too.
LEAST_NUMBERS = 1024


def recipe_of(precision: str) -> list[dict[str, Any]]:
    """The recipe of ai-edge-quantizer for ``fp16`` (weights) or ``dynamic`` (int8 weights)."""
    if precision == "fp16":
        config = _config("FLOAT", 16, "TENSORWISE", "FLOAT", 0)
        kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        return [_rule(kind, "float_casting", config) for kind in kinds]
    by_channel, whole = (
        _config("INTEGER", 8, granularity, "INT", LEAST_NUMBERS) for granularity in ("CHANNELWISE", "TENSORWISE")
    )
    # The later rule wins. A scale for each row of a matrix is computed wrongly, in silence, by older runtimes.
    kind = "min_max_uniform_quantize"
    return [_rule("*", kind, by_channel), _rule("FULLY_CONNECTED", kind, whole)]


def _rule(operation: str, algorithm: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"regex": ".*", "operation": operation, "algorithm_key": algorithm, "op_config": config}


def _config(compute: str, bits: int, granularity: str, dtype: str, least: int) -> dict[str, Any]:
    weights = {"num_bits": bits, "symmetric": True, "granularity": granularity, "dtype": dtype, "block_size": 0}
    return {
        "weight_tensor_config": weights,
        "compute_precision": compute,
        "explicit_dequantize": compute == "FLOAT",
        "skip_checks": False,
        "min_weight_elements": least,
    }


def convert(archive: Path, folder: Path, precisions: list[str]) -> dict[str, Any]:
    """Write the files; ``tools``, or ``failed`` (``import``, ``load`` or ``convert``) and ``error``."""
    step = "import"
    try:
        import litert_torch
        import torch
        from ai_edge_quantizer.quantizer import Quantizer

        step = "load"
        program = torch.export.load(archive)
        step = "convert"
        plain = folder / "fp32.tflite"
        litert_torch.convert(program.module(), program.example_inputs[0]).export(str(plain))
        for precision in precisions:
            if precision != "fp32":
                quantised = Quantizer(str(plain), recipe_of(precision)).quantize().quantized_model
                (folder / f"{precision}.tflite").write_bytes(bytes(quantised))
    except Exception as error:  # whatever a library raises is an answer, too
        lines = [part.strip() for part in str(error).splitlines() if part.strip()]
        return {"failed": step, "error": f"{type(error).__name__}: {lines[0] if lines else 'no message'}"}
    names = {"litert-torch": "litert-torch", "ai-edge-quantizer": "ai-edge-quantizer", "torch of litert-torch": "torch"}
    return {"tools": {name: version(package) for name, package in names.items()}}


if __name__ == "__main__":
    result = convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    (Path(sys.argv[2]) / "answer.json").write_text(json.dumps(result), encoding="utf-8")
