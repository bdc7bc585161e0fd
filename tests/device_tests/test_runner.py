"""The runner as a device runs it: a process of its own, a job file in, a result file out."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_tests.errors import JobError, TransferError
from device_tests.job import Job, PixelsRef, ref
from device_tests.outcome import Inputs
from device_tests.result import parse_embeddings, parse_result

ROOT = Path(__file__).parent.parent.parent
RUNNER = ROOT / "device_tests" / "runner" / "run_job.py"
PIXELS = np.random.default_rng(0).integers(1, 256, (5, 4, 4, 1), dtype=np.uint8)


def onnx_model(kind: str, dim: int = 3) -> bytes:
    """A graph of one picture ``uint8 [b, 4, 4, 1]``: its channel sums times ``kind``'s weights, or something dead."""
    import onnx
    from onnx import TensorProto, helper

    weights = {"alive": np.random.default_rng(1).normal(size=(16, dim)), "zero": np.zeros((16, dim))}
    tensors = [
        onnx.numpy_helper.from_array(weights.get(kind, weights["alive"]).astype(np.float32), "weights"),
        onnx.numpy_helper.from_array(np.array([-1, 16], np.int64), "shape"),
        onnx.numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
        onnx.numpy_helper.from_array(np.ones(dim, np.float32), "one"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
    ]
    last = {
        "nan": helper.make_node("Div", ["product", "nothing"], ["infinite"]),
        "constant": helper.make_node("Mul", ["product", "nothing"], ["infinite"]),
    }.get(kind, helper.make_node("Identity", ["product"], ["infinite"]))
    end = helper.make_node("Add", ["infinite", "one"] if kind == "constant" else ["infinite", "nothing"], ["embedding"])
    graph = helper.make_graph(
        [*nodes, last, end],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", 4, 4, 1])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", dim])],
        tensors,
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.fixture
def folder(tmp_path, needs):
    """A job's folder with a model that works."""
    needs("onnx")
    return tmp_path


def write_job(folder: Path, data: bytes, /, **changes) -> Job:
    inputs = Inputs(PIXELS[:2], PIXELS[2:])
    for name, pixels in inputs.files.items():
        (folder / name).write_bytes(pixels)
    (folder / "model.onnx").write_bytes(data)
    content = {
        "nonce": "0123456789abcdef",
        "runtime": "onnxruntime",
        "delegate": "auto",
        "threads": 1,
        "warmup": 2,
        "device_kind": "host",
        "abi": platform.machine(),
        "model": ref("model.onnx", data),
        "inputs": inputs.refs,
        "dim": 3,
        "embeddings": "embeddings.npy",
        "result": "result.json",
    }
    job = Job(**{**content, **changes})
    (folder / "job.json").write_text(job.model_dump_json())
    return job


def execute(folder: Path) -> subprocess.CompletedProcess:
    """With numpy and the runtimes, and nothing of this project to be found."""
    command = [sys.executable, "-I", str(RUNNER), "job.json"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_a_job_gives_embeddings_latencies_and_what_they_were_made_with(folder):
    job = write_job(folder, onnx_model("alive"))
    ended = execute(folder)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {"done": 5, "total": 5}
    result = parse_result((folder / "result.json").read_bytes(), job, device="test")
    vectors = parse_embeddings((folder / "embeddings.npy").read_bytes(), result, device="test")
    weights = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    np.testing.assert_allclose(vectors, PIXELS.reshape(5, 16).astype(np.float32) @ weights, rtol=1e-5)
    assert result.abi == platform.machine()
    assert result.runtime.version
    assert len(result.latency_ms.each) == 5
    assert len(result.warmup_ms) == 2
    assert np.percentile(result.latency_ms.each, 90) == pytest.approx(result.latency_ms.p90)
    assert 1 << 20 < result.peak_rss_bytes < 1 << 33


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("zero", "5 embeddings are zero, first that of picture 0"),
        ("nan", "5 embeddings are not finite"),
        ("constant", "all 5 pictures have the same embedding"),
    ],
)
def test_embeddings_that_find_nothing_are_a_failure(folder, kind, said):
    job = write_job(folder, onnx_model(kind))
    assert execute(folder).returncode == 3
    result = parse_result((folder / "result.json").read_bytes(), job, device="test")
    assert result.failure.kind == "bad-embedding"
    assert said in result.failure.message
    assert not (folder / "embeddings.npy").exists()


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"abi": "riscv64"}, "wrong-abi", "and the job is for riscv64"),
        ({"model": ref("model.onnx", b"other")}, "wrong-file", "model.onnx has sha256"),
        ({"model": ref("nosuch.onnx", b"other")}, "wrong-file", "cannot read nosuch.onnx"),
        ({"dim": 4}, "signature", "the job says dimension 4"),
        ({"delegate": "nnapi"}, "no-delegate", "this onnxruntime has no nnapi"),
        ({"runtime": "ai-edge-litert"}, "refused", "ai-edge-litert cannot load the model"),
        ({"runtime": "tflite-runtime", "delegate": "gpu"}, "no-delegate", "has no delegate 'gpu'"),
    ],
)
def test_what_is_wrong_with_a_job_is_said_with_its_kind(folder, changes, kind, said):
    job = write_job(folder, onnx_model("alive"), **changes)
    assert execute(folder).returncode == 3
    result = parse_result((folder / "result.json").read_bytes(), job, device="test")
    assert (result.status, result.failure.kind) == ("failed", kind)
    assert said in result.failure.message


def test_pictures_of_another_size_are_refused(folder):
    other = np.zeros((5, 5, 5, 1), np.uint8)
    inputs = Inputs(other, other)
    job = write_job(folder, onnx_model("alive"), inputs=inputs.refs)
    for name, data in inputs.files.items():
        (folder / name).write_bytes(data)
    assert execute(folder).returncode == 3
    result = parse_result((folder / "result.json").read_bytes(), job, device="test")
    assert result.failure.kind == "signature"
    assert "takes pictures [4, 4, 1]" in result.failure.message


def test_a_job_of_another_schema_is_not_tried(folder):
    write_job(folder, onnx_model("alive"))
    content = json.loads((folder / "job.json").read_text()) | {"schema_version": 2}
    (folder / "job.json").write_text(json.dumps(content))
    ended = execute(folder)
    assert ended.returncode not in (0, 3)
    assert "this runner knows jobs of schema 1, not 2" in ended.stderr
    assert not (folder / "result.json").exists()


def test_nodes_that_an_execution_provider_took_are_counted_from_its_profile(folder, monkeypatch):
    import importlib.util

    import onnxruntime

    spec = importlib.util.spec_from_file_location("run_job", RUNNER)
    run_job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run_job)
    monkeypatch.chdir(folder)
    found = run_job.assigned(onnxruntime, onnx_model("alive"), "CPUExecutionProvider", np.ones((1, 4, 4, 1), np.uint8))
    assert found["nodes"] == found["nodes_taken"] >= 3
    assert list(folder.iterdir()) == []


def test_the_runner_imports_nothing_but_numpy_and_a_runtime():
    import ast

    tree = ast.parse(RUNNER.read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "ai_edge_litert", "tflite_runtime", "onnxruntime"}


@pytest.fixture
def finished(folder):
    job = write_job(folder, onnx_model("alive"))
    assert execute(folder).returncode == 0
    return job, json.loads((folder / "result.json").read_text()), (folder / "embeddings.npy").read_bytes()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"nonce": "f" * 16}, "its nonce differ"),
        ({"model_sha256": "0" * 64}, "its model differ"),
        ({"input_sha256": []}, "its inputs differ"),
        ({"threads": 4}, "its threads differ"),
        ({"abi": "aarch64" if platform.machine() != "aarch64" else "x86_64"}, "its abi differ"),
        ({"device_kind": "android-physical"}, "its device kind differ"),
        ({"embeddings": None}, "its embeddings differ"),
        ({"latency_ms": None}, "its latencies differ"),
        ({"failure": {"kind": "error", "message": "odd"}}, "says ok and not why"),
        ({"score": 1.0}, "does not fit the schema"),
        ({"status": "fine"}, "does not fit the schema"),
        ({"schema_version": 2}, "does not fit the schema"),
        ({"load_ms": -1.0}, "does not fit the schema"),
        ({"load_ms": 1e308}, "does not fit the schema"),
    ],
)
def test_a_result_that_is_not_of_its_job_is_refused(finished, changes, what):
    job, content, _ = finished
    with pytest.raises(JobError, match=what):
        parse_result(json.dumps({**content, **changes}).encode(), job, device="test")


def test_a_delegate_that_was_asked_for_and_took_no_node_is_no_result(folder):
    job = write_job(folder, onnx_model("alive"))
    assert execute(folder).returncode == 0
    content = json.loads((folder / "result.json").read_text())
    asked = job.model_copy(update={"delegate": "nnapi"})
    for name, taken in ((None, 0), ("NNAPI", 0), ("NNAPI", None), (None, 3)):
        told = {**content, "delegate": {"asked": "nnapi", "name": name, "nodes_taken": taken, "nodes": 5}}
        with pytest.raises(JobError, match="its delegate differ"):
            parse_result(json.dumps(told).encode(), asked, device="test")
    told = {**content, "delegate": {"asked": "nnapi", "name": "NNAPI", "nodes_taken": 5, "nodes": 5}}
    assert parse_result(json.dumps(told).encode(), asked, device="test").status == "ok"


def test_embeddings_are_held_to_the_result(finished):
    job, content, raw = finished
    result = parse_result(json.dumps(content).encode(), job, device="test")
    with pytest.raises(TransferError, match=f"{len(raw) - 4} bytes"):
        parse_embeddings(raw[:-4], result, device="test")

    def claimed(data):
        entry = content["embeddings"] | {"sha256": hashlib.sha256(data).hexdigest()}
        return parse_result(json.dumps({**content, "embeddings": entry}).encode(), job, device="test")

    dead = raw[:-60] + np.zeros(15, np.float32).tobytes()
    for data, said in (
        (raw[:-4], "is no .npy file of float32"),
        (b"\x80\x04pickle", "is no .npy file"),
        (b"\x93NUMPY\x01\x00\x06\x00{[]:1}", "is no .npy file"),
        (raw.replace(b"<f4", b"<f8"), "is no .npy file"),
        (dead, "5 of 5 zero or not finite"),
        (raw[:-60] + np.tile(np.float32([1, 0, 0]), 5).tobytes(), "one for all pictures"),
        (raw[:-4] + np.float32(np.nan).tobytes(), "1 of 5 zero or not finite"),
    ):
        with pytest.raises(JobError, match=said):
            parse_embeddings(data, claimed(data), device="test")


def test_a_job_names_no_file_outside_its_folder():
    good = ref("model.onnx", b"x").model_dump()
    for path in ("../model.onnx", "/etc/passwd", "a b"):
        with pytest.raises(ValueError, match="relative path"):
            PixelsRef(**{**good, "path": path}, shape=(1, 4, 4, 1))
