"""``hetero export`` as a person or a script uses it: what files are proved with, what fails them, what is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import documents, run

from exporters import recipes
from exporters.proof import proof_of

UPPER = ("retrieval", "flips", "thresholds")
ALLOWED = [f"--allow={rung}" for rung in UPPER]  # one query more or less is more than the limits on a set so small
INT8 = ["--precision", "fp32", "--precision", "int8"]


@pytest.fixture
def student(trained: Path, tmp_path: Path) -> Path:
    """The student outside its run."""
    return Path(shutil.copytree(trained / "students" / "small", tmp_path / "small"))


def statuses(file: dict) -> dict[str, str]:
    return {rung["rung"]: rung["status"] for rung in file["ladder"]}


def test_export_prints_every_file_with_its_latency_and_writes_a_page(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    student, page = trained / "students" / "small", tmp_path / "page.html"
    arguments = ["--precision", "fp32", "--precision", "fp16", "--out", tmp_path / "small.hetero"]
    content = documents(run("export", student, *arguments, "--page", page, "--json"))
    assert set(content) == {"bundle", "manifest", "latency_ms"}
    files = [file["path"] for file in content["manifest"]["files"]]
    assert list(content["latency_ms"]) == files == ["onnx/model.fp32.onnx", "onnx/model.fp16.onnx"]
    assert all(timed["onnxruntime"] > 0 for timed in content["latency_ms"].values())
    assert all(path in page.read_text(encoding="utf-8") for path in files)
    page.unlink()
    text = " ".join(run("export", student, *arguments).stdout.split())
    assert not page.exists()
    for part in (*files, "ms per image", "onnxruntime", "R@1 difference", "passed"):
        assert part in text
    for file in content["manifest"]["files"]:
        assert f"{file['size_bytes']:,} B" in text


def test_pictures_that_nobody_divided_all_search_or_all_calibrate(trained, tmp_path):
    student, pixels = trained / "students" / "small", np.random.default_rng(0).integers(0, 256, (60, 12, 12), np.uint8)
    np.savez(tmp_path / "some.npz", images=pixels, labels=np.arange(60) // 20)
    places = {"data": tmp_path / "some.npz", "gallery_model": trained / "gallery"}
    searched = proof_of(student, **places)
    assert (searched.calibration, searched.retrieval.name) == (None, "some")
    assert len(searched.retrieval.protocol.query_ids) == len(searched.retrieval.gallery) == 60
    assert len(proof_of(student, **places, search=False, calibration_pictures=40).calibration) == 40


def test_in_a_run_files_are_calibrated_on_its_pictures_and_search_its_gallery(trained, tmp_path):
    arguments = [trained / "students" / "small", "--out", tmp_path / "s.hetero", *INT8, *ALLOWED, "--json"]
    manifest = documents(run("export", *arguments, "--calibration", 64))["manifest"]
    assert manifest["retrieval"]["data"] == "toy/test"
    assert manifest["retrieval"]["queries"] == 96
    assert manifest["calibration"]["pictures"] + manifest["calibration"]["held_back"] == 64
    assert [file["precision"] for file in manifest["files"]] == ["fp32", "int8"]
    for file in manifest["files"]:
        assert not {statuses(file)[rung] for rung in UPPER[:2]} & {"not measured"}
    assert statuses(manifest["files"][0])["retrieval"] == "passed"
    assert statuses(manifest["files"][1])["retrieval"] in ("undecided", "allowed")  # 96 queries do not tell 0.5 points
    again = documents(run("export", *arguments, "--calibration", 64))["manifest"]
    assert [file["sha256"] for file in again["files"]] == [file["sha256"] for file in manifest["files"]]
    fewer = documents(run("export", *arguments, "--calibration", 40))["manifest"]
    assert fewer["calibration"]["sha256"] != manifest["calibration"]["sha256"]


def test_without_retrieval_nothing_of_it_is_measured_and_nothing_passed(trained, tmp_path):
    arguments = [trained / "students" / "small", "--out", tmp_path / "s.hetero", "--no-retrieval"]
    manifest = documents(run("export", *arguments, "--json"))["manifest"]
    assert manifest["retrieval"] is None
    assert {statuses(manifest["files"][0])[rung] for rung in UPPER} == {"not measured"}


def test_outside_a_run_int8_needs_pictures_and_names_the_option(student, tmp_path):
    result = run("export", student, *INT8, "--out", tmp_path / "s.hetero", code=2)
    assert "needs calibration pictures" in result.stderr
    assert "--data" in result.stderr
    assert not (tmp_path / "s.hetero").exists()


def test_outside_a_run_data_and_gallery_model_take_its_place(student, trained, config, tmp_path):
    pictures = config.parent / "toy.npz"
    arguments = ["export", student, "--data", pictures, "--out", tmp_path / "s.hetero", "--json"]
    unsearched = run(*arguments, *INT8, "--calibration", 64)
    assert "no gallery model is named" in unsearched.stderr
    manifest = documents(unsearched)["manifest"]
    assert manifest["calibration"] is not None
    assert manifest["retrieval"] is None
    more = ["--gallery-model", trained / "gallery", "--split", "train"]
    searched = documents(run(*arguments, *more))["manifest"]["retrieval"]
    assert searched["data"].endswith("/train")
    assert searched["queries"] == 96
    rest = documents(run(*arguments, *more[:2]))["manifest"]["retrieval"]
    assert (rest["data"].endswith("/test"), rest["queries"]) == (True, 96)  # the classes that are not trained on
    judged = run(*arguments, *INT8, *more, "--calibration", 64, code=2)
    assert "judged on the pictures that they are calibrated on; got 64 of 64" in judged.stderr


def test_in_a_run_other_data_search_the_runs_gallery_model(trained, config, tmp_path):
    arguments = ["export", trained / "students" / "small", "--out", tmp_path / "s.hetero", "--json"]
    for data in (config, config.parent / "toy.npz"):
        searched = documents(run(*arguments, "--data", data))["manifest"]["retrieval"]
        assert (searched["data"].endswith("/test"), searched["queries"]) == (True, 96)
    other = tmp_path / "train.yaml"
    other.write_text(
        yaml.safe_dump({**yaml.safe_load(config.read_text()), "evaluation": {"split": "train"}}), encoding="utf-8"
    )
    searched = documents(run(*arguments, "--data", other))["manifest"]["retrieval"]
    assert searched["data"].endswith("/train")  # as that config evaluates
    wrong = run(*arguments, "--data", config, "--split", "tset", code=2)
    assert "tset" in wrong.stderr
    unused = run(*arguments, "--no-retrieval", "--split", "test", code=2)
    assert "--split says what is searched, and nothing is" in unused.stderr


@pytest.mark.parametrize(
    "options",
    [["--allow", "retreival"], ["--licence", "MY OWN"], ["--out", "student"]],
    ids=["allow", "licence", "out"],
)
def test_what_is_wrong_anyway_is_said_before_the_gallery_is_embedded(trained, options, monkeypatch):
    monkeypatch.setattr("exporters.proof.proof_of", lambda *_, **__: pytest.fail("embedded before checking"))
    content = documents(run("export", trained / "students" / "small", *options, "--json", code=2))
    assert content["error"]["type"] == "ConfigError"


def test_an_error_of_the_file_system_is_json_too(trained, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("exporters.export", full)
    arguments = [trained / "students" / "small", "--out", tmp_path / "s.hetero", "--no-retrieval", "--json"]
    assert "Input/output error" in documents(run("export", *arguments, code=2))["error"]["message"]


@pytest.mark.parametrize("option", ["--gallery-model", "--split"])
def test_options_about_pictures_want_pictures(student, option):
    result = run("export", student, option, "x", code=2)
    assert "--data" in result.stderr


def test_a_student_of_another_space_is_refused_naming_both_ids(trained, tmp_path):
    alone, out = trained / "students" / "alone", tmp_path / "alone.hetero"
    result = run("export", alone, "--out", out, code=2)
    for part in (alone, trained / "gallery"):
        assert json.loads((part / "model.json").read_text())["space"]["id"] in result.stderr
    assert "--no-retrieval" in result.stderr
    assert not out.exists()
    run("export", alone, "--out", out, "--no-retrieval")
    assert out.is_dir()


@pytest.fixture
def strict(monkeypatch):
    """Limits that no int8 file keeps."""
    monkeypatch.setitem(recipes._INT8, "mean_cosine", 1.5)


@pytest.mark.usefixtures("strict")
def test_a_file_that_fails_stops_the_export_with_numbers_and_layers(trained, tmp_path):
    out = tmp_path / "s.hetero"
    result = run("export", trained / "students" / "small", "--out", out, *INT8, *ALLOWED, code=2)
    text = " ".join(result.stderr.split())
    assert "onnx int8" in text
    assert "mean_cosine" in text
    assert "the layers that lose most alone: " in text
    assert not out.exists()


@pytest.mark.usefixtures("strict")
def test_a_file_that_fails_is_left_out_with_its_evidence_if_asked(trained, tmp_path):
    arguments = [trained / "students" / "small", "--out", tmp_path / "s.hetero", *INT8, *ALLOWED, "--leave-out"]
    manifest = documents(run("export", *arguments, "--json"))["manifest"]
    assert [file["precision"] for file in manifest["files"]] == ["fp32"]
    [left_out] = manifest["blocked"]
    assert left_out["precision"] == "int8"
    assert statuses(left_out)["cosine"] == "failed"
    assert {layer["name"] for layer in left_out["layers"]}
    assert "left out" in run("report", tmp_path / "s.hetero").stdout


@pytest.mark.usefixtures("strict")
def test_a_file_that_fails_a_rung_that_it_may_is_written_and_says_so(trained, tmp_path):
    arguments = [trained / "students" / "small", "--out", tmp_path / "s.hetero", *INT8, *ALLOWED, "--allow", "cosine"]
    manifest = documents(run("export", *arguments, "--json"))["manifest"]
    assert [statuses(file)["cosine"] for file in manifest["files"]] == ["no limit", "allowed"]


def test_what_cannot_be_is_refused_at_once(trained, tmp_path):
    student, out = trained / "students" / "small", ["--out", tmp_path / "s.hetero"]
    for arguments, parts in (
        (["--allow", "luck"], ("'luck'", "thresholds")),
        ([*INT8, "--calibration", 5], ("got 5", "32 to 4096")),
        (["--split", "nowhere"], ("nowhere",)),
        (["--precision", "int4"], ("'int4'", "int8")),
    ):
        result = run("export", student, *out, *arguments, code=2)
        assert all(part in result.stderr for part in parts), result.stderr
    noise = np.random.default_rng(0).integers(0, 256, (200, 12, 12), dtype=np.uint8)
    labels, names = np.arange(200, dtype=np.int32) // 50, np.array(list("abcd"))
    np.savez(tmp_path / "noise.npz", images=noise, labels=labels, classes=names, train=np.arange(200))
    arguments = ["export", student, *out, *INT8, "--data", tmp_path / "noise.npz"]
    assert "has not one split that is to be searched; got train;" in run(*arguments, code=2).stderr
    assert "look like noise" in run(*arguments, "--no-retrieval", code=2).stderr
    assert not (tmp_path / "s.hetero").exists()


def test_a_page_that_could_not_be_written_is_refused_before_the_work(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("exporters.pipeline.export", lambda *_, **__: pytest.fail("exported before checking"))
    arguments = ["export", trained / "students" / "small", "--out", tmp_path / "s.hetero", "--page"]
    assert "a directory" in run(*arguments, tmp_path, code=2).stderr
    assert "cannot lie in the bundle" in run(*arguments, tmp_path / "s.hetero" / "page.html", code=2).stderr
    monkeypatch.setattr("exporters.page.find_spec", lambda name: None)
    assert "hetero[report]" in run(*arguments, tmp_path / "page.html", code=2).stderr


def test_without_torch_the_extra_is_named(trained, tmp_path):
    """In a process that finds no torch."""
    code = f"""
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from hetero.cli import main
sys.argv = ["hetero", "export", {str(trained / "students" / "small")!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "exporting needs the package 'torch'" in " ".join(done.stderr.split())
