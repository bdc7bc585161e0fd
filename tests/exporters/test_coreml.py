"""Core ML files of real networks, converted by coremltools and computed by the reference: never by Apple's runtime."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from exporters import export, open_bundle, verify, workers
from exporters.coreml import operations_of, to_coreml
from exporters.fold import fold
from exporters.manifest import FileInput
from exporters.mlpackage import Package, read_archive, write_archive
from exporters.parity import compare, probe_pixels, reference_embeddings
from exporters.recipes import FP32_MAX_ABS
from exporters.runtimes import PREPROCESS_KEY, SPACE_KEY
from exporters.trace import trace
from exporters.workers import RuntimeWorker
from hetero.errors import ExportError, MissingExtraError
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent))
from networks import DIM, NETWORKS, SPEC, mixed
from test_tflite import reseal

SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
PRECISIONS = ("fp32", "fp16", "int8w", "palette6")
NAMED = {SPACE_KEY: SPACE.id, PREPROCESS_KEY: SPEC.fingerprint()}


@pytest.fixture(scope="module", autouse=True)
def coremltools(needs: Callable[[str], ModuleType]) -> ModuleType:
    needs("sklearn")
    return needs("coremltools")


@pytest.fixture(scope="module")
def reference(coremltools: ModuleType) -> Iterator[RuntimeWorker]:
    with RuntimeWorker("mil-reference") as worker:
        yield worker


@functools.cache
def converted(name: str, precision: str) -> tuple[bytes, dict[str, int]]:
    make, spec = NETWORKS[name]
    return to_coreml(fold(trace(make(), spec)), precision, NAMED)


def spec_of(data: bytes) -> Any:
    from coremltools.proto import Model_pb2

    return Model_pb2.Model.FromString(read_archive(data, where="the file").model)


@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_every_precision_compute_what_torch_does(name: str, reference: RuntimeWorker) -> None:
    make, spec = NETWORKS[name]
    pixels = probe_pixels((spec.height, spec.width, spec.channels))
    expected = reference_embeddings(make(), pixels, spec)
    found = {}
    for precision in PRECISIONS:
        data, _ = converted(name, precision)
        signature = reference.open(data)
        assert signature["input"] == {
            "name": "image",
            "dtype": "image",
            "shape": [1, spec.height, spec.width, spec.channels],
        }
        assert signature["output"] == {"name": "embedding", "dtype": "float32", "shape": [1, DIM]}
        vectors = reference.run(pixels)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)  # in float32 at every precision
        found[precision] = compare(expected, vectors)
    assert found["fp32"].max_abs < FP32_MAX_ABS
    assert found["fp16"].min_cosine >= 0.999
    assert found["int8w"].mean_cosine >= 0.98
    assert found["palette6"].mean_cosine >= 0.98
    cosines = [found[precision].mean_cosine for precision in PRECISIONS]
    assert cosines == sorted(cosines, reverse=True)
    assert len(set(cosines)) == 4  # no precision was silently left at the one before


@pytest.mark.parametrize("name", NETWORKS)
def test_compressed_weights_take_the_bytes_that_their_names_say(name: str) -> None:
    """Counted in the protobuf: bytes of the layers' weights, against their number."""
    counts, sizes = {}, {}
    for precision in PRECISIONS:
        operations = operations_of(spec_of(converted(name, precision)[0]))
        makers = {operation.outputs[0].name: operation for operation in operations}
        layers = [operation for operation in operations if operation.type in ("conv", "linear")]
        number, size = 0, 0.0
        for layer in layers:
            maker = makers[layer.inputs["weight"].arguments[0].name]
            number += int(np.prod([side.constant.size for side in maker.outputs[0].type.tensorType.dimensions]))
            key = {"const": "val", "constexpr_affine_dequantize": "quantized_data"}.get(maker.type, "indices")
            stored = maker.attributes[key].type.tensorType
            width = {11: 4, 10: 2, 21: 1, 31: 1}[stored.dataType]
            size += width * int(np.prod([side.constant.size for side in stored.dimensions]))
        counts[precision], sizes[precision] = number, size / number
    assert len(set(counts.values())) == 1
    assert (sizes["fp32"], sizes["fp16"], sizes["int8w"]) == (4, 2, 1)
    assert 0.75 <= sizes["palette6"] < 0.78  # six bits, and what fills up a layer's last byte
    ops = converted(name, "int8w")[1]
    assert ops["constexpr_affine_dequantize"] == ops["conv"] + ops["linear"]
    ops = converted(name, "palette6")[1]
    assert ops["constexpr_lut_to_dense"] == ops["conv"] + ops["linear"]


def test_a_large_networks_weights_file_shrinks_as_its_precision_says() -> None:
    sizes = {
        precision: len(read_archive(converted("family-residual", precision)[0], where="the file").weights)
        for precision in PRECISIONS
    }
    assert sizes["fp16"] < 0.52 * sizes["fp32"]
    assert sizes["int8w"] < 0.6 * sizes["fp16"]
    assert sizes["palette6"] < 0.9 * sizes["int8w"]


def test_int8_weights_have_a_scale_for_each_channel_and_no_zero_point() -> None:
    for operation in operations_of(spec_of(converted("mixed", "int8w")[0])):
        if operation.type == "constexpr_affine_dequantize":
            channels = operation.attributes["quantized_data"].type.tensorType.dimensions[0].constant.size
            assert operation.attributes["scale"].type.tensorType.dimensions[0].constant.size == channels
            zeros = operation.attributes["zero_point"]
            assert not any(zeros.immediateValue.tensor.bytes.values)


def test_the_file_is_what_an_app_expects() -> None:
    spec = spec_of(converted("mixed", "fp16")[0])
    assert spec.specificationVersion == 7  # iOS 16, macOS 13
    [source], [result] = spec.description.input, spec.description.output
    assert (source.name, source.type.imageType.width, source.type.imageType.height) == ("image", 12, 16)
    assert source.type.imageType.colorSpace == 20  # RGB
    assert (result.name, result.type.multiArrayType.dataType) == ("embedding", 65568)  # FLOAT32
    assert list(result.type.multiArrayType.shape) == [1, DIM]
    assert dict(spec.description.metadata.userDefined) == NAMED  # and no date
    kinds = {o.type: o.outputs[0].type.tensorType.dataType for o in operations_of(spec)}
    assert (kinds["conv"], kinds["linear"], kinds["reduce_l2_norm"], kinds["real_div"]) == (10, 10, 11, 11)


def test_pictures_go_in_as_they_are_with_neither_scale_nor_bias() -> None:
    operations = operations_of(spec_of(converted("mixed", "fp32")[0]))
    first = next(operation for operation in operations if operation.type != "const")
    assert first.type == "add"  # the mean, which zero padding keeps in front; the scale is in the weights
    values = next(o for o in operations if o.outputs[0].name == first.inputs["y"].arguments[0].name)
    np.testing.assert_allclose(
        values.attributes["val"].immediateValue.tensor.floats.values, -255 * np.array(SPEC.mean), rtol=1e-6
    )


def test_a_network_of_one_channel_takes_grayscale_pictures(reference: RuntimeWorker) -> None:
    torch.manual_seed(0)
    spec = PreprocessSpec(height=9, width=8, channels=1, mean=(0.3,), std=(0.2,))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(168, 5)).eval()
    data, _ = to_coreml(fold(trace(network, spec)), "fp32", {})
    assert spec_of(data).description.input[0].type.imageType.colorSpace == 10  # GRAYSCALE
    assert reference.open(data)["input"]["shape"] == [1, 9, 8, 1]
    pixels = probe_pixels((9, 8, 1))
    assert compare(reference_embeddings(network, pixels, spec), reference.run(pixels)).max_abs < FP32_MAX_ABS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_converting_twice_gives_the_same_bytes(precision: str) -> None:
    assert to_coreml(fold(trace(mixed(), SPEC)), precision, NAMED) == converted("mixed", precision)


def test_another_process_gives_the_same_bytes() -> None:
    """Which has converted nothing before, and hashes strings with another seed."""
    folder = str(Path(__file__).parent)
    code = f"""
import hashlib, sys
sys.path.insert(0, {folder!r})
from networks import SPEC, mixed
from exporters.coreml import to_coreml
from exporters.fold import fold
from exporters.trace import trace
sys.stdout.write(hashlib.sha256(to_coreml(fold(trace(mixed(), SPEC)), "palette6", {NAMED!r})[0]).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == hashlib.sha256(converted("mixed", "palette6")[0]).hexdigest()


def test_one_changed_weight_is_seen(reference: RuntimeWorker) -> None:
    pixels = probe_pixels((SPEC.height, SPEC.width, SPEC.channels))
    expected = reference_embeddings(mixed(), pixels, SPEC)
    package = read_archive(converted("mixed", "fp32")[0], where="the file")
    linear = next(o for o in operations_of(spec_of(converted("mixed", "fp32")[0])) if o.type == "linear")
    [stored] = [
        o.attributes["val"].blobFileValue
        for o in operations_of(spec_of(converted("mixed", "fp32")[0]))
        if o.outputs[0].name == linear.inputs["weight"].arguments[0].name
    ]
    place = int.from_bytes(package.weights[stored.offset + 16 : stored.offset + 24], "little")
    weights = bytearray(package.weights)
    value = np.frombuffer(package.weights, np.float32, 1, place) + np.float32(0.01)
    weights[place : place + 4] = value.tobytes()
    reference.open(write_archive(Package(package.model, bytes(weights))))
    assert compare(expected, reference.run(pixels)).max_abs > 10 * FP32_MAX_ABS


def test_a_layer_that_stays_in_float_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1, groups=3), nn.Flatten(), nn.Linear(576, 4)).eval()
    graph = fold(trace(network, SPEC))
    for precision, kind in (("int8w", "constexpr_affine_dequantize"), ("palette6", "constexpr_lut_to_dense")):
        with pytest.raises(ExportError, match=f"weights are not all {precision}; got .*: const; expected {kind}"):
            to_coreml(graph, precision, {})
    assert to_coreml(graph, "fp16", {})[1]["conv"] == 1


def test_a_network_without_weights_worth_a_file_is_refused() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    with pytest.raises(ExportError, match="the network is too small for a Core ML package"):
        to_coreml(fold(trace(network, SPEC)), "fp32", {})


@pytest.mark.parametrize(("module", "package"), [("coremltools", "coremltools"), ("sklearn.cluster", "scikit-learn")])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    graph = fold(trace(mixed(), SPEC))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{package}.*hetero\[coreml\]"):
        to_coreml(graph, "palette6", {})


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    to_coreml(fold(trace(mixed(), SPEC)), "palette6", {})
    assert capfd.readouterr() == ("", "")


def test_apples_runtime_is_installed_on_macos_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert not workers.is_installed("coreml")
    assert workers.is_installed("mil-reference")
    with pytest.raises(MissingExtraError, match=r"running a model in coreml needs the package 'coremltools'"):
        RuntimeWorker("coreml")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert workers.is_installed("coreml")


@pytest.mark.skipif(sys.platform != "darwin", reason="Apple's runtime is part of macOS")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_apples_runtime_agrees_with_the_reference(precision: str, reference: RuntimeWorker) -> None:
    pixels = probe_pixels((SPEC.height, SPEC.width, SPEC.channels))
    data, _ = converted("mixed", precision)
    reference.open(data)
    with RuntimeWorker("coreml") as apples:
        apples.open(data)
        assert compare(reference.run(pixels), apples.run(pixels)).max_abs < (1e-5 if precision == "fp32" else 5e-3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "all.hetero"
    export(mixed(), path, preprocess=SPEC, space=SPACE, formats=("coreml",), precisions=PRECISIONS)
    return path


def test_one_call_exports_a_bundle_that_verifies(exported: Path) -> None:
    report = verify(exported)
    assert report.passed, report
    names = {check.file for check in report.checks if check.name == "embeddings"}
    assert names >= {f"coreml {precision}, mil-reference" for precision in PRECISIONS}
    files = open_bundle(exported).manifest.files
    assert [(file.path, file.recipe) for file in files] == [
        ("coreml/model.fp32.mlpackage.zip", "fp32"),
        ("coreml/model.fp16.mlpackage.zip", "wfp16_afp16"),
        ("coreml/model.int8w.mlpackage.zip", "wi8_afp16"),
        ("coreml/model.palette6.mlpackage.zip", "wpal6_afp16"),
    ]
    assert files[0].input == FileInput(dtype="image", layout="NHWC", batch="one")
    assert files[0].opset is None
    assert {tool.name for tool in open_bundle(exported).manifest.provenance.tools} >= {"coremltools", "sklearn"}


def failed_checks(exported: Path, folder: Path, data: bytes) -> list[Any]:
    path = Path(shutil.copytree(exported, folder / "all.hetero"))
    reseal(path, "coreml/model.fp32.mlpackage.zip", data)
    return [check for check in verify(path).checks if not check.passed]


@pytest.mark.parametrize("key", [SPACE_KEY, PREPROCESS_KEY])
def test_verify_refuses_a_file_of_another_space_or_preprocessing(exported: Path, tmp_path: Path, key: str) -> None:
    data, _ = to_coreml(fold(trace(mixed(), SPEC)), "fp32", NAMED | {key: "another"})
    failed = failed_checks(exported, tmp_path, data)
    assert {check.name for check in failed} == {"runtime"}
    assert all(f"another {key.removeprefix('hetero.')}" in check.detail for check in failed)


def test_verify_catches_a_file_with_a_wrong_mean(exported: Path, tmp_path: Path) -> None:
    wrong = SPEC.model_copy(update={"mean": (0.4, 0.5, 0.61)})
    data, _ = to_coreml(fold(trace(mixed(), wrong)), "fp32", NAMED)
    failed = failed_checks(exported, tmp_path, data)
    assert {check.name for check in failed} == {"embeddings", "limits"}


@pytest.mark.parametrize("data", [b"junk", write_archive(Package(f"{NAMED}".encode(), b"\0" * 64))])
def test_verify_survives_what_is_no_package(exported: Path, tmp_path: Path, data: bytes) -> None:
    failed = failed_checks(exported, tmp_path, data)
    assert {check.name for check in failed} == {"runtime"}


def test_where_coremltools_is_missing_the_files_are_said_not_to_be_measured(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("exporters.verify")  # exporters.verify itself is the function
    monkeypatch.setattr(module, "is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match=r"running any file of this bundle needs the package 'coremltools'"):
        verify(exported)


def test_exporting_without_any_runtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match=r"running a coreml file.*coremltools.*hetero\[coreml\]"):
        export(mixed(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, formats=("coreml",))
    assert list(tmp_path.iterdir()) == []
