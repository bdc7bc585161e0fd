"""A phone has no Python: a program that the user supplies runs the jobs, or only measures latency."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import run
from fake_adb import FakeDevice

from device_tests.native import benchmark_argv, parse_benchmark
from device_tests.report import read_result

RUNNER = Path(__file__).parent.parent.parent / "device_tests" / "runner" / "run_job.py"
SAID = """STARTING!
Graph: [model.fp32.tflite]
Initialized session in 1.234ms.
Running benchmark for at least 3 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=3 first=9000 curr=2500 min=2400 max=9000 avg=4600 std=31

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2400 curr=2301 min=2290 max=2500 avg=2320.5 std=31

Inference timings in us: Init: 1234, First inference: 9000, Warmup (avg): 4600, Inference (avg): 2320.5
"""


@pytest.fixture
def arguments(toy, tmp_path):
    data = ["--gallery", toy.gallery.path, "--data", toy.pictures, "--queries=24", "--out", tmp_path / "out"]
    return ["device", "run", "--bundle", toy.bundle.path, *data, "--device=PHONE1"]


@pytest.fixture
def phone(tmp_path, adb):
    device = FakeDevice("PHONE1", tmp_path / "phone", python=False)
    adb(device)
    return device


@pytest.fixture
def tool(tmp_path):
    def write(text):
        (tmp_path / "tool").write_text(f"#!/bin/sh\n{text}\n")
        return tmp_path / "tool"

    return write


def test_without_a_runner_a_phone_says_what_is_missing(arguments, phone):
    result = run(*arguments, "--no-page", code=1)
    assert "this device has no Python: give a --runner, see docs/phones.md" in result.stderr
    assert phone.files == []


def test_a_native_runner_that_follows_the_contract_is_judged(arguments, phone, tool, tmp_path):
    run(*arguments, "--runner", tool(f'exec {sys.executable} {RUNNER} "$1"'), "--no-page")
    [cell] = read_result(tmp_path / "out").cells
    assert cell.status == "passed"
    assert phone.files == []


def test_a_native_runner_that_gives_nothing_fails_with_its_exit_code(arguments, phone, tool):
    result = run(*arguments, "--runner", tool("echo no model >&2; exit 7"), "--no-page", code=1)
    assert "the runner ended without a result" in result.stderr
    assert "exit code 7" in result.stderr
    assert "no model" in result.stderr
    result = run(*arguments, "--runner", tool("exit 0"), "--no-page", code=1)
    assert "pull" in result.stderr  # there is no result.json to be pulled
    assert phone.files == []


@pytest.fixture(scope="module")
def tflite(needs, tmp_path_factory, toy):
    """The toy bundle's student as TFLite: an ONNX file is nothing for TFLite's tool."""
    needs("tensorflow")
    out = tmp_path_factory.mktemp("tflite") / "small.hetero"
    golden = toy.bundle.path.parent / "small"
    run("export", golden, "--format=tflite", "--format=onnx", "--no-retrieval", "--out", out)
    return out


def test_tflites_benchmark_tool_gives_a_latency_and_no_verdict(tflite, arguments, phone, tool, tmp_path):
    arguments[3] = tflite
    script = f"echo \"$@\" > {tmp_path}/asked; cat <<'END'\n{SAID}END"
    result = run(*arguments, "--runner", tool(script), "--runner-kind=tflite-benchmark", "--threads=2")
    report = read_result(tmp_path / "out")
    assert report.verdict == "not judged"
    cells = {cell.format: cell for cell in report.cells if cell.runtime != "tflite-runtime"}
    assert cells["onnx"].status == "not run"
    assert "runs TFLite files" in cells["onnx"].reasons[0]
    assert cells["tflite"].status == "latency only"
    assert cells["tflite"].latency_ms.mean == pytest.approx(2.3205)
    assert cells["tflite"].latency_ms.load == pytest.approx(1.234)
    assert cells["tflite"].latency_ms.quoted
    assert "latency only" in result.stdout
    assert (tmp_path / "asked").read_text().split() == [
        "--graph=model.tflite",
        "--num_runs=50",
        "--warmup_runs=3",
        "--num_threads=2",
    ]
    assert "2.32" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert phone.files == []


def test_a_tool_that_prints_something_else_is_an_error(tflite, arguments, phone, tool):
    arguments[3] = tflite
    result = run(*arguments, "--runner", tool("echo hello"), "--runner-kind=tflite-benchmark", "--no-page", code=1)
    assert "the benchmark tool printed no summary" in result.stderr
    assert phone.files == []


def test_the_last_summary_counts_and_a_delegate_becomes_its_flag():
    found = parse_benchmark(SAID)
    assert (found.runs, found.mean_ms, found.min_ms, found.max_ms, found.load_ms) == (50, 2.3205, 2.29, 2.5, 1.234)
    assert parse_benchmark("count=x") is None
    assert parse_benchmark("count=5 first=1 curr=1 min=a max=b avg=c") is None
    assert "--use_gpu=true" in benchmark_argv("./t", "m", threads=1, warmup=0, delegate="gpu")
    assert benchmark_argv("./t", "m", threads=1, warmup=0, delegate="qnn") is None
