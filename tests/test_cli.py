"""The command as a person or a script uses it: output, JSON, exit codes, one clear error each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from commands import documents, run

import hetero.cli as cli

COMMANDS = [
    "demo", "train", "index", "query", "compat", "templates", "export", "verify", "sign", "report", "summary", "data",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def pictures(folder, config):
    content = documents(run("data", config, "--save-images", folder / "pictures", "--split", "test", "--json"))
    return Path(content["manifest"])


@pytest.fixture(scope="module")
def gallery(folder, trained, pictures):
    run("index", trained / "gallery", pictures, "--out", folder / "gallery")
    return folder / "gallery"


@pytest.fixture(scope="module")
def bundle(folder, trained, pictures):
    golden = [f"--golden={path}" for path in sorted(pictures.parent.glob("*.png"))[:2]]
    run("export", trained / "students" / "small", "--out", folder / "small.hetero", *golden)
    return folder / "small.hetero"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_of_the_command_itself(name):
    help_text = run(name, "--help").stdout
    assert f"Example: hetero {name}" in " ".join(help_text.split())
    assert "--json" in help_text


def test_the_console_script_runs():
    result = subprocess.run([sys.executable, "-m", "hetero.cli", "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    for name in COMMANDS:
        assert name in result.stdout


def test_compat_prints_one_json_document_with_the_cells_and_writes_the_report(trained):
    result = CliRunner().invoke(cli.app, ["compat", str(trained), "--json"])
    content = json.loads(result.stdout)
    failed = [check for check in content["checks"] if not check["passed"]]
    assert result.exit_code == (1 if failed else 0)
    assert content == json.loads((trained / "report.json").read_text())
    by_name = {student["name"]: student for student in content["students"]}
    assert by_name["small"]["role"] == "compatible"
    assert by_name["alone"]["role"] == "control"
    for student in by_name.values():
        for cell in ("paragon", "heterogeneous", "homogeneous", "reverse"):
            for metric in ("r_at_1", "r_at_5", "map_at_r"):
                values = student["cells"][cell][metric]
                assert 0 <= values["low"] <= values["value"] <= values["high"] <= 1
        for metric in ("r_at_1", "map_at_r"):
            assert student["rule"][metric]["satisfied"] == (student["rule"][metric]["low"] > 0)
        assert student["macs"]["ratio"] == pytest.approx(student["macs"]["gallery"] / student["macs"]["query"])
    for key in ("cells", "rule", "macs"):
        assert content[key] == by_name["small"][key]
    hetero = by_name["small"]["cells"]["heterogeneous"]["r_at_1"]["value"]
    assert hetero > by_name["alone"]["cells"]["heterogeneous"]["r_at_1"]["value"] + 0.2
    card = json.loads((trained / "students" / "small" / "model.json").read_text())
    assert card["thresholds"][0]["far"] == 0.01
    assert card["space"]["compatible"][0]["heterogeneous"] == hetero
    assert (trained / "report.html").exists()


def test_an_expectation_that_does_not_hold_is_exit_code_1(trained):
    result = run("compat", trained, "--set", "evaluation.expect.macs_ratio=1000", code=1)
    assert "fewer MACs" in result.stderr


def test_the_bundle_retrieves_like_torch_from_files(trained, bundle, pictures, config, folder):
    """From image files, through onnxruntime: the same cells within 0.1 percentage points."""
    everything = documents(run("data", config, "--save-images", folder / "everything", "--json"))["manifest"]
    overrides = ["--set", "data.format=csv", "--set", f"data.path={everything}"]
    arguments = ["compat", str(trained), "--bundle", f"small={bundle}", "--json", "--out", str(folder / "onnx")]
    files = json.loads(CliRunner().invoke(cli.app, [*arguments, *overrides]).stdout)
    memory = json.loads(CliRunner().invoke(cli.app, arguments).stdout)
    torch_cells = json.loads(CliRunner().invoke(cli.app, ["compat", str(trained), "--json"]).stdout)["cells"]
    for found in (files, memory):
        for cell, metrics in torch_cells.items():
            for metric, interval in metrics.items():
                assert found["cells"][cell][metric]["value"] == pytest.approx(interval["value"], abs=0.001), (
                    cell,
                    metric,
                )


def test_query_finds_the_picture_itself_first_and_saves_a_sheet(gallery, bundle, trained, pictures, folder):
    picture = sorted(pictures.parent.glob("*.png"))[5]
    sheet = folder / "sheet.png"
    for model in (bundle, trained / "gallery"):
        content = documents(run("query", gallery, picture, "--model", model, "--sheet", sheet, "--top", 3, "--json"))
        [result] = content["results"]
        assert len(result["matches"]) == 3
        scores = [match["similarity"] for match in result["matches"]]
        assert scores == sorted(scores, reverse=True)
        with Image.open(sheet) as image:
            assert image.width > 3 * 96
    assert result["matches"][0]["path"] == str(picture)  # by the gallery model, whose own vector it is
    assert result["matches"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    text = run("query", gallery, picture, "--model", bundle, "--sheet", sheet).stdout
    assert "pattern" in text
    assert ".png" in text


def test_a_model_of_another_space_is_refused_naming_both_ids(gallery, trained, pictures):
    picture = sorted(pictures.parent.glob("*.png"))[0]
    result = run("query", gallery, picture, "--model", trained / "students" / "alone", code=2)
    own = json.loads((trained / "students" / "alone" / "model.json").read_text())["space"]["id"]
    other = json.loads((gallery / "gallery.json").read_text())["space_id"]
    assert own in result.stderr
    assert other in result.stderr


def test_a_student_does_not_index_galleries(trained, pictures, folder):
    result = run("index", trained / "students" / "small", pictures, "--out", folder / "no", code=2)
    assert "gallery model" in result.stderr
    assert not (folder / "no").exists()


def test_bad_images_are_an_error_or_a_listed_count(gallery, bundle, pictures, tmp_path):
    good = sorted(pictures.parent.glob("*.png"))[0]
    bad = tmp_path / "empty.png"
    bad.write_bytes(b"")
    result = run("query", gallery, good, bad, "--model", bundle, "--sheet", tmp_path / "s.png", code=2)
    assert "empty.png" in result.stderr
    result = run("query", gallery, good, bad, "--model", bundle, "--sheet", tmp_path / "s.png", "--skip-bad")
    assert "left out 1 unreadable images" in result.stdout
    assert "empty.png" in result.stdout


def test_class_names_and_paths_in_brackets_are_printed_as_they_are(trained, tmp_path):
    folder = tmp_path / "photos" / "x[/] [red]y"
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)).save(folder / "[a].png")
    run("index", trained / "gallery", tmp_path / "photos", "--out", tmp_path / "g")
    picture, sheet = folder / "[a].png", tmp_path / "s.png"
    text = run("query", tmp_path / "g", picture, "--model", trained / "gallery", "--sheet", sheet).stdout
    assert "x[/]" in text


def test_index_takes_a_folder_of_loose_pictures_and_skips_bad_ones(trained, tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (20, 30), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    result = run("index", trained / "gallery", tmp_path, "--out", tmp_path / "g", code=2)
    assert "broken.jpg" in result.stderr
    assert not (tmp_path / "g").exists()
    content = documents(
        run("index", trained / "gallery", tmp_path, "--out", tmp_path / "g" / "x", "--skip-bad", "--json")
    )
    assert content["count"] == 3
    assert "broken.jpg" in content["skipped"][0]


def test_pictures_that_nobody_divided_are_a_source_whatever_their_number_of_classes(trained, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 12, 12), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", images=pixels, labels=np.array([0, 0, 1, 1]))
    indexed = documents(run("index", trained / "gallery", tmp_path / "two.npz", "--out", tmp_path / "g", "--json"))
    assert indexed["count"] == 4
    sheet, saved = tmp_path / "sheet.png", tmp_path / "saved"
    content = documents(run("data", tmp_path / "two.npz", "--sheet", sheet, "--save-images", saved, "--json"))
    assert (content["splits"], sorted(content["sheet"]["classes"])) == ({}, ["0", "1"])
    assert documents(run("data", saved / "manifest.csv", "--json"))["images_per_class"]["min"] == 2


def test_verify_passes_a_whole_bundle_and_fails_a_damaged_one(bundle, gallery, tmp_path):
    text = run("verify", bundle, "--gallery", gallery).stdout
    assert "FAILED" not in text
    assert "checks passed" in text.splitlines()[-1]
    import shutil

    damaged = tmp_path / "damaged.hetero"
    shutil.copytree(bundle, damaged)
    model = next(damaged.rglob("*.onnx"))
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    content = documents(run("verify", damaged, "--json", code=1))
    assert content["passed"] is False
    assert "1 of 1 checks failed: integrity" in run("verify", damaged, code=1).stderr
    assert documents(run("verify", bundle, "--space", "hs1-" + "0" * 24, "--json", code=1))["passed"] is False
    run("verify", bundle, "--space", "hs1-" + "0" * 24, "--gallery", gallery, code=2)


def test_report_of_a_bundle_writes_its_page_beside_it(bundle):
    page = bundle.with_name("small.hetero.html")
    text = " ".join(run("report", bundle).stdout.split())
    assert "onnx/model.fp32.onnx" in text
    assert f"page: {page}" in text
    assert "<h2>Runtimes</h2>" in page.read_text(encoding="utf-8")
    content = documents(run("report", bundle, "--json"))
    assert set(content) == {"bundle", "page", "manifest"}
    assert content["page"] == str(page)
    assert run("report", bundle, "--markdown").stdout == (bundle / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "FAILED" not in run("verify", bundle).stdout


def test_report_writes_the_page_again(trained):
    if not (trained / "report.json").exists():
        CliRunner().invoke(cli.app, ["compat", str(trained)])
    (trained / "report.html").unlink(missing_ok=True)
    run("report", trained)
    assert "data:image/svg+xml" in (trained / "report.html").read_text()
    assert documents(run("report", trained, "--json"))["schema"] == 1
    content = documents(run("report", trained, "--json"))
    text = run("report", trained, "--markdown").stdout
    for student in content["students"]:
        for cell in ("heterogeneous", "homogeneous", "reverse"):
            value = student["cells"][cell]["r_at_1"]
            row = f"| {student['name']} ({student['role']}) | {cell} | "
            [line] = [line for line in text.splitlines() if line.startswith(row)]
            assert f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]" in line
    assert text.count("FAILS") == sum(not check["passed"] for check in content["checks"])


def test_data_describes_and_saves_a_sheet(config, folder):
    sheet = folder / "samples.png"
    text = run("data", config, "--sheet", sheet, "--split", "test").stdout
    assert "train" in text
    assert "96" in text
    assert sheet.exists()
    assert documents(run("data", config, "--json"))["splits"]["test"]["classes"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml"], "cannot read the config none.yaml"),
        (["train", "{config}", "--set", "sed=1"], "sed: unknown key, expected one of"),
        (["compat", "none"], "none is no run directory"),
        (["compat", "{config}"], "toy.yaml is no run directory"),
        (
            ["compat", "{unfinished}"],
            "is not finished; got no students/small yet; fix: run the same hetero train again",
        ),
        (
            ["export", "{run}/students/alone", "--out", "{unfinished}/a.hetero"],
            "is a control: it has a space of its own",
        ),
        (["compat", "{run}", "--split", "nope"], "no split 'nope'"),
        (["compat", "{run}", "--bundle", "small"], "has no '='"),
        (["compat", "{run}", "--bundle", "tiny={bundle}"], "no student 'tiny'"),
        (["compat", "{run}", "--set", "preprocess.mean=[0]"], "a finished run cannot be changed"),
        (["index", "{run}/gallery", "{pictures}", "--out", "{home}"], "not ours to replace"),
        (["data", "{config}", "--save-images", "{home}"], "not ours to replace"),
        (["export", "none"], "none is no checkpoint"),
        (["report", "none"], "none"),
        (["data", "none.txt"], "no source of pictures"),
        (["data", "{config}", "--set", "data.path=gone.npz"], "gone.npz"),
        (["data", "{pictures}", "--set", "a=1"], "--set needs a run config"),
        (["query", "none", "x.png", "--model", "{bundle}"], "none"),
        (["query", "{gallery}", "x.png", "--model", "none.hetero"], "none.hetero"),
        (["query", "{gallery}", "x.png", "--model", "{bundle}"], "x.png"),
        (["index", "none", "{pictures}"], "none is no checkpoint"),
    ],
)
def test_bad_input_is_one_clear_error_and_exit_code_2(
    arguments, message, config, trained, bundle, gallery, pictures, tmp_path, monkeypatch
):
    shutil.copytree(trained, tmp_path / "unfinished", ignore=shutil.ignore_patterns("small"))
    names = {
        "unfinished": tmp_path / "unfinished",
        "home": Path(__file__).parent,
        "config": config,
        "run": trained,
        "bundle": bundle,
        "gallery": gallery,
        "pictures": pictures,
    }
    filled = [str(argument).format(**names) for argument in arguments]
    monkeypatch.chdir(tmp_path)
    result = run(*filled, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1
    content = documents(run(*filled, "--json", code=2))
    assert message in content["error"]["message"]


def test_an_unknown_option_is_exit_code_2():
    run("train", "--colour", code=2)


def test_interrupting_says_that_nothing_is_lost(config, tmp_path, monkeypatch):
    import hetero.workflows.train

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(hetero.workflows.train, "train_run", interrupted)
    assert "intact" in run("train", config, "--out", tmp_path / "run", code=130).stderr


def test_terminating_a_command_leaves_no_temporary_files(config, tmp_path):
    """The real command and the real signal, while it holds a temporary directory."""
    waiting = """
import sys, tempfile, time
import hetero.cli, hetero.workflows.train
def train_run(*args, **kwargs):
    with tempfile.TemporaryDirectory():
        print("working", flush=True)
        time.sleep(60)
hetero.workflows.train.train_run = train_run
hetero.cli.main()
"""
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, "train", config, "--out", tmp_path / "run"],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        text=True,
    )
    assert process.stdout.readline() == "working\n"
    assert list((tmp_path / "temporary").iterdir())
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not list((tmp_path / "temporary").iterdir())


def test_demo_runs_the_whole_chain_on_a_small_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))
    small = ["data.num_classes=60", "gallery.train.epochs=2", "student_training.epochs=2", "evaluation.expect={}"]
    arguments = ["demo", "--out", str(tmp_path / "demo"), "--json", *(f"--set={s}" for s in small)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code in (0, 1), result.stderr  # two epochs need not satisfy the rule
    assert json.loads(result.stdout)["run"]["name"] == "demo"
    for name in ("report.html", "report.json", "small.hetero", "gallery-index", "query.png"):
        assert (tmp_path / "demo" / name).exists()
