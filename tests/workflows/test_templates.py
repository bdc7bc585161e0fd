"""``hetero templates``: toy models on a toy IJB-C, from the release's files to the table, recomputed slowly."""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import documents, run
from PIL import Image
from toy import toy_tree, write_pictures
from toy_faces import CLASSES, write_faces
from typer.testing import CliRunner

import hetero.cli as cli
from hetero.models.checkpoint import load_model
from hetero.models.embed import embed
from hetero.preprocess import preprocess_array

GALLERY = "gallery model"
RATES = ("--far", "0.1", "--far", "0.01", "--fpir", "0.1")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("ijbc"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run with a student of smaller pictures."""
    folder = tmp_path_factory.mktemp("faces")
    tree = toy_tree(write_pictures(folder / "toy.npz", num_classes=CLASSES))
    small = tree["students"][0]
    tree["students"].insert(1, {"name": "tiny", "arch": small["arch"] | {"size": 8}, "loss": small["loss"]})
    (folder / "toy.yaml").write_text(yaml.safe_dump(tree))
    longer = ["--set=gallery.train.epochs=12", "--set=student_training.epochs=20"]
    run("train", folder / "toy.yaml", "--out", folder / "run", *longer)
    return folder / "run"


def invoke(*arguments):
    """The result, whatever the toy's checks say: exit code 1 where one failed, and only there."""
    result = CliRunner().invoke(cli.app, ["templates", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == (1 if "failed: " in result.stderr else 0), result.stderr
    return result


@pytest.fixture(scope="module")
def measured(models, faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    result = invoke(models, faces, *RATES, "--controls", "--json", "--out", out)
    content = json.loads(result.stdout)
    assert json.loads((out / "templates.json").read_text()) == content
    assert result.exit_code == (0 if all(check["passed"] for check in content["checks"]) else 1)
    assert "embedding 468 faces with tiny, at 8×8" in result.stderr
    return content


def cells(part):
    return {(cell["query_model"], cell["gallery_model"]): cell for cell in part["cells"]}


def test_the_counts_are_those_made_by_hand(measured):
    data, pairs, search = (measured[key] for key in ("data", "verification", "identification"))
    assert (data["images"], data["subjects"], data["templates"]) == (468, 12, 228)
    assert (data["templates_left_out"], data["skipped"]) == ([], [])
    assert (pairs["genuine_pairs"], pairs["impostor_pairs"]) == (216, 2376)
    assert search["galleries"] == {"G1": 6, "G2": 6}
    assert search["chance_rank_1"] == pytest.approx(1 / 6)
    for cell in search["cells"]:
        assert cell["mated"] == cell["non_mated"] == {"G1": 108, "G2": 108}
    assert [(model["name"], model["role"], model["size"]) for model in measured["models"]] == [
        (GALLERY, "gallery", 12), ("small", "compatible", 12), ("tiny", "compatible", 8), ("alone", "control", 12)
    ]  # fmt: skip
    assert (pairs["preset"], search["preset"]) == (None, None)  # at other rates than the presets'


def test_every_pair_of_models_has_a_cell_and_scores_well_above_chance(measured):
    names = (GALLERY, "small", "tiny")
    pairs, search = cells(measured["verification"]), cells(measured["identification"])
    assert list(pairs) == [(query, enrolled) for query in names for enrolled in names]
    assert list(search) == [
        (GALLERY, GALLERY),
        ("small", GALLERY),
        ("small", "small"),
        ("tiny", GALLERY),
        ("tiny", "tiny"),
    ]
    assert [cell["cell"] for cell in pairs.values()] == [
        *("paragon", "reverse", "reverse"),
        *("heterogeneous", "homogeneous", "between students"),
        *("heterogeneous", "between students", "homogeneous"),
    ]
    for cell in pairs.values():
        assert [point["far"] for point in cell["points"]] == [0.1, 0.01]
        rates = [point["true_accept_rate"] for point in cell["points"]]
        assert rates[0]["value"] > 0.8
        assert rates[0]["value"] >= rates[1]["value"] > 0.2
        assert all(rate["low"] <= rate["value"] <= rate["high"] for rate in rates)
        assert all(point["false_accept_rate"]["value"] <= point["far"] for point in cell["points"])
    assert len({cell["points"][1]["similarity"] for cell in pairs.values()}) == 9  # a threshold for each pair
    for cell in search.values():
        assert cell["rank_rates"]["1"]["value"] > 0.8
        assert list(cell["rank_rates"]) == ["1", "5", "10"]
        assert cell["open_set"][0]["true_positive_rate"]["value"] > 0.5


def test_a_control_is_scored_apart_and_never_as_compatible(measured, models, faces):
    for part in ("verification", "identification"):
        assert all("alone" not in pair for pair in cells(measured[part]))
        [control] = measured[part]["controls"]
        assert control["query_model"] == "alone"
    assert control["rank_rates"]["1"]["value"] < 3 / 6
    student = cells(measured["identification"])["small", GALLERY]["rank_rates"]["1"]["value"]
    assert control["rank_rates"]["1"]["value"] < student - 0.4
    [control] = measured["verification"]["controls"]
    assert control["points"][1]["true_accept_rate"]["value"] < 0.05
    assert {rule["student"] for rule in measured["rule"]} == {"small", "tiny"}
    plain = json.loads(invoke(models, faces, *RATES, "--json").stdout)
    assert "alone" not in json.dumps(plain)
    for part in ("verification", "identification"):
        assert plain[part]["controls"] == []
        assert plain[part]["cells"] == measured[part]["cells"]


def test_the_scores_are_those_of_a_slow_computation_from_the_files(measured, models, faces):
    """The 8×8 student searches the gallery model's templates: crops cut, embedded and averaged one by one."""
    query, gallery = load_model(models / "students" / "tiny"), load_model(models / "gallery")
    rows = {}
    for name in ("test1/enroll_templates", "test1/verif_templates"):
        with open(faces / "protocols" / f"{name}.csv", newline="") as stream:
            rows[name[6:]] = list(csv.DictReader(stream))
    with open(faces / "protocols/ijbc_metadata_with_age.csv", newline="") as stream:
        media = {(row["SUBJECT_ID"], row["FILENAME"]): row["SIGHTING_ID"] for row in csv.DictReader(stream)}

    def templates(model, listed):
        content = defaultdict(lambda: defaultdict(list))
        for row in listed:
            x, y, w, h = (int(row[key]) for key in ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT"))
            with Image.open(faces / "images" / row["FILENAME"]) as picture:
                crop = np.asarray(picture.crop((x, y, x + w, y + h)))
            vector = embed(model.network, preprocess_array(crop, model.preprocess)[None], model.preprocess)[0]
            medium = media[row["SUBJECT_ID"], row["FILENAME"]]
            content[int(row["SUBJECT_ID"]), int(row["TEMPLATE_ID"])][medium].append(vector)
        made = {
            key: sum(np.mean(frames, axis=0) for frames in by_medium.values()) for key, by_medium in content.items()
        }
        return {key: vector / np.linalg.norm(vector) for key, vector in made.items()}

    probes, enrolled = templates(query, rows["verif_templates"]), templates(gallery, rows["enroll_templates"])
    assert (len(probes), len(enrolled)) == (216, 12)
    genuine, impostor, hits = [], [], {0: [], 1: []}
    for (subject, _), probe in probes.items():
        for (other, _), vector in enrolled.items():
            (genuine if subject == other else impostor).append(float(probe @ vector))
        side = {other: float(probe @ vector) for (other, _), vector in enrolled.items() if other % 2 == subject % 2}
        hits[subject % 2].append(max(side, key=side.get) == subject)
    point = cells(measured["verification"])["tiny", GALLERY]["points"][1]
    assert sorted(impostor)[-23:][0] >= point["similarity"] - 2e-5  # 23 of 2376 are at most a hundredth, 24 are more
    assert sorted(impostor)[-24] < point["similarity"] + 2e-5
    assert point["true_accept_rate"]["value"] == pytest.approx(
        np.mean(np.array(genuine) >= point["similarity"]), abs=0.005
    )
    rank_1 = cells(measured["identification"])["tiny", GALLERY]["rank_rates"]["1"]["value"]
    assert rank_1 == pytest.approx(np.mean([np.mean(hits[0]), np.mean(hits[1])]), abs=0.005)


def test_the_table_shows_both_protocols_with_intervals(measured, models, faces):
    text = invoke(models, faces, *RATES, "--controls").stdout
    flat = " ".join(text.split())
    assert "1:1, 216 genuine and 2,376 impostor pairs" in flat
    assert "G1: 108 mated and 108 non-mated probes, G2: 108 mated and 108 non-mated probes" in flat
    assert "468 faces of 12 subjects in 228 templates" in flat
    for label in ("FAR 0.1", "FAR 0.01", "rank 1", "rank 10", "TPIR, FPIR 0.1", "tiny → small", "between students"):
        assert label in flat
    lines = text.splitlines()
    row = next(i for i, line in enumerate(lines) if line.split()[:4] == ["tiny", "→", "gallery", "model"])
    points = cells(measured["verification"])["tiny", GALLERY]["points"]
    rates = [point["true_accept_rate"] for point in points]
    assert lines[row].split()[4:] == [f"{rate['value']:.3f}" for rate in rates]
    assert lines[row + 1].split()[0] == "heterogeneous"
    for rate in rates:
        assert f"[{rate['low']:.3f}, {rate['high']:.3f}]" in lines[row + 1]
    assert flat.count("alone → gallery model") == flat.count(" control [") == 2
    assert flat.count("the compatibility rule") == 4


def test_rates_that_are_not_supported_are_refused_before_anything_is_embedded(models, faces):
    result = run("templates", models, faces, code=2)
    assert "rate of 0.001; got 2376 pairs of different subjects; expected at least 10000" in result.stderr
    assert result.stderr.rstrip().endswith("state a higher rate: 0.0043 or more")
    assert "embedding" not in result.stderr
    result = run("templates", models, faces, "--protocol", "1:N", "--fpir", 0.05, code=2)
    assert "got 108 probes without a mate in gallery 'G1'; expected at least 200" in result.stderr
    assert result.stderr.rstrip().endswith("state a higher rate: 0.093 or more")
    invoke(models, faces, "--far", 0.0043, "--fpir", 0.093)


def test_only_supported_leaves_such_rates_out_and_names_them(models, faces):
    content = json.loads(invoke(models, faces, "--only-supported", "--json").stdout)
    assert [
        (one["kind"], one["rate"], one["trials"], one["needed"], one["least"]) for one in content["unsupported"]
    ] == [
        ("FPIR", 0.01, 108, 1000, 0.093),
        ("FAR", 0.001, 2376, 10_000, 0.0043),
        ("FAR", 1e-4, 2376, 100_000, 0.0043),
        ("FAR", 1e-5, 2376, 1_000_000, 0.0043),
        ("FAR", 1e-6, 2376, 10_000_000, 0.0043),
    ]
    assert [point["far"] for point in content["verification"]["cells"][0]["points"]] == [0.1, 0.01]
    assert [point["fpir"] for point in content["identification"]["cells"][0]["open_set"]] == [0.1]
    text = " ".join(invoke(models, faces, "--only-supported").stdout.split())
    assert (
        "left out: FAR 0.001 needs 10,000 impostor pairs, there are 2,376; the least rate that they support: 0.0043"
        in text
    )
    assert "left out: FPIR 0.01 needs 1,000 non-mated probes, there are 108" in text


def test_one_protocol_alone(models, faces, tmp_path):
    content = json.loads(invoke(models, faces, "--protocol", "1:N", "--fpir", 0.1, "--json").stdout)
    assert content["verification"] is None
    assert {rule["protocol"] for rule in content["rule"]} == {"1:N"}
    content = json.loads(invoke(models, faces, "--protocol", "1:1", "--far", 0.01, "--json").stdout)
    assert content["identification"] is None
    assert "test4" in run("templates", models, copy_without_search(faces, tmp_path), "--protocol", "1:N", code=2).stderr
    result = run("templates", models, tmp_path / "ijbc", "--protocol", "both", code=2)
    assert "--protocol both asks for the protocol 1:N, which is not there" in result.stderr
    content = json.loads(invoke(models, tmp_path / "ijbc", "--far", 0.01, "--json").stdout)  # what is there
    assert content["identification"] is None


def copy_without_search(faces: Path, folder: Path) -> Path:
    copy = shutil.copytree(faces, folder / "ijbc")
    shutil.rmtree(copy / "protocols/test4")
    return copy


def test_unreadable_images_and_their_templates_are_left_out_on_request(models, faces, tmp_path):
    """Picture 3 and 4 of subjects 100 and 101 are all images of their first probe templates."""
    copy = shutil.copytree(faces, tmp_path / "ijbc")
    (copy / "images/img/0-3.png").unlink()
    (copy / "images/img/0-4.png").write_bytes(b"no picture")
    assert "0-3.png" in run("templates", models, copy, *RATES, code=2).stderr
    content = json.loads(invoke(models, copy, "--skip-bad", "--far", 0.01, "--protocol", "1:1", "--json").stdout)
    assert content["data"]["templates_left_out"] == [1000, 2000]
    assert (content["data"]["images"], content["data"]["templates"]) == (464, 226)
    assert len(content["data"]["skipped"]) == 4
    assert content["verification"]["impostor_pairs"] == 214 * 11
    text = " ".join(invoke(models, copy, "--skip-bad", "--only-supported", "--fpir", 0.5).stdout.split())
    assert "left out: 2 templates without a readable image: 1000, 2000" in text
    assert "left out 4 unreadable images" in text
    assert "G1: 107 mated and 107 non-mated probes" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "{faces}"], "none is no run directory"),
        (["{run}", "none"], "none holds no IJB-C"),
        (["{run}", "{faces}", "--layout", "meta"], "in another way"),
        (["{run}", "{faces}", "--layout", "lists"], "--layout has no value 'lists'; expected one of meta, protocols"),
        (["{run}", "{faces}", "--protocol", "1:n"], "--protocol has no value '1:n'"),
        (["{run}", "{faces}", "--protocol", "1:N", "--far", "0.1"], "--far asks for the protocol 1:1"),
        (["{run}", "{faces}", "--far", "2", "--only-supported"], "a false accept rate lies between 0 and 1; got 2"),
        (["{run}", "{faces}", "--device", "tpu"], "device 'tpu' is not available"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message, models, faces):
    filled = [argument.format(run=models, faces=faces) for argument in arguments]
    result = run("templates", *filled, code=2)
    assert message in result.stderr
    assert result.stderr.count("error:") == 1
    assert message in documents(run("templates", *filled, "--json", code=2))["error"]["message"]


def test_a_student_of_another_space_is_refused(models, faces, tmp_path):
    copy = shutil.copytree(models, tmp_path / "run")
    card = json.loads((copy / "students/alone/model.json").read_text()) | {"role": "compatible"}
    shutil.rmtree(copy / "students/small")
    shutil.copytree(copy / "students/alone", copy / "students/small")
    (copy / "students/small/model.json").write_text(json.dumps(card))
    result = run("templates", copy, faces, *RATES, code=2)
    assert "student 'small' and" in result.stderr
    assert card["space"]["id"] in result.stderr


def test_a_run_without_a_compatible_student_has_nothing_to_compare(models, faces, tmp_path):
    copy = shutil.copytree(models, tmp_path / "run")
    record = json.loads((copy / "run.json").read_text())
    record["config"]["students"] = [one for one in record["config"]["students"] if one["role"] == "control"]
    (copy / "run.json").write_text(json.dumps(record))
    assert "has no compatible student" in run("templates", copy, faces, "--controls", code=2).stderr
