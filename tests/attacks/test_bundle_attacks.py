"""Bundles that were damaged, forged or mixed: each is refused before any byte reaches a runtime."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.bundle import MAX_MANIFEST_BYTES, open_bundle, seal_of, write_bundle
from exporters.manifest import (
    MANIFEST,
    SEAL,
    Golden,
    InputSpec,
    Manifest,
    Model,
    ModelFile,
    OutputSpec,
    Parity,
    Provenance,
    Tool,
    entry_of,
    parse_manifest,
)
from hetero.errors import BundleError, SpaceMismatchError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.verification import Rate, Threshold
from hetero.space import define_space

MODEL = "onnx/model.fp32.onnx"
CONTENTS = {
    MODEL: b"not run by these tests " * 40,
    "golden/image-00.png": b"a picture",
    "golden/image-01.png": b"another picture",
    "golden/pixels.npy": bytes(range(200)),
    "golden/embeddings.npy": bytes(range(100)),
}
THRESHOLD = Threshold(
    far=0.01,
    similarity=0.5,
    impostor_pairs=5000,
    calibration_far=0.009,
    calibration_queries=50,
    true_accept_rate=Rate(value=0.9, low=0.8, high=0.95),
    false_accept_rate=Rate(value=0.01, low=0.0, high=0.02),
    genuine_pairs=100,
    test_impostor_pairs=900,
)


def make_manifest() -> Manifest:
    spec = PreprocessSpec(height=8, width=6, channels=1, resize="squash", filter="bilinear", mean=(0.5,), std=(0.25,))
    return Manifest(
        name="student",
        licence="Apache-2.0",
        space=define_space(weights_sha256="a" * 64, preprocess_fingerprint=spec.fingerprint(), dim=4),
        model=Model(weights_sha256="b" * 64, arch={"stem": 8, "stages": [1, 2]}),
        input=InputSpec(height=8, width=6, channels=1),
        output=OutputSpec(dim=4),
        preprocess=spec,
        files=(
            ModelFile(
                **entry_of(MODEL, CONTENTS[MODEL]).model_dump(),
                format="onnx",
                precision="fp32",
                recipe="by hand",
                opset=18,
                ops={"Conv": 3},
                parity=Parity(max_abs=1e-7, min_cosine=1.0, mean_cosine=1.0, tolerance=1e-5, images=2),
                retrieval=None,
                runtimes=(Tool(name="onnxruntime", version="1"),),
            ),
        ),
        thresholds=(THRESHOLD,),
        golden=Golden(
            source="by hand",
            images=tuple(entry_of(name, data) for name, data in CONTENTS.items() if name.endswith(".png")),
            pixels=entry_of("golden/pixels.npy", CONTENTS["golden/pixels.npy"]),
            embeddings=entry_of("golden/embeddings.npy", CONTENTS["golden/embeddings.npy"]),
        ),
        provenance=Provenance(created_by="a test", hetero_version="0", tools=()),
    )


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


def set_at(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_at("schema_version", value=2), "unknown schema"),
        (set_at("schema_version", value=True), "unknown schema"),
        (set_at("schema_version", value="1"), "unknown schema"),
        (set_at("schema_version", value=1.0), "unknown schema"),
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
        (set_at("files", 0, "precision", value="int8"), "precision"),
        (set_at("files", 0, "parity", "tolerance", value=0), "tolerance"),
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
            lambda m: m["files"].append({**m["files"][0], "path": "onnx/other.onnx"}),
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
        ('{"schema_version": 1}'.encode("utf-16"), "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"schema_version": 1, "schema_version": 1}', "names a key twice"),
        (b'{"schema_version": NaN}', "not a finite number"),
        (b'{"schema_version": 1, "x": 1e999}', "not a finite number"),
        (b'{"schema_version": 1, "x": -Infinity}', "not a finite number"),
        (b'{"schema_version": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"schema_version": 1, "name": "\\ud800"}', "does not fit"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"schema_version": 1, "thresholds": ' + b"[" * 400 + b"]" * 400 + b"}", "does not fit"),
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


GOOD = make_manifest().model_dump(mode="json")
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("a" * 64)
    | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] + [place for key, inner in items for place in places(inner, (*at, key))]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_parse_manifest_gives_a_manifest_or_a_bundle_error_for_any_json(data: st.DataObject) -> None:
    content: Any = json.loads(json.dumps(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(content)))
        value = copy.deepcopy(data.draw(JSON | st.sampled_from([[], {}, GOOD["files"][0], GOOD["golden"]])))
        if not place:
            content = value
            break
        parent = content
        for key in place[:-1]:
            parent = parent[key]
        action = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            parent[place[-1]] = value
        elif action == "remove":
            del parent[place[-1]]
        elif isinstance(parent, list):
            parent.append(value)
        else:
            parent[data.draw(st.text(max_size=8))] = value
        if not isinstance(content, dict | list):
            break
    raw = json.dumps(content, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    try:
        manifest = parse_manifest(raw)
    except BundleError as error:
        str(error).encode("utf-8")  # printable, whatever the keys were
    else:
        assert json.loads(manifest.model_dump_json()).keys() == GOOD.keys()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_parse_manifest_gives_a_manifest_or_a_bundle_error_for_any_bytes(data: st.DataObject) -> None:
    raw = bytearray(json.dumps(GOOD).encode())
    start = data.draw(st.integers(0, len(raw)))
    raw[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    try:
        parse_manifest(bytes(raw))
    except BundleError as error:
        str(error).encode("utf-8")


def test_good_manifest_of_these_tests_is_accepted() -> None:
    assert parse_manifest(json.dumps(GOOD).encode()) == make_manifest()
    assert np.isclose(make_manifest().files[0].parity.tolerance, 1e-5)
