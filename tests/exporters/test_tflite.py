"""TFLite files of real networks, converted by TensorFlow and run in every installed interpreter."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exporters import export, verify, workers
from exporters.bundle import seal_of
from exporters.fold import fold
from exporters.graph import GraphNetwork
from exporters.manifest import FileInput, entry_of
from exporters.parity import compare, probe_pixels, reference_embeddings
from exporters.recipes import FP32_MAX_ABS
from exporters.runtimes import PREPROCESS_KEY, SPACE_KEY
from exporters.tflite import emit, to_tflite
from exporters.trace import trace
from exporters.workers import RuntimeWorker
from hetero.errors import BundleError, ExportError, MissingExtraError
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent))
from networks import DIM, NETWORKS, SPEC, family, mixed, unpadded, wide

SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
RUNTIMES = ("ai-edge-litert", "tensorflow", "tflite-runtime")


@pytest.fixture(scope="module", autouse=True)
def tensorflow(needs: Callable[[str], ModuleType]) -> ModuleType:
    return needs("tensorflow")


@pytest.fixture(scope="module")
def started(tensorflow: ModuleType) -> Iterator[dict[str, RuntimeWorker]]:
    with workers.start(["tflite"]) as running:
        expected = RUNTIMES if sys.version_info < (3, 12) else RUNTIMES[:2]  # the last has no wheel for 3.12
        assert tuple(running) == expected
        yield running


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_files_equal_torch_in_every_runtime(name: str, started: dict[str, RuntimeWorker]) -> None:
    make, spec = NETWORKS[name]
    network = make()
    pixels = probe_pixels((spec.height, spec.width, spec.channels))
    reference = reference_embeddings(network, pixels, spec)
    data, ops = to_tflite(fold(trace(network, spec)), "fp32", {})
    assert ops["L2_NORMALIZATION"] == 1
    for worker in started.values():
        signature = worker.open(data)
        assert signature["input"]["dtype"] == "float32"
        assert signature["input"]["shape"] == [1, spec.height, spec.width, spec.channels]
        assert compare(reference, worker.run(pixels)).max_abs < FP32_MAX_ABS


def test_native_operators_are_used_where_there_are_some() -> None:
    assert to_tflite(fold(trace(mixed(), SPEC)), "fp32", {})[1]["HARD_SWISH"] == 1
    ops = to_tflite(fold(trace(unpadded(), SPEC)), "fp32", {})[1]
    assert {"LEAKY_RELU", "DEPTHWISE_CONV_2D"} <= ops.keys()


def test_smaller_precisions_are_smaller_and_near(started: dict[str, RuntimeWorker]) -> None:
    network, spec = family("residual"), NETWORKS["family"][1]
    pixels = probe_pixels((spec.height, spec.width, spec.channels))
    reference = reference_embeddings(network, pixels, spec)
    graph = fold(trace(network, spec))
    sizes, cosines = {}, {}
    for precision in ("fp32", "fp16", "dynamic"):
        data, _ = to_tflite(graph, precision, {})
        sizes[precision] = len(data)
        for name, worker in started.items():
            worker.open(data)
            cosines[precision, name] = compare(reference, worker.run(pixels)).min_cosine
    assert sizes["fp16"] < 0.65 * sizes["fp32"]
    assert sizes["dynamic"] < 0.5 * sizes["fp32"]
    assert min(cosines.values()) > 0.999
    # That fp16 and dynamic files differ from fp32 at all: they were not silently left in float.
    assert all(
        cosines["fp32", name] > cosines[precision, name] for precision in ("fp16", "dynamic") for name in started
    )


SIZE = st.integers(1, 4)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(SIZE, SIZE),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    wider=st.sampled_from([1, 2]),
    height=st.integers(9, 12),
    bias=st.booleans(),
)
def test_emitted_convolutions_equal_torchs(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    wider: int,
    height: int,
    bias: bool,
) -> None:
    torch.manual_seed(0)
    spec = PreprocessSpec(height=height, width=10, channels=1)
    if max(dilation) > 1:
        stride = (1, 1)  # the two together are refused
    conv = nn.Conv2d(4, 4 * wider, kernel, stride, padding, dilation, groups, bias=bias)
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), conv, nn.Flatten()).eval()
    assert_emits_the_same(network, spec)


@settings(max_examples=30, deadline=None)
@given(kernel=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 2), height=st.integers(9, 12))
def test_emitted_pooling_equals_torchs(kernel: int, stride: int, padding: int, height: int) -> None:
    torch.manual_seed(0)
    spec = PreprocessSpec(height=height, width=10, channels=1)
    pool = nn.MaxPool2d(kernel, stride, min(padding, kernel // 2))
    layers = [nn.Conv2d(1, 4, 1), nn.ReLU(), pool, nn.AvgPool2d(2, 1), nn.Flatten()]
    assert_emits_the_same(nn.Sequential(*layers).eval(), spec)


def assert_emits_the_same(network: nn.Module, spec: PreprocessSpec) -> None:
    """In TensorFlow itself, without the converter, which takes a second."""
    graph = fold(trace(network, spec))
    picture = probe_pixels((spec.height, spec.width, spec.channels))[3:4].astype(np.float32)
    with torch.no_grad():
        expected = GraphNetwork(graph)(torch.from_numpy(picture).permute(0, 3, 1, 2)).numpy()
    import tensorflow

    function, _root = emit(graph)
    found = function(tensorflow.constant(picture))["embedding"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_padding_before_max_pooling_of_negative_values_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(3, 2, 1), nn.Flatten()).eval()
    with pytest.raises(ExportError, match=r"1_max_pool pads before max pooling.*fix: put a ReLU before it"):
        to_tflite(fold(trace(network, SPEC)), "fp32", {})


def test_a_convolution_that_both_strides_and_dilates_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2, dilation=2, groups=3), nn.Flatten()).eval()
    with pytest.raises(ExportError, match=r"0_conv cannot be exported to TFLite; got stride \[2, 2\] with dilation"):
        to_tflite(fold(trace(network, SPEC)), "fp32", {})


@pytest.mark.parametrize(
    "layer",
    [nn.Hardtanh(-0.5, 0.5), nn.Hardtanh(0, 2), nn.Threshold, nn.Tanh()],
    ids=["both", "zero", "low", "tanh"],
)
def test_emitted_bounds_equal_torchs(layer: Any) -> None:
    class Bounded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clamp(min=-0.25) if layer is nn.Threshold else layer(x)
            y = x.mean((2, 3)).view(x.size(0), -1, 1, 1)
            return (x * y.squeeze(-1).squeeze(-1)[:, :, None, None].float()).flatten(1)

    assert_emits_the_same(Bounded().eval(), PreprocessSpec(height=5, width=4, channels=3))


def test_a_missing_tensorflow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = fold(trace(mixed(), SPEC))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"tensorflow.*hetero\[tflite\]"):
        to_tflite(graph, "fp32", {})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tflite") / "both.hetero"
    lines: list[str] = []
    precisions = ("fp32", "fp16", "dynamic")
    export(
        wide(),
        path,
        preprocess=SPEC,
        space=SPACE,
        formats=("onnx", "tflite"),
        precisions=precisions,
        say=lines.append,
    )
    assert lines[0] == "not made, for there is none: onnx dynamic"
    assert len(lines) == 1 + 2 * 5  # two a file
    return path


def test_one_call_exports_every_format_into_one_bundle_that_verifies(exported: Path) -> None:
    report = verify(exported)
    assert report.passed, report
    names = {check.file for check in report.checks if check.name == "embeddings"}
    installed = [name for name in RUNTIMES if workers.is_installed(name)]
    assert names == {"onnx fp32, onnxruntime", "onnx fp16, onnxruntime"} | {
        f"tflite {p}, {r}" for p in ("fp32", "fp16", "dynamic") for r in installed
    }


def test_manifest_says_how_each_file_takes_its_picture_and_which_runtimes_are_right(exported: Path) -> None:
    from exporters import open_bundle

    files = open_bundle(exported).manifest.files
    assert [(file.format, file.precision, file.recipe) for file in files] == [
        ("onnx", "fp32", "fp32"),
        ("onnx", "fp16", "wfp16_afp16"),
        ("tflite", "fp32", "fp32"),
        ("tflite", "fp16", "wfp16_afp32"),
        ("tflite", "dynamic", "dynamic_wi8_afp32"),
    ]
    assert files[2].input == FileInput(dtype="float32", layout="NHWC", batch="one")
    assert files[2].opset is None
    for file in files[2:]:
        assert [result.name for result in file.runtimes if result.right] == [
            name for name in RUNTIMES if workers.is_installed(name)
        ]
        data = (exported / file.path).read_bytes()
        assert SPACE.id.encode() in data
        assert SPEC.fingerprint().encode() in data


def test_files_that_take_rgb_say_so_in_model_metadata_and_grey_ones_do_not() -> None:
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()).eval()
    for network, spec in ((mixed(), SPEC), (grey, PreprocessSpec(height=8, width=6, channels=1))):
        for precision in ("fp32", "fp16", "dynamic"):
            data, _ = to_tflite(fold(trace(network, spec)), precision, {"a": "b"})
            assert (b"TFLITE_METADATA" in data) == (spec.channels == 3)


def test_exporting_twice_gives_the_same_files(exported: Path, tmp_path: Path) -> None:
    graph = fold(trace(wide(), SPEC))
    for precision in ("fp32", "fp16", "dynamic"):
        first, second = (to_tflite(graph, precision, {"a": "b"})[0] for _ in range(2))
        assert first == second


def reseal(path: Path, name: str, data: bytes, edit: Callable[[dict[str, Any]], object] = lambda entry: None) -> None:
    """Put another file into a bundle as someone who knows the format would."""
    (path / name).write_bytes(data)
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    for entry in manifest["files"]:
        if entry["path"] == name:
            entry.update(entry_of(name, data).model_dump())
            edit(entry)
    raw = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(raw)
    (path / "bundle.sha256").write_bytes(seal_of(raw))


def test_verify_catches_a_tflite_file_with_a_wrong_mean(exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "both.hetero"))
    wrong = SPEC.model_copy(update={"mean": (0.4, 0.5, 0.61)})
    names = {SPACE_KEY: SPACE.id, PREPROCESS_KEY: SPEC.fingerprint()}
    reseal(path, "tflite/model.fp32.tflite", to_tflite(fold(trace(wide(), wrong)), "fp32", names)[0])
    failed = {(check.name, check.file) for check in verify(path).checks if not check.passed}
    installed = [name for name in RUNTIMES if workers.is_installed(name)]
    assert failed == {(check, f"tflite fp32, {name}") for check in ("embeddings", "limits") for name in installed}


@pytest.mark.parametrize("key", [SPACE_KEY, PREPROCESS_KEY])
def test_verify_catches_a_tflite_file_of_another_space_or_preprocessing(
    exported: Path, tmp_path: Path, key: str
) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "both.hetero"))
    names = {SPACE_KEY: SPACE.id, PREPROCESS_KEY: SPEC.fingerprint()} | {key: "another"}
    reseal(path, "tflite/model.fp32.tflite", to_tflite(fold(trace(wide(), SPEC)), "fp32", names)[0])
    failed = [check for check in verify(path).checks if not check.passed]
    assert {check.name for check in failed} == {"runtime"}
    assert all(f"another {key.removeprefix('hetero.')}" in check.detail for check in failed)


def test_verify_catches_a_manifest_that_declares_another_input(exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "both.hetero"))
    data = (path / "tflite/model.fp32.tflite").read_bytes()
    reseal(path, "tflite/model.fp32.tflite", data, lambda entry: entry["input"].update(dtype="uint8"))
    failed = [check for check in verify(path).checks if not check.passed]
    assert {check.name for check in failed} == {"runtime"}
    assert all("something else than declared" in check.detail for check in failed)


NAMED = b"TFL3" + f"{SPACE_KEY}{SPACE.id}{PREPROCESS_KEY}{SPEC.fingerprint()}".encode()


@pytest.mark.parametrize("data", [b"junk that is no model", b"\x1c\0\0\0" + NAMED + b"\xff" * 40])
def test_verify_survives_what_is_no_tflite_model(exported: Path, tmp_path: Path, data: bytes) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "both.hetero"))
    reseal(path, "tflite/model.fp16.tflite", data)
    failed = [check for check in verify(path).checks if not check.passed]
    assert {check.name for check in failed} == {"runtime"}
    assert all("fp16" in (check.file or "") for check in failed)


def test_a_runtime_that_is_not_installed_is_said_not_to_be_measured(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("exporters.verify")  # exporters.verify itself is the function
    monkeypatch.setattr(module, "is_installed", lambda name: name == "onnxruntime")
    report = verify(exported)
    assert report.passed
    checks = [check for check in report.checks if "tflite" in (check.file or "") and check.name != "parity"]
    assert checks
    assert not any(check.measured for check in checks)
    monkeypatch.setattr(module, "is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match="running any file of this bundle"):
        verify(exported)


def test_exporting_without_any_runtime_of_the_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "is_installed", lambda name: name == "onnxruntime")
    with pytest.raises(MissingExtraError, match=r"running a tflite file.*ai-edge-litert.*hetero\[tflite\]"):
        export(wide(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, formats=("tflite",))
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_onnx_says_so_when_it_is_to_embed(tmp_path: Path) -> None:
    from exporters import embed_pixels

    bundle = export(wide(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, formats=("tflite",))
    with pytest.raises(BundleError, match="has no onnx file of precision fp32"):
        embed_pixels(bundle, probe_pixels((16, 12, 3)))
