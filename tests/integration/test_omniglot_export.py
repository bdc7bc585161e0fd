"""One call makes every format and precision of the trained Omniglot student, and each still finds in the gallery."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import exporters
from exporters.manifest import Manifest
from exporters.retrieval import RetrievalTest
from hetero.data.npz import NpzConfig
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.models.checkpoint import load_model
from hetero.retrieval.gallery import open_gallery
from hetero.retrieval.protocol import leave_one_out

GOLDEN = Path(__file__).parent.parent / "golden" / "omniglot"


@pytest.fixture(scope="module")
def exported(hetero_data, needs, tmp_path_factory):
    needs("tensorflow")
    needs("coremltools")
    dataset = open_dataset(NpzConfig(path=hetero_data / "omniglot28.npz"))
    indices = np.array(json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))["indices"])
    spec = load_model(GOLDEN / "small").preprocess
    train = np.random.default_rng(0).permutation(dataset.split("train"))[:512]
    pixels = read_pixels(dataset, indices, spec)
    return exporters.export(
        GOLDEN / "small",
        tmp_path_factory.mktemp("omniglot") / "small.hetero",
        formats=["onnx", "tflite", "coreml"],
        precisions=["fp32", "fp16", "dynamic", "int8", "int8io", "palette6"],
        calibration=read_pixels(dataset, train, spec),
        retrieval=RetrievalTest(
            "omniglot28/golden",
            lambda queries: pixels[queries],
            open_gallery(GOLDEN / "gallery").vectors,
            leave_one_out(dataset.labels[indices]),
        ),
    )


def test_twelve_files_keep_their_limits_and_the_bundle_verifies(exported):
    manifest: Manifest = exported.manifest
    assert manifest.blocked == ()
    files = {(file.format, file.precision): file for file in manifest.files}
    assert len(files) == 12
    for (_, precision), file in files.items():
        assert file.measured("r_at_1_delta") >= -0.005
        assert file.measured("r_at_1_low") <= file.measured("r_at_1_delta") <= file.measured("r_at_1_high")
        statuses = [rung.status for rung in file.ladder]  # the checkpoint has calibrated thresholds
        assert statuses[:2] == (["passed", "no limit"] if precision == "fp32" else ["no limit", "passed"])
        assert statuses[2] == "passed" if precision == "fp32" else statuses[2] in ("passed", "undecided")
        assert statuses[3:] == ["passed", "passed"]
        assert all(result.right for result in file.runtimes), file.path
        if precision == "fp32":
            assert file.measured("max_abs") <= 1e-5
        if precision == "fp16":
            assert file.measured("min_cosine") >= 0.999
        if precision in ("int8", "int8io"):
            assert file.content.int8_layers == file.content.layers
            assert file.layers[0].mean_cosine < file.layers[-1].mean_cosine
    report = exporters.verify(exported.path, expected_space=open_gallery(GOLDEN / "gallery").record.space_id)
    assert report.passed, [check for check in report.checks if not check.passed]


def test_a_file_of_8_bits_is_a_third_of_one_of_32(exported):
    sizes = {(file.format, file.precision): file.size_bytes for file in exported.manifest.files}
    for small in (("onnx", "int8"), ("tflite", "int8"), ("coreml", "int8w"), ("tflite", "dynamic")):
        assert sizes[small] < 0.33 * sizes[small[0], "fp32"]
    assert sizes["coreml", "palette6"] < 0.8 * sizes["coreml", "int8w"]
