"""Bundles that were damaged, forged or mixed: each is refused before any byte reaches a runtime."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporters.bundle import MAX_MANIFEST_BYTES, open_bundle, seal_of, write_bundle
from exporters.manifest import MANIFEST, SEAL, entry_of
from hetero.errors import BundleError, SpaceMismatchError
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent))
from sample import CONTENTS, MODEL, make_manifest


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("attacks") / "student.hetero", make_manifest(), CONTENTS).path


@pytest.fixture
def bundle(written: Path, tmp_path: Path) -> Path:
    """A copy for each test: copying does not sync the disk, which writing does."""
    return Path(shutil.copytree(written, tmp_path / "student.hetero"))


def forge(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and seal it again, as someone who knows the format would."""
    content = json.loads((bundle / MANIFEST).read_bytes())
    edit(content)
    reseal(bundle, json.dumps(content).encode())


def reseal(bundle: Path, raw: bytes) -> None:
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / SEAL).write_bytes(seal_of(raw))


@pytest.mark.parametrize("name", [MANIFEST, SEAL, *CONTENTS])
def test_open_bundle_raises_when_one_byte_is_flipped(bundle: Path, name: str) -> None:
    file = bundle / name
    good = file.read_bytes()
    chance = random.Random(name)
    for position in {0, len(good) - 1, *(chance.randrange(len(good)) for _ in range(12))}:
        bad = bytearray(good)
        bad[position] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(BundleError, match=name):
            open_bundle(bundle)
    file.write_bytes(good)
    open_bundle(bundle)


def test_a_checkpoint_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(BundleError, match="is a checkpoint, not a bundle; fix: make one with hetero export"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", [MANIFEST, SEAL, *CONTENTS])
def test_open_bundle_raises_when_a_file_is_missing(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [MANIFEST, SEAL, *CONTENTS])
@pytest.mark.parametrize("change", ["shorter", "longer", "empty"])
def test_open_bundle_raises_when_a_file_has_another_length(bundle: Path, name: str, change: str) -> None:
    good = (bundle / name).read_bytes()
    (bundle / name).write_bytes({"shorter": good[:-1], "longer": good + b"\n", "empty": b""}[change])
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ["extra.txt", "golden/extra.png", ".hidden", "folder/", "golden/folder/"])
def test_open_bundle_raises_when_a_file_or_folder_is_not_listed(bundle: Path, name: str) -> None:
    if name.endswith("/"):
        (bundle / name).mkdir()
    else:
        (bundle / name).write_bytes(b"x")
    with pytest.raises(BundleError, match=f"{name.rstrip('/')}' is not listed"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [MANIFEST, SEAL, MODEL])
def test_open_bundle_raises_when_a_file_is_a_link_to_the_same_bytes(bundle: Path, tmp_path: Path, name: str) -> None:
    shutil.copy(bundle / name, tmp_path / "elsewhere")
    (bundle / name).unlink()
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle)


def test_open_bundle_raises_when_a_folder_is_a_link_to_the_same_files(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "golden", tmp_path / "elsewhere")
    (bundle / "golden").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="golden is a link"):
        open_bundle(bundle)


def test_open_bundle_does_not_wait_for_a_pipe_or_read_a_socket(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    os.mkfifo(bundle / MODEL)
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(bundle)
    with tempfile.TemporaryDirectory() as short:  # a socket's path may have some 100 characters only
        copy = Path(short) / "s.hetero"
        (bundle / MODEL).unlink()
        shutil.copytree(bundle, copy)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(copy / MODEL))
            with pytest.raises(BundleError, match="cannot be opened as a regular file"):
                open_bundle(copy)


def test_open_bundle_raises_when_a_folder_stands_for_a_file(bundle: Path) -> None:
    (bundle / MODEL).unlink()
    (bundle / MODEL).mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "path",
    [
        "../outside.onnx",
        "onnx/../../outside.onnx",
        "/etc/hostname",
        "C:\\model.onnx",
        "onnx\\model.onnx",
        "./model.onnx",
        "onnx//model.onnx",
        "onnx/",
        "",
        ".hidden",
        "a\u0000b",
        "model.onnx\n",
        "caf\u00e9.onnx",
        "x" * 201,
        "c:model",
    ],
)
def test_open_bundle_raises_when_a_path_leaves_the_folder_or_is_odd(bundle: Path, path: str) -> None:
    (bundle.parent / "outside.onnx").write_bytes(CONTENTS[MODEL])
    forge(bundle, lambda manifest: manifest["files"][0].update(path=path))
    with pytest.raises(BundleError, match=r"files\.0\.path"):
        open_bundle(bundle)


FOUND = {"r_at_1_delta": -0.004, "r_at_1_low": -0.02, "map_at_r_delta": 0.0, "map_at_r_low": -0.001}
SEARCH = {"r_at_1_delta": -0.005, "map_at_r_delta": -0.01}


def rung(number: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["files"][0]["ladder"][number].update(values)


def set_at(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_at("schema_version", value=1), "unknown schema"),
        (set_at("schema_version", value=3), "unknown schema"),
        (set_at("schema_version", value=True), "unknown schema"),
        (set_at("schema_version", value="2"), "unknown schema"),
        (set_at("schema_version", value=2.0), "unknown schema"),
        (lambda m: m.pop("schema_version"), "unknown schema"),
        (set_at("surprise", value=1), "surprise"),
        (set_at("files", 0, "surprise", value=1), "surprise"),
        (set_at("space", "surprise", value=1), "surprise"),
        (set_at("preprocess", "surprise", value=1), "surprise"),
        (set_at("golden", "surprise", value=1), "surprise"),
        (lambda m: m.pop("licence"), "licence"),
        (set_at("licence", value=""), "licence"),
        (set_at("name", value="../x"), "name"),
        (set_at("files", value=[]), "files"),
        (set_at("golden", "images", value=[]), "images"),
        (set_at("files", 0, "size_bytes", value="920"), "size_bytes"),
        (set_at("files", 0, "size_bytes", value=1 << 31), "size_bytes"),
        (set_at("files", 0, "size_bytes", value=0), "size_bytes"),
        (set_at("files", 0, "sha256", value="A" * 64), "sha256"),
        (set_at("files", 0, "format", value="exe"), "format"),
        (set_at("files", 0, "precision", value="int9"), "precision"),
        (set_at("files", 0, "golden", "max_abs", value=0), "max_abs"),
        (set_at("files", 0, "precision", value="dynamic"), "there is no onnx file of precision dynamic"),
        (set_at("files", 0, "recipe", value="wi8_afp16"), "precision fp32 and recipe wi8_afp16"),
        (set_at("files", 0, "golden", "max_abs", value=2.5), "may differ by more than the recipe's 1e-05"),
        (set_at("files", 0, "attempts", value=0), "attempts"),
        (rung(0, measured={"max_abs": 0.8}, status="failed"), "the rung tensor failed and was not allowed"),
        (rung(0, measured={"max_abs": 0.8}), "the rung tensor is passed, and by its numbers failed"),
        (rung(0, measured={"max_abs": 0.8}, limits={"max_abs": 1.0}), "looser limits than the recipe fp32"),
        (rung(2, measured=FOUND, status="no limit"), "the rung retrieval has looser limits"),
        (rung(2, measured=FOUND, limits={"r_at_1_delta": -0.8}, status="passed"), "looser limits"),
        (rung(2, measured=FOUND, limits=SEARCH, status="passed"), "is passed, and by its numbers undecided"),
        (rung(3, status="passed"), "the rung flips is passed, and by its numbers not measured"),
        (rung(1, limits={"mean_cosine": 0.9}), "limit on what was not measured"),
        (set_at("files", 0, "ladder", 0, "limits", value={"lost": 1.0}), "the rung tensor has another rung's numbers"),
        (set_at("files", 0, "output", value={"dtype": "int8", "scale": None, "zero_point": None}), "has a scale"),
        (set_at("files", 0, "output", value={"dtype": "float32", "scale": 1.0, "zero_point": 0}), "has a scale"),
        (set_at("files", 0, "opset", value=None), "an ONNX file has an opset"),
        (set_at("files", 0, "runtimes", value=[]), "runtimes"),
        (set_at("files", 0, "runtimes", 0, "right", value=False), "no runtime computes the file rightly"),
        (set_at("files", 0, "runtimes", 0, "name", value="numpy"), r"runtimes\.0\.name"),
        (set_at("files", 0, "runtimes", 0, "name", value="tensorflow"), "a runtime is none of onnxruntime"),
        (set_at("files", 0, "ladder", value=[]), "the ladder is not tensor, cosine"),
        (lambda m: m["files"][0]["ladder"].reverse(), "the ladder is not tensor, cosine"),
        (rung(0, measured={}, limits={}, status="not measured"), "the rung tensor was not measured"),
        (set_at("files", 0, "ladder", 0, "limits", value={"nonsense": 1.0}), "nonsense"),
        (set_at("thresholds", 0, "far", value=0), r"thresholds\.0\.far"),
        (set_at("thresholds", 0, "similarity", value="0.5"), "another form; got thresholds"),
        (lambda m: m["thresholds"][0].pop("similarity"), r"thresholds\.0\.similarity"),
        (set_at("preprocess", "height", value="8"), "another form; got preprocess"),
        (lambda m: m["preprocess"].pop("filter"), "leaves keys out.*preprocess"),
        (lambda m: m["input"].pop("layout"), "leaves keys out.*input"),
        (set_at("input", "height", value=9), "different picture sizes"),
        (set_at("output", "dim", value=5), "not the space's dim"),
        (set_at("space", "id", value="hs1-nothex"), "space.id"),
        (lambda m: m["files"].append(m["files"][0]), "listed twice"),
        (
            lambda m: m["files"].append(
                {**m["files"][0], "path": "other.onnx", "golden": {**m["files"][0]["golden"], "path": "other.npy"}}
            ),
            "same format and precision",
        ),
        (set_at("golden", "pixels", "path", value="Golden/Image-00.png"), "listed twice"),
        (set_at("golden", "pixels", "path", value="manifest.json"), "reserved"),
        (set_at("golden", "pixels", "path", value="Bundle.sha256"), "reserved"),
    ],
)
def test_open_bundle_raises_when_the_manifest_is_forged(
    bundle: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    forge(bundle, edit)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "unknown schema"),
        (b"null", "unknown schema"),
        (b"\xff\xfe{}", "not valid JSON"),
        ('{"schema_version": 2}'.encode("utf-16"), "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"schema_version": 2, "schema_version": 2}', "names a key twice"),
        (b'{"schema_version": NaN}', "not a finite number"),
        (b'{"schema_version": 2, "x": 1e999}', "not a finite number"),
        (b'{"schema_version": 2, "x": -Infinity}', "not a finite number"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"schema_version": 2, "name": "\\ud800"}', "does not fit"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"schema_version": 2, "thresholds": ' + b"[" * 400 + b"]" * 400 + b"}", "does not fit"),
    ],
)
def test_open_bundle_raises_when_the_manifest_is_no_manifest(bundle: Path, raw: bytes, message: str) -> None:
    reseal(bundle, raw)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle)


def test_open_bundle_raises_when_the_manifest_names_a_nested_key_twice(bundle: Path) -> None:
    raw = (bundle / MANIFEST).read_bytes().replace(b'"opset": 18,', b'"opset": 18, "opset": 18,')
    reseal(bundle, raw)
    with pytest.raises(BundleError, match="names a key twice"):
        open_bundle(bundle)


def test_open_bundle_raises_when_the_manifest_is_oversize(bundle: Path) -> None:
    raw = (bundle / MANIFEST).read_bytes()
    reseal(bundle, raw + b" " * (MAX_MANIFEST_BYTES - len(raw)))
    open_bundle(bundle)
    reseal(bundle, raw + b" " * (MAX_MANIFEST_BYTES - len(raw) + 1))
    with pytest.raises(BundleError, match=r"manifest\.json is too large"):
        open_bundle(bundle)


def test_open_bundle_raises_when_a_file_grows_without_end(bundle: Path) -> None:
    with open(bundle / MODEL, "r+b") as stream:
        stream.truncate(1 << 40)  # sparse: reading it to the end would take minutes
    with pytest.raises(BundleError, match=MODEL):
        open_bundle(bundle)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b"x")])
def test_open_bundle_raises_when_there_is_no_directory(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x.hetero")
    with pytest.raises(BundleError, match="is no bundle"):
        open_bundle(tmp_path / "x.hetero")


def test_open_bundle_raises_when_the_space_is_another_one_of_equal_dim(bundle: Path) -> None:
    manifest = make_manifest()
    other = define_space(weights_sha256="c" * 64, preprocess_fingerprint="d" * 64, dim=4)
    for expected in (other, other.id):
        with pytest.raises(SpaceMismatchError) as caught:
            open_bundle(bundle, expected_space=expected)
        assert other.id in str(caught.value)
        assert manifest.space.id in str(caught.value)
    assert open_bundle(bundle, expected_space=manifest.space).space == manifest.space


def test_read_raises_when_a_file_changes_after_opening(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.read(MODEL) == CONTENTS[MODEL]
    for forged in (CONTENTS[MODEL][:-1] + b"?", CONTENTS[MODEL] + b"?", CONTENTS[MODEL][:-1]):
        (bundle / MODEL).write_bytes(forged)
        with pytest.raises(BundleError, match=MODEL):
            opened.read(MODEL)


def test_read_raises_when_a_file_became_a_link_to_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    shutil.move(bundle / MODEL, tmp_path / "elsewhere")
    (bundle / MODEL).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="cannot be opened as a regular file"):
        opened.read(MODEL)


@pytest.mark.parametrize("path", ["../outside.onnx", "/etc/hostname", MANIFEST, "onnx", ""])
def test_read_raises_when_a_file_is_not_listed(bundle: Path, path: str) -> None:
    with pytest.raises(BundleError, match="lists no file"):
        open_bundle(bundle).read(path)


def test_files_of_two_bundles_cannot_be_mixed(bundle: Path, tmp_path: Path) -> None:
    contents = {**CONTENTS, MODEL: b"another model"}
    manifest = make_manifest()
    file = manifest.files[0].model_copy(update=entry_of(MODEL, contents[MODEL]).model_dump())
    other = write_bundle(tmp_path / "other.hetero", manifest.model_copy(update={"files": (file,)}), contents).path
    for name in (MODEL, MANIFEST, SEAL):
        copy = tmp_path / f"mixed-{Path(name).name}"
        shutil.copytree(bundle, copy)
        shutil.copy(other / name, copy / name)
        with pytest.raises(BundleError):
            open_bundle(copy)
