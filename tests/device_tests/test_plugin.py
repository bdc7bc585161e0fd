"""The pytest plugin: a lab's own tests get devices, the bundle and what was embedded, and JUnit comes from pytest."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from fake_adb import FakeDevice, Fault

OWN_TEST = """
import numpy as np

def test_the_device_embeds_unit_vectors(device, cell, bundle, device_embeddings):
    assert device_embeddings.shape == (24, bundle.manifest.output.dim)
    assert np.allclose(np.linalg.norm(device_embeddings, axis=1), 1, atol=1e-4)

def test_the_device_answers(device):
    assert device.run(("echo", device.name), timeout_s=10).stdout == f"{device.name}\\n"
"""


@pytest.fixture
def lab(toy, tmp_path):
    """pytest in a process of its own, as a lab calls it; returns exit code, output and JUnit's cases by name."""

    def call(*arguments, given=True):
        junit = tmp_path / "junit.xml"
        shared = ["--hetero-bundle", toy.bundle.path, "--hetero-gallery", toy.gallery.path, "--hetero-queries=24"]
        data = ["--hetero-data", toy.pictures, "--hetero-out", tmp_path / "out"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", f"--junitxml={junit}"]
        ended = subprocess.run(
            [*map(str, [*command, *(shared + data if given else []), *arguments])],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            check=False,
        )
        cases = {case.get("name"): case for case in ElementTree.parse(junit).iter("testcase")} if junit.exists() else {}
        return ended.returncode, ended.stdout + ended.stderr, cases

    return call


def test_the_check_runs_as_tests_of_every_connected_device(lab, tmp_path, adb):
    good, bad = (FakeDevice(serial, tmp_path / serial) for serial in ("GOOD", "BAD"))
    bad.faults.append(Fault(r"runner job\.json", "code", code=9, times=9))
    adb(good, bad)
    code, said, cases = lab("--pyargs", "device_tests.bundle_test")
    assert code == 1, said
    name = "test_device_retrieves_from_gallery"
    assert set(cases) == {
        *(f"{name}[{serial}-onnx-fp32-onnxruntime]" for serial in ("GOOD", "BAD")),
        *(f"test_device_runs_something[{serial}]" for serial in ("GOOD", "BAD")),
    }
    passed = cases[f"{name}[GOOD-onnx-fp32-onnxruntime]"]
    assert passed.find("failure") is None
    properties = {one.get("name"): one.get("value") for one in passed.iter("property")}
    assert float(properties["r_at_1"]) > 0.5
    assert float(properties["min_cosine"]) > 0.9999
    assert "exit code 9" in cases[f"{name}[BAD-onnx-fp32-onnxruntime]"].find("failure").get("message")
    assert good.files == bad.files == []


def test_a_labs_own_tests_get_the_device_and_its_embeddings(lab, tmp_path):
    (tmp_path / "test_own.py").write_text(OWN_TEST)
    code, said, cases = lab("--hetero-device=local", "test_own.py")
    assert code == 0, said
    assert set(cases) == {
        "test_the_device_embeds_unit_vectors[local-onnx-fp32-onnxruntime]",
        "test_the_device_answers[local]",
    }


def test_without_its_options_the_plugin_says_which_is_missing_and_disturbs_nobody(lab, tmp_path):
    (tmp_path / "test_plain.py").write_text("def test_nothing():\n    pass\n")
    code, said, _ = lab("test_plain.py", given=False)
    assert code == 0, said
    (tmp_path / "test_own.py").write_text("def test_bundle(bundle):\n    pass\n")
    code, said, _ = lab("test_own.py", given=False)
    assert code == 1
    assert "--hetero-bundle" in said
    code, said, _ = lab("--pyargs", "device_tests.bundle_test", given=False)
    assert code != 0
    assert "--hetero-bundle" in said
