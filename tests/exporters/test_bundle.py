"""Writing and reading bundles; what is refused on reading is in tests/attacks/test_bundle_attacks.py."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporters.bundle import checked_destination, open_bundle, write_bundle
from exporters.manifest import Golden, InputSpec, Manifest, Model, OutputSpec, Provenance, entry_of
from hetero.errors import BundleError, ConfigError
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent.parent / "attacks"))
from sample import model_file

SPEC = PreprocessSpec(height=4, width=4, channels=3)
CONTENTS = {
    "m.onnx": b"model",
    "golden/0.png": b"png",
    "golden/1.png": b"other png",
    "golden/p.npy": b"pixels",
    "golden/e.npy": b"vectors",
    "golden/own.npy": b"own",
}


def make_manifest(contents: dict[str, bytes], **changes: Any) -> Manifest:
    model, image, second, pixels, embeddings, own = (entry_of(name, data) for name, data in contents.items())
    fields: dict[str, Any] = {
        "name": "student",
        "licence": "MIT",
        "space": define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=2),
        "model": Model(weights_sha256="b" * 64, arch=None),
        "input": InputSpec(height=4, width=4, channels=3),
        "output": OutputSpec(dim=2),
        "preprocess": SPEC,
        "files": (model_file(model, own),),
        "thresholds": (),
        "golden": Golden(source="by hand", images=(image, second), pixels=pixels, embeddings=embeddings),
        "calibration": None,
        "retrieval": None,
        "blocked": (),
        "documents": (),
        "provenance": Provenance(created_by="a test", hetero_version="0", tools=()),
    }
    return Manifest(**{**fields, **changes})


def test_write_bundle_gives_what_open_bundle_reads(tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "deep" / "a.hetero", make_manifest(CONTENTS), CONTENTS)
    opened = open_bundle(tmp_path / "deep" / "a.hetero")
    assert opened == written
    assert {name: opened.read(name) for name in CONTENTS} == CONTENTS
    assert opened.manifest == make_manifest(CONTENTS)


def test_manifest_lists_hashes_and_seal_that_other_programs_compute(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "a.hetero", make_manifest(CONTENTS), CONTENTS).path
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["files"][0]["sha256"] == hashlib.sha256(b"model").hexdigest()
    assert manifest["files"][0]["size_bytes"] == 5
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "bundle.sha256"], cwd=path, timeout=10, check=True)


def test_open_bundle_accepts_a_moved_renamed_and_linked_bundle(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "a.hetero", make_manifest(CONTENTS), CONTENTS).path
    moved = tmp_path / "elsewhere"
    path.rename(moved)
    (tmp_path / "link").symlink_to(moved)
    assert open_bundle(moved).manifest == open_bundle(tmp_path / "link").manifest


def test_write_bundle_replaces_an_older_bundle_wholly(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "a.hetero", make_manifest(CONTENTS), CONTENTS).path
    newer = {"other.onnx": b"newer", **{name: data for name, data in CONTENTS.items() if name != "m.onnx"}}
    write_bundle(path, make_manifest(newer), newer)
    assert not (path / "m.onnx").exists()
    assert open_bundle(path).read("other.onnx") == b"newer"
    assert [item.name for item in tmp_path.iterdir()] == ["a.hetero"]


def test_open_bundle_brings_back_a_bundle_whose_replacement_was_cut_short(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "a.hetero", make_manifest(CONTENTS), CONTENTS).path
    path.rename(tmp_path / ".previous-a.hetero")
    assert open_bundle(path).read("m.onnx") == b"model"


@pytest.mark.parametrize(
    "contents",
    [
        {name: data for name, data in CONTENTS.items() if name != "m.onnx"},
        {**CONTENTS, "extra": b"x"},
        {**CONTENTS, "m.onnx": b"mODEL"},
        {**CONTENTS, "m.onnx": b"model and more"},
    ],
)
def test_write_bundle_raises_when_contents_are_not_the_manifests(tmp_path: Path, contents: dict[str, bytes]) -> None:
    with pytest.raises(BundleError, match=r"m\.onnx|extra"):
        write_bundle(tmp_path / "a.hetero", make_manifest(CONTENTS), contents)
    assert not (tmp_path / "a.hetero").exists()


def test_write_bundle_writes_nothing_that_could_not_be_read(tmp_path: Path) -> None:
    manifest = make_manifest(CONTENTS)
    unreadable = manifest.model_copy(update={"licence": ""})
    with pytest.raises(BundleError, match="licence"):
        write_bundle(tmp_path / "a.hetero", unreadable, CONTENTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["student", "student.onnx", ".hetero", "my student.hetero", "caf\u00e9.hetero", "-x.hetero"]
)
def test_checked_destination_raises_when_the_name_is_odd(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="suffix"):
        checked_destination(tmp_path / name)


def test_checked_destination_raises_when_it_would_replace_something_else(tmp_path: Path) -> None:
    folder, file, link = tmp_path / "photos.hetero", tmp_path / "file.hetero", tmp_path / "link.hetero"
    folder.mkdir()
    (folder / "precious.jpg").write_bytes(b"x")
    file.write_bytes(b"x")
    link.symlink_to(write_bundle(tmp_path / "a.hetero", make_manifest(CONTENTS), CONTENTS).path)
    for path in (folder, file, link):
        with pytest.raises(ConfigError, match="is no bundle"):
            checked_destination(path)
    assert (folder / "precious.jpg").is_file()


def test_model_file_raises_when_the_format_is_not_there(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "a.hetero", make_manifest(CONTENTS), CONTENTS)
    assert bundle.model_file().path == "m.onnx"
    with pytest.raises(BundleError, match=r"no tflite file of precision int8.*onnx fp32"):
        bundle.model_file(format="tflite", precision="int8")


def test_a_file_answers_with_the_numbers_of_its_ladder() -> None:
    [file] = make_manifest(CONTENTS).files
    assert file.measured("max_abs") == 1e-7
    assert math.isnan(file.measured("mean_cosine"))
