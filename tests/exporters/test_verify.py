"""Forged but well-sealed bundles: hashes are right, so only measuring again can tell."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from exporters import embed_files, embed_pixels, export, open_bundle, verify
from exporters.bundle import Bundle, seal_of
from exporters.manifest import entry_of
from exporters.onnx import to_onnx
from exporters.queries import dataset_embedder
from exporters.runtimes import open_model
from exporters.trace import trace
from exporters.verify import file_golden, golden_arrays
from exporters.workers import RuntimeWorker
from hetero.data.dataset import Dataset
from hetero.data.pixels import read_pixels
from hetero.errors import BundleError, ConfigError, ImageError, MissingExtraError
from hetero.preprocess import PreprocessSpec, load_image
from hetero.space import define_space

SPEC = PreprocessSpec(height=10, width=14, channels=3, resize="center_crop", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=6)
MODEL = "onnx/model.fp32.onnx"


def make_network() -> nn.Module:
    torch.manual_seed(2)
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(96, 6))
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(make_network(), tmp_path_factory.mktemp("verify") / "v.hetero", preprocess=SPEC, space=SPACE).path


@pytest.fixture
def path(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "v.hetero"))


def replace_file(path: Path, name: str, data: bytes, edit: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
    """Put other bytes into a bundle and seal it again, as someone who knows the format would."""
    (path / name).write_bytes(data)
    manifest = json.loads((path / "manifest.json").read_bytes())
    golden = manifest["golden"]
    own = [file["golden"] for file in manifest["files"]]
    for entry in (*manifest["files"], *own, *golden["images"], golden["pixels"], golden["embeddings"]):
        if entry["path"] == name:
            entry.update(entry_of(name, data).model_dump())
    edit(manifest)
    raw = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(raw)
    (path / "bundle.sha256").write_bytes(seal_of(raw))


def failed(path: Path, **options: Any) -> list[str]:
    return [check.name for check in verify(path, **options).checks if not check.passed]


def npy(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def test_verify_passes_a_fresh_bundle_and_says_what_it_did(path: Path) -> None:
    report = verify(path, expected_space=SPACE)
    names = ["integrity", "space", "preprocessing", "parity", "runtime", "embeddings", "limits", "unit_length"]
    assert [check.name for check in report.checks] == [*names, "batching"]
    assert report.passed
    assert report.space_id == SPACE.id
    content = json.loads(json.dumps(report.to_json()))
    assert content["passed"] is True
    assert content["path"] == str(path)
    detail = report.checks[0].detail
    assert content["checks"][0] == {
        "name": "integrity",
        "passed": True,
        "detail": detail,
        "file": None,
        "measured": True,
    }
    assert "11 files" in detail
    assert [check.file for check in report.checks[3:]] == ["onnx fp32", *["onnx fp32, onnxruntime"] * 5]


def test_what_is_not_installed_is_said_to_be_not_measured(measured: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verify(measured.path)
    assert whole.summary() == f"{len(whole.checks)} checks passed"
    monkeypatch.setattr(sys.modules["exporters.verify"], "is_installed", lambda name: name == "onnxruntime")
    report = verify(measured.path)
    skipped = [check for check in report.checks if not check.measured]
    claimed = [result for file in measured.manifest.files if file.format == "tflite" for result in file.runtimes]
    assert len(skipped) == sum(result.right for result in claimed)
    assert all(check.name == "runtime" and check.file and check.file.startswith("tflite") for check in skipped)
    assert report.passed
    passed = len(report.checks) - len(skipped)
    assert report.summary() == f"{passed} checks passed, {len(skipped)} not measured here"
    assert report.to_json()["checks"][-1]["measured"] is False
    monkeypatch.setattr(sys.modules["exporters.verify"], "is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match=r"onnxruntime.*hetero\[onnx\]"):
        verify(measured.path)


def test_verify_reports_a_flipped_byte_and_stops_there(path: Path) -> None:
    data = bytearray((path / MODEL).read_bytes())
    data[1000] ^= 1
    (path / MODEL).write_bytes(data)
    report = verify(path)
    assert not report.passed
    assert report.space_id is None
    assert [check.name for check in report.checks] == ["integrity"]
    assert MODEL in report.checks[0].detail


def test_verify_raises_when_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        verify(tmp_path / "nothing.hetero")


def test_verify_reports_another_space_and_still_measures_the_rest(path: Path) -> None:
    other = define_space(weights_sha256="b" * 64, preprocess_fingerprint="c" * 64, dim=6)
    report = verify(path, expected_space=other.id)
    assert [check.name for check in report.checks if not check.passed] == ["space"]
    assert len(report.checks) == 9
    detail = report.checks[1].detail
    assert other.id in detail
    assert SPACE.id in detail


def test_verify_catches_a_model_with_a_wrong_mean(path: Path) -> None:
    wrong = SPEC.model_copy(update={"mean": (0.4, 0.5, 0.61)})
    names = {"hetero.space_id": SPACE.id, "hetero.preprocess_fingerprint": SPEC.fingerprint()}
    data, _ = to_onnx(trace(make_network(), wrong), names)
    replace_file(path, MODEL, data)
    assert failed(path) == ["embeddings", "limits"]


@pytest.mark.parametrize("key", ["hetero.space_id", "hetero.preprocess_fingerprint"])
@pytest.mark.parametrize("value", ["another", None])
def test_open_model_raises_when_the_model_names_another_space_or_preprocessing(
    path: Path, key: str, value: str | None
) -> None:
    model = onnx.load(path / MODEL)
    entry = next(item for item in model.metadata_props if item.key == key)
    if value is None:
        model.metadata_props.remove(entry)
    else:
        entry.value = value
    replace_file(path, MODEL, model.SerializeToString())
    assert failed(path) == ["runtime"]
    with pytest.raises(BundleError, match=f"another {key.removeprefix('hetero.')}"):
        open_model(open_bundle(path))


def test_verify_hands_no_forged_file_to_a_runtime(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off, or with a picture of absurd size; the seal and every hash are right."""
    path = Path(shutil.copytree(measured.path, tmp_path / "forged.hetero"))
    model = onnx.load(path / MODEL)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1 << 40
    replace_file(path, MODEL, model.SerializeToString())
    tflite = "tflite/model.fp32.tflite"
    replace_file(path, tflite, (path / tflite).read_bytes()[:-100])
    opened: list[bytes] = []
    session, worker = onnxruntime.InferenceSession, RuntimeWorker.open
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda data, *a, **k: opened.append(data) or session(data, *a, **k)
    )
    monkeypatch.setattr(RuntimeWorker, "open", lambda self, data, **k: opened.append(data) or worker(self, data, **k))
    report = verify(path)
    forged = [check for check in report.checks if not check.passed]
    runtimes = {result.name for result in open_bundle(path).model_file(format="tflite").runtimes if result.right}
    assert {check.file for check in forged} == {"onnx fp32, onnxruntime", *(f"tflite fp32, {n}" for n in runtimes)}
    assert {check.name for check in forged} == {"runtime"}
    assert ["absurd amount of memory" in check.detail for check in forged] == [True] + [False] * len(runtimes)
    assert {bytes(data) for data in opened} == {
        (path / name).read_bytes() for name in ("onnx/model.int8.onnx", "tflite/model.int8.tflite")
    }


def test_open_model_raises_when_the_file_changed_after_opening(path: Path) -> None:
    bundle = open_bundle(path)
    data = bytearray((path / MODEL).read_bytes())
    data[-1] ^= 1
    (path / MODEL).write_bytes(data)
    with pytest.raises(BundleError, match="is not the file that"):
        open_model(bundle)


def test_verify_catches_a_model_whose_output_is_not_normalised(path: Path) -> None:
    model = onnx.load(path / MODEL)
    last = model.graph.node[-1]
    assert last.op_type == "Div"
    last.op_type = "Mul"
    replace_file(path, MODEL, model.SerializeToString())
    assert {"embeddings", "unit_length"} <= set(failed(path))


def test_verify_catches_a_model_that_returns_nan(path: Path) -> None:
    model = onnx.load(path / MODEL)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and list(tensor.dims) == [6]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(6, np.nan, np.float32), tensor.name))
    replace_file(path, MODEL, model.SerializeToString())
    assert {"embeddings", "limits", "unit_length", "batching"} == set(failed(path))


def test_verify_catches_a_picture_that_no_longer_gives_its_pixels(path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(stream, "PNG")
    replace_file(path, "golden/image-01.png", stream.getvalue())
    report = verify(path)
    assert [check.name for check in report.checks if not check.passed] == ["preprocessing"]
    assert "image-01.png" in report.checks[1].detail
    assert "bytes differ" in report.checks[1].detail
    replace_file(path, "golden/image-01.png", b"no picture")
    assert failed(path) == ["preprocessing"]


def test_verify_catches_golden_embeddings_just_above_the_tolerance(path: Path) -> None:
    bundle = open_bundle(path)
    vectors = file_golden(bundle, bundle.model_file())
    for step, expected in ((5e-6, []), (2e-5, ["parity", "embeddings"])):
        changed = vectors.copy()
        changed[2, 3] += step
        replace_file(path, "golden/onnx.fp32.npy", npy(changed))
        assert failed(path) == expected


def test_verify_catches_a_file_that_keeps_its_own_golden_embeddings_but_not_torchs(path: Path) -> None:
    bundle = open_bundle(path)
    _, vectors = golden_arrays(bundle)
    changed = vectors.copy()
    changed[1, 2] -= 2e-5
    replace_file(path, bundle.manifest.golden.embeddings.path, npy(changed))
    assert failed(path) == ["parity", "limits"]


GOOD = np.zeros((4, 6), np.float32)


@pytest.mark.parametrize("name", ["golden/embeddings.npy", "golden/onnx.fp32.npy"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x", id="junk"),
        pytest.param(npy(GOOD)[:40], id="cut header"),
        pytest.param(npy(GOOD)[:-1], id="cut body"),
        pytest.param(npy(GOOD) + b"x", id="long body"),
        pytest.param(npy(GOOD[:3]), id="fewer rows"),
        pytest.param(npy(GOOD.astype(np.float64)), id="float64"),
        pytest.param(npy(GOOD.astype(">f4")), id="big endian"),
        pytest.param(npy(np.asfortranarray(GOOD)), id="column-major"),
        pytest.param(npy(np.array([{}], object), allow_pickle=True), id="pickle"),
        pytest.param(npy(GOOD).replace(b"(4, 6)", b"(9**9,)"), id="expression"),
        pytest.param(npy(GOOD).replace(b"(4, 6), }" + b" " * 11, b"(4, 6000000000000), }"), id="claims 96 TB"),
        pytest.param(npy(GOOD).replace(b"(4, 6), }", b"(4, 6),  "), id="no closing brace"),
        pytest.param(npy(GOOD).replace(b"(4, 6), }" + b" " * 40, b"(" * 49), id="nested"),
        pytest.param(npy(GOOD).replace(b"NUMPY\x01", b"NUMPY\x02"), id="version 2"),
    ],
)
def test_verify_catches_golden_arrays_that_are_no_plain_npy(path: Path, data: bytes, name: str) -> None:
    replace_file(path, name, data)
    [check] = [check for check in verify(path).checks if not check.passed]
    assert check.name == "golden"
    assert name in check.detail


def test_embed_pixels_equals_the_golden_embeddings(path: Path) -> None:
    bundle = open_bundle(path)
    pixels, vectors = golden_arrays(bundle)
    np.testing.assert_allclose(embed_pixels(bundle, pixels, batch_size=3), vectors, atol=1e-5)
    assert embed_pixels(bundle, pixels[:0]).shape == (0, 6)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    names = [f"{index}.png" for index in range(5)]
    for name in names:
        Image.fromarray(random.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(tmp_path / name)
    return [tmp_path / name for name in names]


def by_hand(bundle: Bundle, paths: list[Path]) -> np.ndarray:
    return embed_pixels(bundle, np.stack([load_image(path, SPEC) for path in paths]), batch_size=1)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_embed_files_gives_a_row_for_each_file_in_order(path: Path, pictures: list[Path], batch_size: int) -> None:
    bundle = open_bundle(path)
    found, skipped = embed_files(bundle, pictures, batch_size=batch_size)
    assert skipped == ()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(bundle, pictures), atol=1e-6)


def test_embed_files_names_a_bad_picture_or_skips_and_counts_it(path: Path, pictures: list[Path]) -> None:
    bundle = open_bundle(path)
    pictures[1].write_bytes(b"")
    pictures[4].write_bytes(pictures[0].read_bytes()[:100])
    with pytest.raises(ImageError, match=r"1\.png"):
        embed_files(bundle, pictures)
    found, skipped = embed_files(bundle, pictures, skip_bad=True, batch_size=2)
    assert [(item.index, item.path) for item in skipped] == [(1, pictures[1]), (4, pictures[4])]
    assert all(str(item.path) in item.reason for item in skipped)
    good = [pictures[0], pictures[2], pictures[3]]
    np.testing.assert_allclose(found, by_hand(bundle, good), atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"inverted": True}, {"boxes": np.array([[2, 3, 19, 20 + i] for i in range(5)])}]
)
def test_a_bundle_embeds_a_data_sets_pictures_as_it_reads_them(
    path: Path, pictures: list[Path], changes: dict[str, Any]
) -> None:
    changes = {key: value if key == "inverted" else value.astype(np.int32) for key, value in changes.items()}
    dataset = Dataset("toy", tuple(pictures), np.zeros(5, np.int64), ("a",), {}, **changes)
    wanted = np.array([3, 0, 4])
    found = dataset_embedder(path, threads=1)(dataset, wanted)
    expected = embed_pixels(open_bundle(path), read_pixels(dataset, wanted, SPEC), batch_size=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (np.abs(found - by_hand(open_bundle(path), [pictures[i] for i in wanted])).max() > 1e-3) == bool(changes)


def test_embed_files_of_nothing_is_nothing(path: Path, pictures: list[Path]) -> None:
    bundle = open_bundle(path)
    assert embed_files(bundle, [])[0].shape == (0, 6)
    pictures[0].write_bytes(b"")
    found, skipped = embed_files(bundle, pictures[:1], skip_bad=True)
    assert found.shape == (0, 6)
    assert len(skipped) == 1


def test_embed_files_refuses_a_batch_size_below_one(path: Path, pictures: list[Path]) -> None:
    with pytest.raises(ConfigError, match="batch size"):
        embed_files(open_bundle(path), pictures, batch_size=0)


def test_report_is_passed_only_when_every_check_is(path: Path) -> None:
    report = verify(path)
    assert report.passed
    assert not replace(report, checks=(*report.checks, replace(report.checks[0], passed=False))).passed


def test_another_version_of_a_runtime_than_was_measured_is_named(path: Path) -> None:
    here = onnxruntime.__version__

    def older(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["runtimes"][0]["version"] = "1.0.0"

    [before] = [check.detail for check in verify(path).checks if check.name == "runtime"]
    assert before == f"version {here} runs the model; input and output are as declared"
    replace_file(path, MODEL, (path / MODEL).read_bytes(), edit=older)
    [after] = [check.detail for check in verify(path).checks if check.name == "runtime"]
    assert f"version {here}, not the 1.0.0 that the bundle was measured with," in after
