"""The whole way on the emulated arm64 device: real QEMU, Debian's adbd, a real adb server, real Omniglot pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run

from device_tests import emulated
from device_tests.adb import BASE
from device_tests.adb_wire import make_client
from device_tests.emulator.machine import ADB_SCANS, free_port
from device_tests.report import read_result

GOLDEN = Path(__file__).parent.parent / "golden" / "omniglot"
QUERIES = 60
NAME = f"test-{os.getpid()}"
DEVICE = f"--device=emulator:{NAME}"


@pytest.fixture(scope="module", autouse=True)
def adb_server():
    """An adb server of our own: the user's is left alone, and this one is ended afterwards."""
    for program in ("qemu-system-aarch64", "adb"):
        if shutil.which(program) is None:
            reason = f"{program} is not installed (sudo apt-get install qemu-system-arm adb)"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    patch = pytest.MonkeyPatch()
    patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    try:
        yield
    finally:
        emulated.stop(NAME)
        make_client().server_kill()
        patch.undo()


@pytest.fixture(scope="module")
def bundle(hetero_data, needs, tmp_path_factory):
    """The golden student in ONNX fp32, TFLite fp32 and int8."""
    needs("tensorflow")
    out = tmp_path_factory.mktemp("bundle") / "small.hetero"
    formats = ["--format=onnx", "--format=tflite", "--precision=fp32", "--precision=int8"]
    data = ["--data", hetero_data / "omniglot28.npz", "--no-retrieval"]
    run("export", GOLDEN / "small", *formats, *data, "--out", out)
    return out


@pytest.fixture
def arguments(bundle, hetero_data, tmp_path):
    data = hetero_data / "omniglot28.npz"
    shared = ["--bundle", bundle, "--gallery", GOLDEN / "gallery", "--data", data, f"--queries={QUERIES}"]
    return ["device", "run", *map(str, shared), DEVICE, "--out", str(tmp_path / "out")]


def started(arguments, tmp_path) -> subprocess.Popen:
    """The check in a process of its own, returned when its first cell on the device is finished."""
    log = open(tmp_path / "log", "wb")  # noqa: SIM115  (the process has it)
    process = subprocess.Popen([sys.executable, "-m", "hetero.cli", *arguments], stdout=log, stderr=log)
    log.close()
    until = time.monotonic() + 200
    while time.monotonic() < until and process.poll() is None:
        cells = (tmp_path / "out" / "cells").glob("[!.]*/job.json")  # those with a dot are still being written
        jobs = [json.loads(path.read_text()) for path in cells]
        if any(job["device_kind"] == "linux-arm64-emulated" for job in jobs):
            return process
        time.sleep(0.05)
    pytest.fail((tmp_path / "log").read_text())


def files_on_device() -> list[str]:
    device = emulated.EmulatedDevice(NAME)
    return device.run(("ls", "-A", BASE), timeout_s=30).stdout.split()


def require_whole(tmp_path):
    report = read_result(tmp_path / "out")
    assert report.verdict == "passed", [cell.reasons for cell in report.cells]
    ran = {(cell.format, cell.precision): cell for cell in report.cells if cell.status == "passed"}
    assert set(ran) == {("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")}
    return ran


def test_every_file_finds_on_an_arm64_device_what_it_finds_here(arguments, tmp_path):
    result = run(*arguments)
    assert "emulated arm64 Linux device" in result.stdout
    for (_, precision), cell in require_whole(tmp_path).items():
        measured = cell.measured
        assert measured.queries == QUERIES
        assert measured.min_cosine >= (0.9999 if precision == "fp32" else 0.99)
        assert measured.same_top >= (0.99 if precision == "fp32" else 0.97)
        assert len(measured.flips) == round((1 - measured.same_top) * QUERIES)
        assert measured.host.r_at_1.difference.low <= 0 <= measured.host.r_at_1.difference.high
        assert measured.r_at_1.value > 0.8
        assert not cell.latency_ms.quoted
    report = read_result(tmp_path / "out")
    for cell in report.cells:
        if cell.runtime == "tflite-runtime":
            assert (cell.status, cell.reasons) == (
                "not run",
                ("tflite-runtime has no wheel for this device's Python 3.13",),
            )
    results = [json.loads(path.read_text()) for path in (tmp_path / "out" / "cells").glob("*/result.json")]
    inside = [one for one in results if one["device_kind"] == "linux-arm64-emulated"]
    assert {one["abi"] for one in inside} == {"aarch64"}  # by the runner, on the device
    assert all("aarch64" in one["system"] for one in inside)
    page = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    assert "no bionic, no ART" in page
    assert files_on_device() == []


def test_the_machine_listens_on_loopback_only_and_where_adb_does_not_look():
    machine = emulated.start(NAME)
    assert machine.port not in ADB_SCANS
    listening = subprocess.run(
        [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {machine.port}), 5)"],
        check=False,
    )
    assert listening.returncode == 0
    hexadecimal = f":{machine.port:04X}"
    lines = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if hexadecimal in line]
    assert {address.split(":")[0] for address in lines if address.endswith(hexadecimal)} == {"0100007F"}
    assert emulated.status(NAME) == machine
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        program = f"import socket; socket.create_connection(('10.0.2.2', {server.getsockname()[1]}), 5)"
        ended = emulated.EmulatedDevice(NAME).run(("python3", "-c", program), timeout_s=60)
    assert ended.exit_code != 0  # the guest reaches nothing of the host


def test_a_machine_that_is_killed_in_the_middle_is_started_again_and_the_report_is_whole(arguments, tmp_path):
    process = started(arguments, tmp_path)
    machine = emulated.status(NAME)
    os.kill(machine.pid, signal.SIGKILL)
    assert process.wait(300) == 0, (tmp_path / "log").read_text()
    require_whole(tmp_path)
    assert "trying again" in (tmp_path / "log").read_text()
    assert emulated.status(NAME).pid != machine.pid
    assert files_on_device() == []


def test_after_machine_and_check_are_killed_the_next_call_finishes_the_rest(arguments, tmp_path):
    process = started(arguments, tmp_path)
    process.kill()
    process.wait()
    os.kill(emulated.status(NAME).pid, signal.SIGKILL)
    run(*arguments)
    ran = require_whole(tmp_path)
    assert {cell.resumed for cell in ran.values()} == {True, False}
    assert files_on_device() == []


def test_an_adb_server_that_is_killed_in_the_middle_is_started_again(arguments, tmp_path):
    process = started(arguments, tmp_path)
    make_client().server_kill()
    assert process.wait(300) == 0, (tmp_path / "log").read_text()
    require_whole(tmp_path)
    assert files_on_device() == []


def test_a_machine_is_stopped_once():
    machine = emulated.start(NAME)
    assert emulated.stop(NAME)
    assert not machine.alive
    assert not emulated.stop(NAME)
    assert emulated.status(NAME) is None
    run("device", "emulator", "status", "--name", NAME, code=1)
