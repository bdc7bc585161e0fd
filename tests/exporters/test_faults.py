"""Mistakes that exporters make, each made on purpose: the ladder must refuse the file and name the likely cause."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from exporters import export
from exporters.calibration import Calibration
from exporters.fold import fold
from exporters.graph import Graph
from exporters.onnx import CameraNetwork
from exporters.parity import reference_embeddings
from exporters.recipes import RECIPES
from exporters.tflite import annotated, operators, parsed
from exporters.trace import trace
from hetero.errors import ConfigError, ExportError
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent))
from networks import DIM, SPEC, SQUARE, family, wide
from pictures import search, smooth
from test_quantize import spoilt

SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)


def swapped_channels(graph: Graph) -> Graph:
    """What the file computes if it takes BGR: colour normalisation and first filters in the other order."""
    colour, conv, *rest = graph.operations
    assert (colour.kind, conv.kind) == ("affine", "conv")
    flipped = {name: tensor.flip(0) for name, tensor in colour.weights.items()}
    weights = {**conv.weights, "weight": conv.weights["weight"].flip(1)}
    return Graph(graph.shape, (replace(colour, weights=flipped), replace(conv, weights=weights), *rest))


def without_length(graph: Graph) -> Graph:
    assert graph.operations[-1].kind == "unit_length"
    return Graph(graph.shape, graph.operations[:-1])


def shifted(mean: float) -> Callable[[nn.Module, PreprocessSpec], Graph]:
    def traced(network: nn.Module, spec: PreprocessSpec) -> Graph:
        return trace(network, spec.model_copy(update={"mean": tuple(value + mean for value in spec.mean)}))

    return traced


def no_colours(network: nn.Module, spec: PreprocessSpec) -> Graph:
    return trace(network, spec.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3}))


@pytest.mark.parametrize("format", ["onnx", "tflite", "coreml"])
@pytest.mark.parametrize(
    ("traced", "cause"),
    [
        (lambda network, spec: swapped_channels(trace(network, spec)), "channels in the order BGR"),
        (
            lambda network, spec: without_length(trace(network, spec)),
            "normalisation to unit length at the end",
        ),
        (shifted(16 / 255), r"mean is wrong, by about \+16 grey levels"),
        (no_colours, "divides by 255 but applies neither mean nor std"),
    ],
    ids=["channels", "length", "mean", "colours"],
)
def test_a_wrong_graph_is_refused_and_its_mistake_named(
    format: str,
    traced: Callable[[nn.Module, PreprocessSpec], Graph],
    cause: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    needs: Callable[[str], ModuleType],
) -> None:
    needs({"onnx": "onnx", "tflite": "tensorflow", "coreml": "coremltools"}[format])
    monkeypatch.setattr("exporters.pipeline.trace", traced)
    with pytest.raises(ExportError, match=rf"does not reproduce the torch model.*fix: .*{cause}"):
        export(wide(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, formats=[format])
    assert list(tmp_path.iterdir()) == []


def rows_for_columns(image: Tensor) -> Tensor:
    return image.permute(0, 3, 2, 1)


def bytes_as_nchw(image: Tensor) -> Tensor:
    return image.reshape(image.shape[0], 3, 16, 16)


@pytest.mark.parametrize(
    ("layout", "cause"),
    [(rows_for_columns, "the picture is transposed"), (bytes_as_nchw, "reads the bytes as NCHW")],
)
def test_a_wrong_layout_is_refused_and_named(
    layout: Callable[[Tensor], Tensor], cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CameraNetwork, "forward", lambda self, image: self.network(layout(image).to(torch.float32)))
    space = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SQUARE.fingerprint(), dim=DIM)
    with pytest.raises(ExportError, match=rf"does not reproduce.*fix: .*{cause}"):
        export(family(), tmp_path / "a.hetero", preprocess=SQUARE, space=space)


def noise(count: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 12, 3), dtype=np.uint8)


def dim(count: int = 96) -> np.ndarray:
    """Real pictures, but of a night: nothing brighter than 3."""
    return smooth(count, SPEC, classes=24, seed=1) // 64


def export_int8(tmp_path: Path, calibration: np.ndarray, format: str = "onnx", **options: Any) -> Any:
    network = wide()
    found = search(lambda pixels: reference_embeddings(network, pixels, SPEC), SPEC)
    options = {"preprocess": SPEC, "space": SPACE, "retrieval": found, "calibration": calibration, **options}
    return export(network, tmp_path / "a.hetero", formats=[format], precisions=["int8"], **options)


@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_calibration_on_pictures_of_another_kind_is_refused_and_named(
    format: str, tmp_path: Path, needs: Callable[[str], ModuleType]
) -> None:
    needs("tensorflow")
    with pytest.raises(ExportError, match=r"calibration pictures are unlike those embedded.*times narrower"):
        export_int8(tmp_path, dim(), format)
    assert export_int8(tmp_path, smooth(96, SPEC, classes=24, seed=1), format).manifest.calibration.pictures == 84


def test_random_calibration_is_refused_before_anything_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.convert._convert", lambda *_: pytest.fail("converted"))
    with pytest.raises(ConfigError, match=r"look like noise; got a correlation of -?0\.0.*calibrate on real pictures"):
        export_int8(tmp_path, noise())


def test_random_calibration_that_gets_by_is_caught_by_the_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise of another contrast: colours that never come, which averages out in every layer."""
    grey = 118 + noise() // 16
    monkeypatch.setattr("exporters.pipeline.read_calibration", lambda *_: Calibration(grey[:84], grey[84:]))
    with pytest.raises(ExportError, match="calibration pictures are unlike those embedded"):
        export_int8(tmp_path, grey)


def test_int8_without_calibration_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"onnx int8 needs calibration pictures; got none.*fix: pass calibration="):
        export(wide(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, precisions=["int8"])


def test_what_tflite_runtime_computes_wrongly_is_not_claimed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: Callable[[str], ModuleType]
) -> None:
    """A file whose operators claim older versions than they need: 2.14 takes it and computes nonsense in silence."""
    tf = needs("tensorflow")
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime has no wheel for Python 3.12")
    graph = fold(trace(wide(), SPEC))

    def too_new(*_: object) -> Callable[..., tuple[bytes, dict[str, int]]]:
        from tensorflow.lite.tools import flatbuffer_utils

        from exporters.tflite import emit

        function, root = emit(graph)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], root)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        model = parsed(bytes(converter.convert()))  # a scale for each row of a matrix: version 12 of the operator
        dense = [operator.opcodeIndex for kind, operator in operators(model) if kind == "FULLY_CONNECTED"]
        assert model.operatorCodes[dense[0]].version == 12
        model.operatorCodes[dense[0]].version = 9
        data = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
        metadata = {"hetero.space_id": SPACE.id, "hetero.preprocess_fingerprint": SPEC.fingerprint()}
        return lambda _: annotated(data, graph.shape, metadata)

    monkeypatch.setattr("exporters.convert._convert", too_new)
    bundle = export(
        wide(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, formats=["tflite"], precisions=["dynamic"]
    )
    [file] = bundle.manifest.files
    results = {result.name: result for result in file.runtimes}
    assert [name for name, result in results.items() if result.right] == ["ai-edge-litert", "tensorflow"]
    wrong = results["tflite-runtime"]
    assert wrong.parity is not None, wrong.reason  # it answered
    assert wrong.parity.mean_cosine < 0.98
    assert "mean_cosine" in (wrong.reason or "")


def test_a_spoilt_network_is_saved_by_the_layers_kept_in_float(
    tmp_path: Path, needs: Callable[[str], ModuleType]
) -> None:
    """One filter 300 times too large: int8 fails, and one or two layers in float mend it in either format."""
    needs("tensorflow")
    network, lines = spoilt(), list[str]()
    pixels = smooth(96, SPEC, classes=24, seed=1)
    found = search(lambda images: reference_embeddings(network, images, SPEC), SPEC)
    bundle = export(
        network,
        tmp_path / "a.hetero",
        preprocess=SPEC,
        space=SPACE,
        formats=["onnx", "tflite"],
        precisions=["int8"],
        calibration=pixels,
        retrieval=found,
        say=lines.append,
    )
    for file in bundle.manifest.files:
        assert 1 <= len(file.kept_float) <= 2
        assert file.layers[0].name in file.kept_float
        assert file.content.int8_layers < file.content.layers
        assert file.measured("mean_cosine") > 0.98
    assert sum("keeping layers in float" in line for line in lines) == 2


def test_a_file_that_fails_is_left_out_with_its_evidence_or_allowed_by_name(tmp_path: Path) -> None:
    """A limit that no file keeps."""
    strict = tuple(
        replace(recipe, limits={**recipe.limits, "mean_cosine": 1.1}) if recipe.precision == "int8" else recipe
        for recipe in RECIPES
    )
    pixels = smooth(96, SPEC, classes=24, seed=1)
    options: dict[str, Any] = {"preprocess": SPEC, "space": SPACE, "calibration": pixels}
    options["precisions"] = ["fp32", "int8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporters.recipes.RECIPES", strict)
        with pytest.raises(ExportError, match=r"int8 model does not.*layers that lose most alone: \w+ 0\.9"):
            export(wide(), tmp_path / "a.hetero", **options)
        bundle = export(wide(), tmp_path / "a.hetero", leave_out=True, **options)
        assert [file.precision for file in bundle.manifest.files] == ["fp32"]
        [blocked] = bundle.manifest.blocked
        assert (blocked.format, blocked.precision, blocked.recipe) == ("onnx", "int8", "static_wi8_ai8")
        assert {rung.rung: rung.status for rung in blocked.ladder}["cosine"] == "failed"
        assert len(blocked.layers) > 3
        allowed = export(wide(), tmp_path / "a.hetero", allow=["cosine"], **options)
        assert [file.precision for file in allowed.manifest.files] == ["fp32", "int8"]
        statuses = {rung.rung: rung.status for rung in allowed.manifest.files[1].ladder}
        assert (statuses["tensor"], statuses["cosine"]) == ("no limit", "allowed")
        assert allowed.manifest.files[1].kept_float == ()
    from exporters import verify

    assert verify(tmp_path / "a.hetero").passed
    with pytest.raises(ConfigError, match=r"unknown rung of the ladder; got 'cosin'; expected .*cosine"):
        export(wide(), tmp_path / "b.hetero", allow=["cosin"], **options)


def test_layers_are_ranked_on_held_back_calibration_pictures_never_on_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters import maker

    ranked: list[np.ndarray] = []

    def noting(*arguments: Any) -> Any:
        ranked.append(arguments[-1])
        return layer_errors(*arguments)

    layer_errors = maker.layer_errors
    monkeypatch.setattr(maker, "layer_errors", noting)
    pixels = smooth(96, SPEC, seed=2)  # other pictures than those that are searched
    bundle = export_int8(tmp_path, pixels)
    [found] = ranked
    np.testing.assert_array_equal(found, pixels[7::8])
    [file] = bundle.manifest.files
    assert file.attempts == 1
    # 8 of the 12 pictures held back are golden and are not compared twice, and the 64 queries are all different.
    assert file.runtimes[0].parity.images == 8 + 4 + 64


def test_an_output_of_integers_must_have_the_scale_and_zero_point_of_the_manifest(
    tmp_path: Path, needs: Callable[[str], ModuleType]
) -> None:
    """A phone brings embeddings back with the manifest's numbers; the runtimes here use the file's own."""
    import json

    from exporters import verify
    from exporters.bundle import seal_of

    needs("tensorflow")
    options: dict[str, Any] = {"preprocess": SPEC, "space": SPACE, "formats": ["tflite"], "precisions": ["int8io"]}
    bundle = export(
        wide(), tmp_path / "a.hetero", calibration=smooth(96, SPEC, classes=24, seed=1), allow=["cosine"], **options
    )
    assert verify(bundle.path).passed
    for key, wrong in (("zero_point", 60), ("scale", 0.5)):
        manifest = json.loads(bundle.raw)
        manifest["files"][0]["output"][key] = wrong
        raw = json.dumps(manifest).encode()
        (bundle.path / "manifest.json").write_bytes(raw)
        (bundle.path / "bundle.sha256").write_bytes(seal_of(raw))
        failed = [check for check in verify(bundle.path).checks if not check.passed]
        assert {check.name for check in failed} == {"runtime"}
        assert all("something else than declared" in check.detail for check in failed)
