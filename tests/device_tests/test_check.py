"""The check as its user runs it: verdicts, refusals before anything is pushed, resuming, many cells."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import documents, run
from fake_adb import FakeDevice, Fault

import exporters
from device_tests.judge import Limits, limits_of, verdict
from device_tests.report import read_result
from device_tests.schema import DeviceReport, Flip
from exporters.bundle import MANIFEST, SEAL, seal_of
from hetero.models.checkpoint import load_model
from hetero.workflows.evaluate import evaluate_run

RUNNER = r"runner job\.json"


@pytest.fixture(scope="module")
def work(trained, tmp_path_factory, needs):
    """A trained run's student in ONNX and TFLite, and the gallery model's vectors of the test pictures."""
    needs("tensorflow")
    folder = tmp_path_factory.mktemp("work")
    pictures = trained.parent / "toy.npz"
    shutil.copytree(trained, folder / "run")
    evaluate_run(folder / "run")  # which calibrates the student's thresholds
    formats = ["--format=onnx", "--format=tflite", "--precision=fp32", "--precision=int8", "--no-retrieval"]
    run("export", folder / "run" / "students" / "small", *formats, "--out", folder / "small.hetero", "--calibration=96")
    run("index", trained / "gallery", pictures, "--split=test", "--out", folder / "gallery")
    return folder


@pytest.fixture
def arguments(work, trained):
    """Of ``hetero device run``, but for the bundle and the device."""
    return ["--gallery", work / "gallery", "--data", trained.parent / "toy.npz", "--queries=48"]


@pytest.fixture
def phone(tmp_path, adb):
    device = FakeDevice("PHONE1", tmp_path / "phone")
    device.server = adb(device)
    return device


def other_model(trained, bundle, out):
    """The student that was trained alone, exported as if it were of this bundle's space."""
    alone = load_model(trained / "students" / "alone")
    return exporters.export(alone.network, out, preprocess=alone.preprocess, space=bundle.space)


def reseal(bundle: Path, manifest: dict) -> None:
    raw = json.dumps(manifest, indent=2).encode()
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / SEAL).write_bytes(seal_of(raw))


def test_every_file_in_every_runtime_gets_a_verdict(work, arguments, phone, tmp_path):
    out = tmp_path / "out"
    bundle = work / "small.hetero"
    report = documents(run("device", "run", "--bundle", bundle, *arguments, "--device=all", "--out", out, "--json"))
    cells = {(cell["format"], cell["precision"], cell["runtime"]): cell for cell in report["cells"]}
    assert set(cells) == {
        ("onnx", "fp32", "onnxruntime"),
        ("onnx", "int8", "onnxruntime"),
        *(
            ("tflite", precision, name)
            for precision in ("fp32", "int8")
            for name in ("ai-edge-litert", "tflite-runtime")
        ),
    }
    for cell in cells.values():
        assert cell["status"] == "passed", cell["reasons"]
        measured = cell["measured"]
        assert measured["queries"] == 48
        assert measured["min_cosine"] == pytest.approx(1, abs=1e-6)  # the fake phone is this very computer
        assert measured["host"]["r_at_1"]["difference"]["low"] <= 0 <= measured["host"]["r_at_1"]["difference"]["high"]
        assert measured["paragon"]["r_at_1"]["other"] > 0.8
        assert len(cell["latency_ms"]["each"]) == 48 + 8  # eight golden pictures
    assert cells["tflite", "fp32", "ai-edge-litert"]["delegate"]["name"] == "XNNPACK"
    assert cells["tflite", "fp32", "tflite-runtime"]["runtime_version"] == "2.14.0"
    assert report["verdict"] == "passed"
    assert report["queries_in_gallery"] == 48
    assert DeviceReport.model_validate_json((out / "result.json").read_bytes()) == read_result(out)
    assert "<table" in (out / "page.html").read_text(encoding="utf-8")
    assert phone.files == []


def test_the_matrix_is_printed_and_another_precision_can_be_left_out(work, arguments, tmp_path):
    asked = ["--device=local", "--precision=int8", "--format=tflite", "--runtime=ai-edge-litert", "--no-page"]
    result = run("device", "run", "--bundle", work / "small.hetero", *arguments, *asked, "--out", tmp_path / "out")
    assert "tflite int8" in result.stdout
    assert "ai-edge-litert" in result.stdout
    assert "passed" in result.stdout
    assert "onnx" not in result.stdout
    assert "never find themselves" in result.stdout.replace("\n", " ")
    assert not (tmp_path / "out" / "page.html").exists()


def test_a_bundle_with_one_byte_changed_is_refused_before_anything_is_pushed(work, arguments, phone, tmp_path):
    shutil.copytree(work / "small.hetero", tmp_path / "small.hetero")
    model = tmp_path / "small.hetero" / "tflite" / "model.int8.tflite"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    asked = ["--bundle", tmp_path / "small.hetero", *arguments, "--device=PHONE1", "--out", tmp_path / "out"]
    result = run("device", "run", *asked, code=2)
    assert "model.int8.tflite is not the file that manifest.json lists" in result.stderr
    assert phone.commands == []
    assert phone.files == []


def test_a_bundle_of_another_space_is_refused_before_anything_is_pushed(work, arguments, toy, phone, tmp_path):
    asked = ["--bundle", toy.bundle.path, *arguments, "--device=PHONE1", "--out", tmp_path / "out"]
    result = run("device", "run", *asked, code=2)
    assert toy.bundle.space.id in result.stderr
    assert "space" in result.stderr
    assert phone.commands == []
    assert phone.files == []


def test_a_file_changed_on_the_device_after_the_push_is_caught_by_the_runner(work, arguments, phone, tmp_path):
    original = phone.fault

    def tamper(name):
        if "runner job.json" in name:
            [model] = (phone.root / "tmp").rglob("model.*")
            model.write_bytes(model.read_bytes() + b"x")
        return original(name)

    phone.fault = tamper
    asked = ["--bundle", work / "small.hetero", *arguments, "--device=PHONE1", "--precision=fp32", "--format=onnx"]
    result = run("device", "run", *asked, "--out", tmp_path / "out", code=1)
    assert "PHONE1, onnx fp32, onnxruntime: wrong-file: model.onnx has sha256" in result.stderr
    assert phone.files == []


def test_an_exchanged_model_with_every_hash_rebuilt_fails_by_what_it_finds(work, arguments, trained, tmp_path):
    """Its golden embeddings are its own, so only the gallery can tell."""
    bundle = exporters.open_bundle(work / "small.hetero")
    other = other_model(trained, bundle, tmp_path / "other.hetero")
    asked = ["--bundle", other.path, *arguments, "--device=local", "--out", tmp_path / "out", "--no-page"]
    result = run("device", "run", *asked, code=1)
    assert "local, onnx fp32, onnxruntime: R@1 0." in result.stderr
    report = read_result(tmp_path / "out")
    [cell] = report.cells
    assert cell.status == "failed"
    assert cell.measured.golden.max_abs <= cell.measured.golden.limit
    assert cell.measured.r_at_1.value < 0.5 * cell.measured.paragon.r_at_1.other


def test_an_exchanged_model_file_fails_by_the_golden_embeddings(work, arguments, trained, tmp_path):
    bundle = exporters.open_bundle(work / "small.hetero")
    other = other_model(trained, bundle, tmp_path / "other.hetero")
    shutil.copytree(bundle.path, tmp_path / "mixed.hetero")
    path = "onnx/model.fp32.onnx"
    data = (other.path / path).read_bytes()
    (tmp_path / "mixed.hetero" / path).write_bytes(data)
    manifest = json.loads(bundle.raw)
    [entry] = [entry for entry in manifest["files"] if entry["path"] == path]
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    reseal(tmp_path / "mixed.hetero", manifest)
    asked = [
        "--bundle",
        tmp_path / "mixed.hetero",
        *arguments,
        "--device=local",
        "--out",
        tmp_path / "out",
        "--no-page",
    ]
    result = run("device", "run", *asked, code=1)
    assert "local, onnx fp32, onnxruntime: golden embeddings are off by" in result.stderr
    assert "on the host too: this is not the file that the bundle was made with" in result.stderr
    statuses = {(cell.format, cell.precision): cell.status for cell in read_result(tmp_path / "out").cells}
    assert statuses["onnx", "fp32"] == "failed"
    assert statuses["tflite", "fp32"] == statuses["onnx", "int8"] == "passed"


def test_finished_cells_are_not_run_again(work, arguments, phone, tmp_path):
    asked = ["--bundle", work / "small.hetero", *arguments, "--device=PHONE1", "--out", tmp_path / "out", "--no-page"]
    phone.faults.append(Fault(r"cd .*runner job\.json", "none"))
    phone.faults.append(Fault(RUNNER, "code", code=9, times=99))
    run("device", "run", *asked, code=1)
    first = read_result(tmp_path / "out")
    assert [cell.status for cell in first.cells] == ["passed", *["failed"] * 5]
    phone.faults.clear()
    phone.commands.clear()
    run("device", "run", *asked)
    second = read_result(tmp_path / "out")
    assert [cell.resumed for cell in second.cells] == [True, *[False] * 5]
    assert sum("runner job.json" in command for command in phone.commands) == 5
    assert second.cells[0].measured == first.cells[0].measured
    phone.commands.clear()
    run("device", "run", *asked)
    assert not any("runner job.json" in command for command in phone.commands)
    assert phone.files == []


def test_a_runner_that_hung_does_not_run_beside_the_next_cell(work, arguments, phone, tmp_path):
    phone.faults.append(Fault(RUNNER, "hang"))
    asked = ["--device=PHONE1", "--format=onnx", "--timeout=2", "--no-page", "--out", tmp_path / "out"]
    original, beside = phone.fault, []

    def fault(name):
        if "runner job.json" in name:
            beside.append(len([pid for pid in phone.alive if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]))
        return original(name)

    phone.fault = fault
    run("device", "run", "--bundle", work / "small.hetero", *arguments, *asked, code=1)
    assert [cell.status for cell in read_result(tmp_path / "out").cells] == ["failed", "passed"]
    assert beside == [0, 0]
    assert phone.files == []


def test_a_stored_cell_of_another_job_is_run_again(work, arguments, tmp_path):
    asked = ["--device=local", "--format=onnx", "--precision=fp32", "--no-page", "--out", tmp_path / "out"]
    command = ["device", "run", "--bundle", work / "small.hetero", *arguments, *asked]
    run(*command)
    folders = list((tmp_path / "out" / "cells").glob("*/"))
    assert len(folders) == 2  # the host's own is kept apart: a cell is never its own judge
    for folder in folders:
        for name in ("job.json", "result.json"):
            content = json.loads((folder / name).read_text()) | {"threads": 8}
            (folder / name).write_text(json.dumps(content))
    run(*command)
    assert [cell.resumed for cell in read_result(tmp_path / "out").cells] == [False]
    for folder in folders:
        (folder / "conditions.json").write_text('{"temperature_c": null}')
    run(*command)
    assert [cell.resumed for cell in read_result(tmp_path / "out").cells] == [False]
    run(*command)
    assert [cell.resumed for cell in read_result(tmp_path / "out").cells] == [True]
    run(*command, "--threads=2")
    assert [cell.resumed for cell in read_result(tmp_path / "out").cells] == [False]


def test_a_bundle_cannot_bring_code_to_the_runner(work, arguments, tmp_path):
    """A model file called like a module would be imported, were it pushed under its own name."""
    shutil.copytree(work / "small.hetero", tmp_path / "evil.hetero")
    manifest = json.loads((tmp_path / "evil.hetero" / MANIFEST).read_text())
    code = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    entry = manifest["files"][0]
    for name in ("onnx/numpy.py", "onnx/numpy.py.onnx"):
        (tmp_path / "evil.hetero" / entry["path"]).unlink()
        (tmp_path / "evil.hetero" / name).write_bytes(code)
        entry |= {"path": name, "sha256": hashlib.sha256(code).hexdigest(), "size_bytes": len(code)}
        reseal(tmp_path / "evil.hetero", manifest)
        asked = ["--bundle", tmp_path / "evil.hetero", *arguments, "--device=local", "--out", tmp_path / "out"]
        result = run("device", "run", *asked, "--no-page", code=2 if name.endswith(".py") else 1)
        if name.endswith(".py"):
            assert "the path of a onnx file does not end as" in result.stderr
        assert not (tmp_path / "ran").exists()


def test_one_device_that_cannot_be_used_leaves_the_others_results(work, arguments, tmp_path, monkeypatch):
    for name in ("sh", "mkdir", "rm", "readlink", "sha256sum"):
        (tmp_path / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path))  # no QEMU and no adb
    asked = ["--device=local", "--device=emulator:none", "--format=onnx", "--precision=fp32", "--no-page"]
    result = run(
        "device", "run", "--bundle", work / "small.hetero", *arguments, *asked, "--out", tmp_path / "out", code=1
    )
    assert "sudo apt-get install qemu-system-arm adb" in result.stderr
    report = read_result(tmp_path / "out")
    assert {cell.device: cell.status for cell in report.cells} == {"local": "passed", "emulator:none": "failed"}


def test_results_that_could_not_be_kept_are_told_before_a_device_is_touched(work, arguments, phone, tmp_path):
    (tmp_path / "file").write_text("mine")
    asked = ["--bundle", work / "small.hetero", *arguments, "--device=PHONE1", "--out", tmp_path / "file"]
    run("device", "run", *asked, "--no-page", code=2)
    assert not any("mkdir" in command for command in phone.commands)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_result_that_was_damaged_on_disk_is_run_again(work, arguments, tmp_path):
    asked = ["--bundle", work / "small.hetero", *arguments, "--device=local", "--format=onnx", "--no-page"]
    run("device", "run", *asked, "--out", tmp_path / "out")
    for file in (tmp_path / "out" / "cells").glob("*/embeddings.npy"):
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    run("device", "run", *asked, "--out", tmp_path / "out")
    assert [cell.resumed for cell in read_result(tmp_path / "out").cells] == [False, False]


def test_a_killed_check_goes_on_and_leaves_nothing_on_the_device(work, arguments, phone, tmp_path):
    """SIGKILL in the middle of a cell: nobody cleans up, and the next call does."""
    phone.faults.append(Fault(r"cd .*runner job\.json", "none"))
    phone.faults.append(Fault(RUNNER, "hang"))
    asked = ["--bundle", work / "small.hetero", *arguments, "--device=PHONE1", "--out", tmp_path / "out", "--no-page"]
    command = [sys.executable, "-m", "hetero.cli", "device", "run", *map(str, asked)]
    process = subprocess.Popen(command, env={**os.environ}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not any(pid for pid in phone.alive if phone.faults[1].times == 0) and time.monotonic() < until:
        time.sleep(0.05)
    assert phone.alive, "the hung runner never began"
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert phone.files
    run("device", "run", *asked)
    report = read_result(tmp_path / "out")
    assert report.verdict == "passed"
    assert [cell.resumed for cell in report.cells] == [True, *[False] * 5]
    assert phone.files == []
    assert phone.alive == []


def test_bad_arguments_are_one_clear_error(work, arguments, adb, tmp_path):
    adb()
    bundle = ["--bundle", work / "small.hetero"]
    for extra, said in (
        (["--precision=int4"], "the bundle has no such precision; got 'int4'; expected one of fp32, int8"),
        (["--runtime=snpe"], "no such runtime"),
        (["--delegate=npu"], "no such delegate"),
        (["--format=coreml"], "no such format"),
        ([], "no device is connected"),
        (["--device=NOSUCH", "--device=OTHER"], "adb sees no such device"),
        (["--device=local", "--split=nosuch"], "has no split 'nosuch'"),
        (["--device=local", "--paragon=/nosuch"], "nosuch lacks gallery.json"),
        (["--device=local", "--runner=/nosuch"], "cannot read the runner"),
        (["--device=local", "--runner-kind=odd"], "unknown kind of runner"),
        (["--device=local", "--runner=/dev/zero"], "is not a plain file"),
        (["--device=emulator:../x"], "a machine has a plain name"),
        (["--device=local", "--seed=-1"], "greater than or equal to 0"),
    ):
        code = 1 if "NOSUCH" in str(extra) else 2
        asked = [*bundle, *arguments, *extra, "--out", tmp_path / "out", "--no-page"]
        assert said in run("device", "run", *asked, code=code).stderr.replace("\n", " "), extra


def test_a_delegate_that_is_not_there_is_not_run_and_says_so(work, arguments, tmp_path):
    asked = ["--bundle", work / "small.hetero", *arguments, "--device=local", "--format=onnx", "--precision=fp32"]
    run("device", "run", *asked, "--delegate=auto", "--delegate=nnapi", "--out", tmp_path / "out", "--no-page")
    cells = read_result(tmp_path / "out").cells
    assert [cell.status for cell in cells] == ["passed", "not run"]
    assert "this onnxruntime has no nnapi, only" in cells[1].reasons[0]
    result = run("device", "run", *asked, "--delegate=nnapi", "--out", tmp_path / "only", "--no-page", code=1)
    assert "ran nothing" in result.stderr


def test_xnnpack_that_takes_no_node_is_told(work, arguments, tmp_path):
    """tflite-runtime 2.14 leaves int8 files to its plain kernels."""
    asked = ["--device=local", "--format=tflite", "--precision=int8", "--delegate=xnnpack", "--delegate=none"]
    run("device", "run", "--bundle", work / "small.hetero", *arguments, *asked, "--out", tmp_path / "out", "--no-page")
    cells = {(cell.runtime, cell.delegate.asked): cell for cell in read_result(tmp_path / "out").cells}
    assert cells["ai-edge-litert", "xnnpack"].delegate.nodes_taken > 0
    assert cells["ai-edge-litert", "none"].delegate.nodes_taken == 0
    assert cells["tflite-runtime", "xnnpack"].status == "not run"
    assert "XNNPACK took none of the" in cells["tflite-runtime", "xnnpack"].reasons[0]


def cell_file(precision):
    """What of a model file the limits depend on."""
    return SimpleNamespace(precision=precision)


def test_every_limit_of_the_verdict_is_held(work, arguments, tmp_path):
    """Each number of a cell that passed, moved over its limit, fails the cell with a line of its own."""
    asked = ["--device=local", "--format=onnx", "--precision=fp32", "--no-page", "--out", tmp_path / "out"]
    run("device", "run", "--bundle", work / "small.hetero", *arguments, *asked)
    [cell] = read_result(tmp_path / "out").cells
    good, limits = cell.measured, Limits(0.9999, 0.99)
    assert verdict(good, limits) == []
    one = good.host.r_at_1

    def r_at_1(low, high):
        moved = one.model_copy(update={"difference": one.difference.model_copy(update={"low": low, "high": high})})
        return {"host": good.host.model_copy(update={"r_at_1": moved})}

    threshold = good.thresholds[0]
    names = {"query": "q", "number": 0, "host": "a", "device": "b"}
    flip = Flip(**names, host_right=True, device_right=True, cosine=1.0)
    assert verdict(good.model_copy(update={"same_top": 0.98, "flips": (flip,)}), limits) == []  # one is a near tie
    wrong = {
        "golden embeddings": {"golden": good.golden.model_copy(update={"max_abs": 0.1})},
        "smallest cosine": {"min_cosine": 0.9998},
        "same first match": {"same_top": 0.95, "flips": (flip, flip)},
        "R@1 differs": r_at_1(-0.03, -0.01),
        "R@1 differs from": r_at_1(0.01, 0.03),
        "not told from chance": {"r_at_1": good.r_at_1.model_copy(update={"low": 0.0})},
        "less than half": {"r_at_1": good.r_at_1.model_copy(update={"value": 0.3, "low": 0.2})},
        "right pairs": {"thresholds": (threshold.model_copy(update={"device_true_accepts": 0.0}),)},
        "wrong pairs": {"thresholds": (threshold.model_copy(update={"device_false_accepts": 0.9}),)},
    }
    for words, update in wrong.items():
        [reason] = verdict(good.model_copy(update=update), limits)
        assert words in reason
    assert (limits_of(cell_file("fp32")), limits_of(cell_file("int8"))) == (Limits(0.9999, 0.99), Limits(0.99, 0.97))
    assert limits_of(cell_file("fp16")) == Limits(0.999, 0.98)


def test_the_embeddings_that_come_back_are_those_of_exporters(work, arguments, tmp_path):
    """The runner shares no code with exporters: both must give the same vectors."""
    asked = ["--device=local", "--format=onnx", "--precision=fp32", "--no-page", "--out", tmp_path / "out"]
    run("device", "run", "--bundle", work / "small.hetero", *arguments, *asked)
    host, stored = (tmp_path / "out" / "cells").glob("*/embeddings.npy")  # kept apart: a cell is not its own judge
    assert host.read_bytes() == stored.read_bytes()
    bundle = exporters.open_bundle(work / "small.hetero")
    from exporters.verify import golden_arrays

    pixels, _ = golden_arrays(bundle)
    found = np.load(stored, allow_pickle=False)[: len(pixels)]
    np.testing.assert_allclose(found, exporters.embed_pixels(bundle, pixels), atol=1e-6)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_check_cleans_the_phone_and_ends_soon(work, arguments, phone, tmp_path, sign):
    phone.faults.append(Fault(RUNNER, "hang"))
    asked = ["--bundle", work / "small.hetero", *arguments, "--device=PHONE1", "--out", tmp_path / "out", "--no-page"]
    # Started from a background job, a process ignores SIGINT, and so do its children.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import hetero.cli; hetero.cli.main()"
    )
    command = [sys.executable, "-c", program, "device", "run", *map(str, asked)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    until = time.monotonic() + 60
    while not (phone.alive and phone.faults[0].times == 0) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(sign)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 15
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[sign], said
    assert phone.files == []
    assert phone.alive == []
