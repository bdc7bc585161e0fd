"""examples/fleet.yaml through the command line, on fewer characters: killed, continued, compared, exported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from commands import documents, run

FLEET = Path(__file__).parents[2] / "examples" / "fleet.yaml"
SMALLER = [
    "--set=data.num_classes=120",
    "--set=gallery.train.epochs=3",
    "--set=student_training.epochs=4",
    "--set=student_training.view_epochs=2",
    "--set=evaluation.false_accept_rates=[0.01]",
    "--set=evaluation.expect.minimum_cell=0.05",
]
STUDENTS = ["flagship", "midrange", "budget", "watch"]


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "hetero.cli", "train", str(FLEET), "--out", str(out), "--threads", "1", *SMALLER]


def results(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("**/model.safetensors"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Killed while the students train, and continued."""
    out = tmp_path_factory.mktemp("fleet") / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(out), stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 300
    while not list((out / "state" / "students").glob("step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "students").exists()
    subprocess.run(command(out), check=True, capture_output=True, timeout=300, env=environment)
    return out


def test_a_killed_fleet_ends_with_the_bits_of_one_that_was_not(trained, tmp_path):
    subprocess.run(
        command(tmp_path / "whole"), check=True, capture_output=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert results(trained) == results(tmp_path / "whole")
    models = ["gallery", *(f"students/{name}" for name in [*STUDENTS, "alone"])]
    assert set(results(trained)) == {f"{name}/model.safetensors" for name in models}


def test_compat_prints_the_whole_matrix_and_a_verdict_on_its_minimum(trained):
    report = documents(run("compat", trained, "--json", code=1))  # so short a training breaks the rule
    matrix = report["matrix"]
    assert matrix["models"] == ["gallery model", *STUDENTS]
    assert len(matrix["cells"]) == 25
    assert min(cell["r_at_1"]["value"] for cell in matrix["cells"]) == matrix["minimum"]["r_at_1"]["value"]
    [check] = [check for check in report["checks"] if check["name"].startswith("minimum cell")]
    assert check["passed"]
    ratios = [student["macs"]["ratio"] for student in report["students"] if student["role"] == "compatible"]
    assert ratios == sorted(ratios)
    assert ratios[-1] > 80
    printed = run("compat", trained, code=1).stdout
    assert "Minimum cell:" in printed
    for name in STUDENTS:
        assert name in printed


def test_a_student_of_smaller_pictures_becomes_a_bundle_that_searches_the_gallery(trained, tmp_path):
    bundle = tmp_path / "watch.hetero"
    content = documents(run("export", trained / "students" / "watch", "--out", bundle, "--json", "--no-retrieval"))
    assert content
    run("verify", bundle)
    report = documents(run("compat", trained, "--bundle", f"watch={bundle}", "--json", code=1))
    direct = documents(run("compat", trained, "--json", code=1))
    by_name = [{s["name"]: s["cells"]["heterogeneous"] for s in one["students"]}["watch"] for one in (report, direct)]
    assert by_name[0]["r_at_1"]["value"] == pytest.approx(by_name[1]["r_at_1"]["value"], abs=1e-3)
