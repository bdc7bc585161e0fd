"""From a network or checkpoint to a bundle: what is recorded, what is refused, what is left alone."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from exporters.bundle import Bundle, open_bundle
from exporters.golden import make_golden
from exporters.graph import GraphNetwork
from exporters.manifest import FileInput
from exporters.onnx import checked, to_onnx
from exporters.parity import reference_embeddings
from exporters.pipeline import export
from exporters.recipes import FP32_MAX_ABS
from exporters.runtimes import open_model
from exporters.trace import trace
from hetero.errors import BundleError, CheckpointError, ConfigError, ExportError, ImageError, MissingExtraError
from hetero.models.arch import ArchSpec, Stage
from hetero.models.checkpoint import ModelCard, load_model, save_model
from hetero.models.embed import embed
from hetero.models.network import build_network, channels_last
from hetero.preprocess import PreprocessSpec, load_image
from hetero.retrieval.verification import Rate, Threshold
from hetero.space import EmbeddingSpace, define_space, weights_digest

sys.path.insert(0, str(Path(__file__).parent))
from measured import measured_bundle
from networks import DIM, SPEC, mixed, wide

SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return mixed()


@pytest.fixture(scope="module")
def bundle(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(network, tmp_path_factory.mktemp("export") / "small.hetero", preprocess=SPEC, space=SPACE)


def model_of(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_from_string(bundle.read(bundle.model_file().path))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_exported_model_reproduces_torch_at_any_batch_size(bundle: Bundle, network: nn.Module, batch_size: int) -> None:
    pixels = np.random.default_rng(batch_size).integers(0, 256, (8, 16, 12, 3), dtype=np.uint8)
    found = open_model(bundle).embed(pixels, batch_size=batch_size)
    np.testing.assert_allclose(found, embed(network, pixels, SPEC), atol=FP32_MAX_ABS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.abs(found - found[0]).max() > 0.01  # the pictures matter


def test_manifest_records_what_was_exported_and_measured(bundle: Bundle, network: nn.Module) -> None:
    manifest, file = bundle.manifest, bundle.model_file()
    assert (manifest.name, manifest.space, manifest.preprocess, manifest.output.dim) == (
        "small",
        SPACE,
        SPEC,
        DIM,
    )
    assert manifest.input.shape == (16, 12, 3)
    assert manifest.model.arch is None
    assert manifest.licence == "NOASSERTION"
    tensor, cosine, *rest = file.ladder
    assert (tensor.rung, tensor.status, tensor.limits) == ("tensor", "passed", {"max_abs": FP32_MAX_ABS})
    assert 0 < tensor.measured["max_abs"] <= FP32_MAX_ABS
    assert cosine.measured["min_cosine"] > 1 - 1e-6
    assert [(rung.rung, rung.status) for rung in rest] == [
        (name, "not measured") for name in ("retrieval", "flips", "thresholds")
    ]
    [runtime] = file.runtimes
    assert (runtime.name, runtime.right, runtime.reason) == ("onnxruntime", True, None)
    assert runtime.parity.images == 4 + 18
    assert file.input == FileInput(dtype="uint8", layout="NHWC", batch="free")
    assert manifest.golden.source.startswith("synthetic")
    assert {"torch", "onnx", "onnxscript", "onnxruntime", "python"} == {tool.name for tool in manifest.provenance.tools}
    nodes = model_of(bundle).graph.node
    assert file.ops["Conv"] == sum(node.op_type == "Conv" for node in nodes) == 5
    assert sum(file.ops.values()) == len(nodes)
    assert "BatchNormalization" not in file.ops
    assert "Dropout" not in file.ops


def test_onnx_file_is_opset_18_names_its_space_and_tells_nothing_of_this_machine(bundle: Bundle) -> None:
    model = model_of(bundle)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties == {"hetero.space_id": SPACE.id, "hetero.preprocess_fingerprint": SPEC.fingerprint()}
    data = bundle.read(bundle.model_file().path)
    for note in (b'File "', b"stack_trace", b".py", str(Path.home()).encode() + b"/"):
        assert note not in data


def test_golden_files_are_the_torch_models_view_of_the_pictures(bundle: Bundle, network: nn.Module) -> None:
    golden = bundle.manifest.golden
    pixels = np.load(io.BytesIO(bundle.read(golden.pixels.path)), allow_pickle=False)
    vectors = np.load(io.BytesIO(bundle.read(golden.embeddings.path)), allow_pickle=False)
    for entry, picture in zip(golden.images, pixels, strict=True):
        np.testing.assert_array_equal(load_image(bundle.read(entry.path), SPEC), picture)
    np.testing.assert_allclose(vectors, embed(network, pixels, SPEC), atol=1e-6)


def test_export_twice_gives_the_same_bytes(bundle: Bundle, network: nn.Module, tmp_path: Path) -> None:
    again = export(network, tmp_path / "small.hetero", preprocess=SPEC, space=SPACE)
    for name in ("manifest.json", "bundle.sha256", *(entry.path for entry in bundle.manifest.entries())):
        assert (again.path / name).read_bytes() == (bundle.path / name).read_bytes()


def test_export_leaves_mode_statistics_and_gradients_of_the_network_alone(tmp_path: Path) -> None:
    network = mixed().train()
    network[4].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    bundle = export(network, tmp_path / "a.hetero", preprocess=SPEC, space=SPACE)
    assert [part.training for part in network].count(False) == 1
    assert not network[4].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    assert bundle.model_file().measured("max_abs") < FP32_MAX_ABS  # dropout and batch statistics were off


def test_export_prints_and_logs_nothing(tmp_path: Path) -> None:
    code = """
import sys, torch
from torch import nn
from exporters import export
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space
spec = PreprocessSpec(height=4, width=4, channels=1)
space = define_space(weights_sha256="a" * 64, preprocess_fingerprint=spec.fingerprint(), dim=2)
export(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), sys.argv[1], preprocess=spec, space=space)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.hetero")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert open_bundle(tmp_path / "a.hetero").manifest.input.channels == 1


@pytest.mark.parametrize(
    ("images", "count"),
    [
        (np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3), dtype=np.uint8), 3),
        (np.random.default_rng(0).integers(0, 256, (2, 9, 9, 1), dtype=np.uint8), 2),
        ([np.zeros((40, 30, 3), np.uint8), np.full((5, 50), 200, np.uint8)], 2),
    ],
)
def test_export_stores_given_golden_images_without_loss(
    network: nn.Module, tmp_path: Path, images: Any, count: int
) -> None:
    bundle = export(network, tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, golden_images=images)
    assert bundle.manifest.golden.source == "given by the caller"
    assert len(bundle.manifest.golden.images) == count
    if images[0].shape == (16, 12, 3):
        pixels = np.load(io.BytesIO(bundle.read("golden/pixels.npy")), allow_pickle=False)
        np.testing.assert_array_equal(pixels, images)


def test_golden_image_files_are_stored_as_they_are_and_a_bad_one_is_named(network: nn.Module, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    files = [tmp_path / "a.PNG", tmp_path / "b.jpg", tmp_path / "c.p n\u00e9", tmp_path / "d"]
    for file, kind in zip(files, ("PNG", "JPEG", "PNG", "PNG"), strict=True):
        Image.fromarray(colours).save(file, kind)
    golden, pixels, contents = make_golden(network, SPEC, files)
    names = ["golden/image-00.png", "golden/image-01.jpg", "golden/image-02", "golden/image-03"]
    assert [entry.path for entry in golden.images] == names
    for file, name, picture in zip(files, names, pixels, strict=True):
        assert contents[name] == file.read_bytes()
        np.testing.assert_array_equal(picture, load_image(file, SPEC))
    files[1].write_bytes(b"")
    with pytest.raises(ImageError, match=r"b\.jpg"):
        make_golden(network, SPEC, files)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "wrong number of golden images"),
        (np.zeros((65, 4, 4), np.uint8), "wrong number of golden images"),
        (np.zeros((2, 4, 4, 3), np.float32), "unsupported layout"),
        (np.zeros((2, 4, 4, 4), np.uint8), "unsupported layout"),
        (np.zeros((2, 0, 4, 3), np.uint8), "unsupported layout"),
        (np.zeros((2, 4), np.uint8), "unsupported layout"),
        (np.zeros((1, 4, 4), np.uint8), "wrong number of golden images; got 1; expected 2 to 64"),
        (np.zeros((8, 4, 4), np.uint8), "golden images are all the same"),
    ],
)
def test_export_raises_when_golden_images_cannot_be_used(
    network: nn.Module, tmp_path: Path, images: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.onnx.to_onnx", lambda *_: pytest.fail("exported before checking"))
    with pytest.raises(ConfigError, match=message):
        export(network, tmp_path / "a.hetero", preprocess=SPEC, space=SPACE, golden_images=images)


@pytest.mark.parametrize(("bias", "message"), [(0.0, "gives a zero embedding"), (1.0, "gives the same embedding")])
def test_a_dead_network_is_refused_for_any_file_would_reproduce_it(
    network: nn.Module, tmp_path: Path, bias: float, message: str
) -> None:
    network = copy.deepcopy(network)
    *_, last = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(bias)
    with pytest.raises(ExportError, match=message):
        export(network, tmp_path / "a.hetero", preprocess=SPEC, space=SPACE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": SPACE}, "does not say how its pictures are prepared"),
        ({"preprocess": SPEC, "space": SPACE, "formats": "onnx"}, "no list of export formats is given; got 'onnx'"),
        ({"preprocess": SPEC, "space": SPACE, "formats": ("onxn",)}, "nearest: onnx"),
        ({"preprocess": SPEC, "space": SPACE, "formats": ()}, "no list of export formats"),
        ({"preprocess": SPEC, "space": SPACE, "licence": ""}, "licence is no SPDX expression"),
        ({"preprocess": SPEC, "space": SPACE, "licence": "MY OWN"}, "licence is no SPDX expression; got 'MY OWN'"),
        ({"preprocess": SPEC, "space": SPACE, "precisions": ("fp23",)}, "unknown export precision.*nearest: fp"),
        ({"preprocess": SPEC, "space": SPACE, "precisions": ()}, "no list of export precisions"),
        (
            {"preprocess": SPEC, "space": SPACE, "precisions": ("dynamic",)},
            "there is no onnx of dynamic; .*expected one of onnx fp32, onnx fp16, onnx int8",
        ),
    ],
)
def test_export_raises_when_an_option_cannot_be_used(
    network: nn.Module, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export(network, tmp_path / "a.hetero", **options)
    with pytest.raises(ConfigError, match="suffix"):
        export(network, tmp_path / "a.onnx", preprocess=SPEC, space=SPACE)


def test_a_network_without_a_space_defines_one_of_its_own(network: nn.Module, tmp_path: Path) -> None:
    bundle = export(network, tmp_path / "a.hetero", preprocess=SPEC, licence="(MIT OR Apache-2.0) AND LicenseRef-x")
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    expected = define_space(weights_sha256=weights_digest(weights), preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
    assert bundle.space == expected
    with pytest.raises(ExportError, match=r"no embedding; got torch\.float32"):
        export(nn.Identity(), tmp_path / "b.hetero", preprocess=SPEC)


def test_what_cannot_work_is_refused_before_any_work(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporters.pipeline.trace", lambda *_: pytest.fail("worked before checking"))
    options: dict[str, Any] = {"preprocess": SPEC, "space": SPACE, "formats": ("onnx", "tflite")}
    with pytest.raises(ConfigError, match="onnx int8 needs calibration pictures"):
        export(network, tmp_path / "a.hetero", precisions=("fp32", "int8"), **options)
    for missing, extra in (("tensorflow", "tflite"), ("onnxscript", "onnx")):
        monkeypatch.setattr("exporters.convert.find_spec", lambda name, missing=missing: name != missing or None)
        with pytest.raises(MissingExtraError, match=rf"{missing}.*hetero\[{extra}\]"):
            export(network, tmp_path / "a.hetero", **options)


def test_combinations_that_do_not_exist_are_named(tmp_path: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"preprocess": SPEC, "space": SPACE, "say": said.append}
    network = wide()
    export(network, tmp_path / "a.hetero", precisions=("fp32",), **options)
    assert not any("not made" in line for line in said)
    export(network, tmp_path / "a.hetero", precisions=("fp32", "dynamic"), formats=("onnx", "tflite"), **options)
    assert "not made, for there is none: onnx dynamic" in said
    assert "tflite dynamic (3 of 3): converting" in said


def test_arguments_of_another_type_are_one_clear_error(tmp_path: Path) -> None:
    """In a process without the type checks that these tests run under."""
    code = """
import sys, torch
from exporters import export
from hetero.errors import ConfigError
from hetero.preprocess import PreprocessSpec
spec, network = PreprocessSpec(height=8, width=8), torch.nn.Flatten()
for model, options in (
    (network.state_dict(), {"preprocess": spec}),
    (network, {"preprocess": "squash"}),
    (network, {"preprocess": spec, "space": "hs1-x"}),
    (network, {"preprocess": spec, "calibration": torch.zeros(40, 2)}),
):
    try:
        export(model, sys.argv[1], **options)
    except ConfigError as error:
        print(error)
"""
    out = tmp_path / "a.hetero"
    done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line, part in zip(lines, ("got OrderedDict", "of type str", "of type str", "got Tensor"), strict=True):
        assert part in line
        assert "expected" in line


def test_export_raises_when_the_graph_has_a_wrong_mean_and_keeps_the_older_bundle(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = export(network, tmp_path / "a.hetero", preprocess=SPEC, space=SPACE)
    wrong = SPEC.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    monkeypatch.setattr("exporters.pipeline.trace", lambda network, spec: trace(network, wrong))
    with pytest.raises(ExportError, match=r"does not reproduce.*onnxruntime .*max_abs 0\..*fix: .*mean"):
        export(network, tmp_path / "a.hetero", preprocess=SPEC, space=SPACE)
    with pytest.raises(ExportError, match="does not reproduce"):
        export(network, tmp_path / "b.hetero", preprocess=SPEC, space=SPACE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.hetero"]
    assert open_bundle(older.path).manifest == older.manifest


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x.flatten(1)[:, :DIM]
        return -x.flatten(1)[:, :DIM]


def test_export_raises_when_torch_cannot_export_the_network(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match="torch cannot trace this network") as caught:
        export(DataDependent(), tmp_path / "a.hetero", preprocess=SPEC, space=SPACE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_to_onnx_raises_when_the_exporter_is_not_installed(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript.*hetero\[onnx\]"):
        to_onnx(trace(network, SPEC), {})


def test_exported_file_is_refused_when_it_is_not_what_was_asked_for(bundle: Bundle) -> None:
    other_opset, other_domain, broken, external = (model_of(bundle) for _ in range(4))
    other_opset.opset_import[0].version = 17
    other_domain.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    broken.graph.node[0].input[0] = "nowhere"
    tensor = next(item for item in external.graph.initializer if item.dims)
    onnx.external_data_helper.set_external_data(tensor, location="weights.bin")
    for model, error, message in (
        (other_opset, ExportError, "operator sets"),
        (other_domain, ExportError, "operator sets"),
        (broken, ExportError, "checker"),
        (external, (ExportError, BundleError), "checker|other files"),
    ):
        with pytest.raises(error, match=message):
            checked(model)
    data, _ = checked(model_of(bundle))
    assert data == bundle.read(bundle.model_file().path)


def test_exported_file_is_refused_when_it_is_too_large(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.onnx.MAX_FILE_BYTES", bundle.model_file().size_bytes - 1)
    with pytest.raises(ExportError, match="too large for one ONNX file"):
        checked(model_of(bundle))


@pytest.mark.parametrize("block", ["residual", "inverted_residual"])
def test_export_of_a_checkpoint_takes_everything_from_it(tmp_path: Path, block: Any) -> None:
    stages = (Stage(width=6, squeeze_excite=True), Stage(width=8, depth=2, kernel=5, expansion=2.0))
    arch = ArchSpec(size=16, channels=1, dim=8, block=block, stem_width=4, stages=stages)
    spec = PreprocessSpec(height=16, width=16, channels=1, resize="pad", mean=(0.9,), std=(0.3,))
    space: EmbeddingSpace = define_space(weights_sha256="c" * 64, preprocess_fingerprint=spec.fingerprint(), dim=8)
    rate = Rate(value=0.5, low=0.4, high=0.6)
    threshold = Threshold(
        far=0.01,
        similarity=0.5,
        impostor_pairs=5000,
        calibration_far=0.009,
        calibration_queries=50,
        true_accept_rate=rate,
        false_accept_rate=rate,
        genuine_pairs=100,
        test_impostor_pairs=900,
    )
    card = ModelCard(
        name="tiny",
        role="compatible",
        arch=arch,
        preprocess=spec,
        space=space,
        weights_sha256="",
        thresholds=(threshold.to_json(),),
    )
    save_model(tmp_path / "tiny", build_network(arch, seed=0), card)
    bundle = export(tmp_path / "tiny", tmp_path / "tiny.hetero", licence="MIT")
    loaded = load_model(tmp_path / "tiny")
    manifest = bundle.manifest
    assert (manifest.space, manifest.preprocess, manifest.licence) == (space, spec, "MIT")
    assert manifest.model.arch == json.loads(arch.to_json())
    assert manifest.model.weights_sha256 == loaded.card.weights_sha256
    assert manifest.thresholds == (threshold,)
    pixels = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 1), dtype=np.uint8)
    found = open_model(bundle).embed(pixels)
    np.testing.assert_allclose(found, reference_embeddings(loaded.network, pixels, spec), atol=FP32_MAX_ABS)
    np.testing.assert_allclose(found, embed(loaded.network, pixels, spec), atol=FP32_MAX_ABS)


def test_export_of_a_checkpoint_refuses_a_second_opinion_and_a_missing_one(tmp_path: Path) -> None:
    for options in ({"preprocess": SPEC}, {"space": SPACE}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))}= besides the checkpoint"):
            export(tmp_path, tmp_path / "a.hetero", **options)
    with pytest.raises(CheckpointError):
        export(tmp_path / "nothing", tmp_path / "a.hetero")


def test_the_same_network_and_pictures_give_the_same_bytes(measured: Bundle, tmp_path: Path) -> None:
    """Calibration, mixed precision and converters included."""
    again = measured_bundle(tmp_path)
    assert [entry.sha256 for entry in again.manifest.entries()] == [e.sha256 for e in measured.manifest.entries()]
    assert again.raw == measured.raw


def test_strided_shortcuts_stay_strided_convolutions():
    arch = ArchSpec(size=16, channels=3, dim=8, stem_width=4, stages=(Stage(width=6), Stage(width=8)))
    spec = PreprocessSpec(height=16, width=16, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    graph = trace(channels_last(build_network(arch, seed=0)), spec)
    assert all(weight.is_contiguous() for weight in GraphNetwork(graph).parameters())  # trained on, see convolution.py
    pointwise = [one for one in graph.operations if one.kind == "conv" and one.weights["weight"].shape[2:] == (1, 1)]
    assert [one.options["stride"] for one in pointwise] == [(2, 2), (2, 2)]
    data, counts = to_onnx(graph, {})
    assert "Slice" not in counts
    nodes = onnx.load_from_string(data).graph.node
    strides = [list(a.ints) for node in nodes if node.op_type == "Conv" for a in node.attribute if a.name == "strides"]
    assert strides.count([2, 2]) == 4  # two blocks, the body's first convolution and the shortcut of each
