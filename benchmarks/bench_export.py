"""Conversion against the bare converters on the same graph, verification, sizes and latency of the files."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters import export, verify
from exporters.calibration import Calibration
from exporters.convert import Converter
from exporters.fold import fold
from exporters.graph import GraphNetwork
from exporters.onnx import CameraNetwork
from exporters.quiet import quiet
from exporters.recipes import RECIPES
from exporters.tflite import emit
from exporters.trace import trace
from exporters.workers import RuntimeWorker
from hetero.models.arch import ArchSpec, Stage
from hetero.models.embed import colour_normalise
from hetero.models.network import build_network
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space

SIDE, DIM = 224, 128
SPEC = PreprocessSpec(height=SIDE, width=SIDE, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Sandler et al., MobileNetV2, CVPR 2018, table 2: width, depth (stride 2 from each stage to the next).
STAGES = ((16, 1), (24, 2), (32, 3), (96, 7), (160, 3))
CALIBRATION = 32
GOAL_CONVERSION, GOAL_VERIFY_S, GOAL_INT8, GOAL_LATENCY = 1.2, 60.0, 0.30, 1.05
CONVERSIONS, ROUNDS, RUNS = 3, 5, 20
CONVERTING_S = 15.0  # quick conversions are repeated for so long: three of a second each move by a tenth


def run() -> list[dict[str, object]]:
    """Ratios for each format and precision; the network's weights are random, which costs the same."""
    network = _network()
    graph = fold(trace(network, SPEC))
    pixels = _pictures(CALIBRATION)
    calibration = Calibration(pixels, pixels[:4])
    results: list[dict[str, object]] = []
    data: dict[str, bytes] = {}
    _warm(graph)
    for recipe in RECIPES:
        name = f"{recipe.format} {recipe.precision}"
        if name not in _BARE:
            continue
        pairs: list[tuple[float, float]] = []
        while len(pairs) < CONVERSIONS or sum(map(sum, pairs)) < CONVERTING_S:
            start = time.perf_counter()
            _BARE[name](graph, pixels)
            bare_s = time.perf_counter() - start
            start = time.perf_counter()
            data[name] = Converter(recipe, graph, {}, calibration).convert().data
            pairs.append((time.perf_counter() - start, bare_s))
        results.append(
            {
                "name": f"convert to {name}: seconds",
                "ratio": statistics.median(ours / bare for ours, bare in pairs),
                "against": f"the bare converter, {statistics.median(bare for _, bare in pairs):.1f} s",
                "goal": GOAL_CONVERSION,
                "better": "lower",
            }
        )
    for format, small in (("onnx", "int8"), ("tflite", "int8"), ("coreml", "int8w")):
        results.append(
            {
                "name": f"bytes of {format} {small}",
                "ratio": len(data[f"{format} {small}"]) / len(data[f"{format} fp32"]),
                "against": "fp32",
                "goal": GOAL_INT8,
                "better": "lower",
            }
        )
    results += _latency(network, data, pixels)
    results += _litert_latency(network, data, pixels)
    results.append(_verification(network))
    return results


def _network() -> nn.Module:
    arch = ArchSpec(
        size=SIDE,
        channels=3,
        dim=DIM,
        block="inverted_residual",
        stem_width=32,
        stages=tuple(Stage(width=width, depth=depth, expansion=6.0) for width, depth in STAGES),
    )
    network = build_network(arch, seed=0)
    network.train()
    with torch.no_grad():  # batch statistics of real activations
        for _ in range(3):
            network(colour_normalise(torch.from_numpy(_pictures(8)), SPEC))
    return network.eval()


def _pictures(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def _bare_onnx(graph: Any, pixels: np.ndarray) -> bytes:
    network = CameraNetwork(graph, torch.float32).eval()
    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    with quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=18,
            input_names=["image"],
            output_names=["embedding"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def _bare_onnx_int8(graph: Any, pixels: np.ndarray) -> bytes:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader:
        def __init__(self) -> None:
            self.batches = iter([pixels[start : start + 32] for start in range(0, len(pixels), 32)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    with tempfile.TemporaryDirectory() as folder, quiet():
        source, prepared, result = (str(Path(folder) / name) for name in ("a.onnx", "b.onnx", "c.onnx"))
        Path(source).write_bytes(_bare_onnx(graph, pixels))
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return Path(result).read_bytes()


def _bare_tflite(precision: str) -> Callable[[Any, np.ndarray], bytes]:
    def convert(graph: Any, pixels: np.ndarray) -> bytes:
        import tensorflow as tf

        with quiet():
            function, root = emit(graph)
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function], root)
            if precision != "fp32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if precision == "fp16":
                converter.target_spec.supported_types = [tf.float16]
            if precision == "int8":
                converter.representative_dataset = lambda: ([picture[None].astype(np.float32)] for picture in pixels)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            return bytes(converter.convert())

    return convert


def _bare_coreml(precision: str) -> Callable[[Any, np.ndarray], bytes]:
    def convert(graph: Any, pixels: np.ndarray) -> bytes:
        import coremltools as ct
        import coremltools.optimize.coreml as optimize

        shape = (1, 3, SIDE, SIDE)
        compute = ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16
        with quiet(), torch.no_grad():
            trace_: Any = torch.jit.trace
            traced = trace_(GraphNetwork(graph).eval(), (torch.zeros(shape),), check_trace=False)
            model = ct.convert(
                traced,
                convert_to="mlprogram",
                inputs=[ct.ImageType(name="image", shape=shape)],
                outputs=[ct.TensorType(name="embedding", dtype=np.float32)],
                compute_precision=compute,
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
            if precision == "int8w":
                each = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=0)
                model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=each))
            if precision == "palette6":
                palette = optimize.OpPalettizerConfig(mode="kmeans", nbits=6, weight_threshold=0)
                model = optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=palette))
        return bytes(model.get_spec().SerializeToString())

    return convert


_BARE: dict[str, Callable[[Any, np.ndarray], bytes]] = {
    "onnx fp32": _bare_onnx,
    "onnx int8": _bare_onnx_int8,
    **{f"tflite {precision}": _bare_tflite(precision) for precision in ("fp32", "fp16", "dynamic", "int8")},
    **{f"coreml {precision}": _bare_coreml(precision) for precision in ("fp32", "fp16", "int8w", "palette6")},
}


def _warm(graph: Any) -> None:
    """Imports, and what a converter does once in a process, count for neither side."""
    small = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    for name in ("onnx fp32", "tflite fp32", "coreml fp32"):
        _BARE[name](graph, small)


class _Whole(nn.Module):
    """What someone exports who folds nothing: colours, network, length, one after the other."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(SPEC.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(SPEC.std).reshape(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = (image.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return nn.functional.normalize(self.network(x))


def _latency(network: nn.Module, data: dict[str, bytes], pixels: np.ndarray) -> list[dict[str, object]]:
    """Milliseconds a picture of our ONNX file against the plain exporter's of the same network, interleaved."""
    with quiet():
        program = torch.onnx.export(
            _Whole(network).eval(),
            (torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8),),
            dynamo=True,
            external_data=False,
            input_names=["image"],
            output_names=["embedding"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    peer = bytes(program.model_proto.SerializeToString())
    ratio, peer_ms = _interleaved("onnxruntime", data["onnx fp32"], peer, pixels, max_abs=1e-5)
    return [_latency_row("onnx fp32", ratio, f"torch.onnx.export of the unfolded network, {peer_ms:.1f} ms")]


def _interleaved(
    runtime: str, ours: bytes, theirs: bytes, pixels: np.ndarray, *, max_abs: float
) -> tuple[float, float]:
    """Median ratio of our file's milliseconds a picture to the peer's, and the peer's; both must embed alike."""
    with RuntimeWorker(runtime) as mine, RuntimeWorker(runtime) as peer:
        mine.open(ours)
        peer.open(theirs)
        np.testing.assert_allclose(mine.run(pixels[:2]), peer.run(pixels[:2]), atol=max_abs)
        pairs = [(statistics.median(mine.time_ms(RUNS)), statistics.median(peer.time_ms(RUNS))) for _ in range(ROUNDS)]
    return statistics.median(a / b for a, b in pairs), statistics.median(b for _, b in pairs)


def _latency_row(name: str, ratio: float, against: str) -> dict[str, object]:
    return {"name": f"latency of {name}", "ratio": ratio, "against": against, "goal": GOAL_LATENCY, "better": "lower"}


_LITERT_TORCH = """
import sys, torch, litert_torch
from ai_edge_quantizer import quantizer, recipe
program = torch.export.load(sys.argv[1])
litert_torch.convert(program.module(), program.example_inputs[0]).export(sys.argv[2])
quantised = quantizer.Quantizer(sys.argv[2], recipe.dynamic_wi8_afp32()).quantize().quantized_model
open(sys.argv[3], "wb").write(bytes(quantised))
"""


def _litert_latency(network: nn.Module, data: dict[str, bytes], pixels: np.ndarray) -> list[dict[str, object]]:
    """Milliseconds a picture of our TFLite files against litert-torch's own of the same network, interleaved."""
    python = os.environ.get("HETERO_LITERT_TORCH")
    if python is None:
        print("latency against litert-torch: left out, HETERO_LITERT_TORCH names no Python that has it")
        return []
    with tempfile.TemporaryDirectory() as folder:
        archive, fp32, dynamic = (Path(folder) / name for name in ("network.pt2", "fp32.tflite", "dynamic.tflite"))
        with quiet(), torch.no_grad():
            program = torch.export.export(_Whole(network).eval(), (torch.zeros(1, SIDE, SIDE, 3),))
            torch.export.save(program, archive)
        command = [python, "-I", "-c", _LITERT_TORCH, *map(str, (archive, fp32, dynamic))]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        peers = {"fp32": (fp32.read_bytes(), 1e-5), "dynamic": (dynamic.read_bytes(), 0.1)}
    rows = []
    for precision, (peer, max_abs) in peers.items():
        ratio, peer_ms = _interleaved("ai-edge-litert", data[f"tflite {precision}"], peer, pixels, max_abs=max_abs)
        against = f"litert-torch of the unfolded network ({precision}), {peer_ms:.1f} ms"
        rows.append(_latency_row(f"tflite {precision}", ratio, against))
    return rows


def _verification(network: nn.Module) -> dict[str, object]:
    """Seconds to verify every file on 100 pictures, in proportion to those on 64, the most that a bundle has."""
    space = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
    golden, asked = 64, 100
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(
            network,
            Path(folder) / "bench.hetero",
            preprocess=SPEC,
            space=space,
            golden_images=_pictures(golden),
            calibration=_pictures(CALIBRATION),
            formats=("onnx", "tflite", "coreml"),
            precisions=("fp32", "fp16", "dynamic", "int8", "int8w", "palette6"),
            allow=("tensor", "cosine"),  # of random weights
        )
        start = time.perf_counter()
        report = verify(bundle.path)
        seconds = time.perf_counter() - start
    assert report.passed
    return {
        "name": f"verify {len(bundle.manifest.files)} files on {asked} pictures of {SIDE} px",
        "ratio": seconds * asked / golden / GOAL_VERIFY_S,
        "against": f"{GOAL_VERIFY_S:g} s; {seconds:.0f} s on {golden} pictures",
        "goal": 1.0,
        "better": "lower",
    }
