"""A phone lab: ``hetero[device]`` alone, in an environment of its own, opens and runs a bundle without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import exporters
from hetero.models.arch import ArchSpec, Stage
from hetero.models.network import build_network
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.gallery import Item, write_gallery
from hetero.space import define_space

ROOT = Path(__file__).parent.parent.parent
SPEC = PreprocessSpec(height=12, width=12, channels=1, mean=(0.5,), std=(0.5,))
PROGRAM = """
import importlib.util, sys
assert importlib.util.find_spec("torch") is None, "this environment has torch"
assert importlib.util.find_spec("onnx") is None, "this environment has onnx"
import numpy as np
import exporters, device_tests
bundle = exporters.open_bundle(sys.argv[1])
assert exporters.verify(bundle.path).passed
np.save(sys.argv[2], exporters.embed_pixels(bundle, np.load(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A Python with ``hetero[device]`` and nothing else."""
    folder = tmp_path_factory.mktemp("lab")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    command = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{ROOT}[device]"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return python


def test_a_bundle_runs_where_there_is_no_torch(lab, tmp_path):
    from exporters import export
    from exporters.verify import embed_pixels

    arch = ArchSpec(size=12, channels=1, dim=8, stem_width=4, stages=(Stage(width=6),))
    space = define_space(weights_sha256="0" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=8)
    bundle = export(build_network(arch, seed=0), tmp_path / "tiny.hetero", preprocess=SPEC, space=space)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    arguments = [lab, "-c", PROGRAM, bundle.path, tmp_path / "vectors.npy", tmp_path / "pixels.npy"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert np.array_equal(np.load(tmp_path / "vectors.npy"), embed_pixels(bundle, pixels))


def test_a_device_check_runs_where_there_is_no_torch(lab, tmp_path):
    """The golden student searches a gallery of its own embeddings, from the command line, on this computer."""
    rng = np.random.default_rng(0)
    bundle = exporters.open_bundle(ROOT / "tests" / "golden" / "omniglot" / "small.hetero")
    for label in range(8):
        strokes = np.kron(rng.random((7, 7)) > 0.6, np.ones((4, 4))) * 220
        (tmp_path / "pictures" / f"class {label}").mkdir(parents=True)
        for number in range(4):
            picture = np.clip(strokes + rng.normal(0, 40, (28, 28)), 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / "pictures" / f"class {label}" / f"{number}.png")
    files = sorted((tmp_path / "pictures").rglob("*.png"))
    vectors, _ = exporters.embed_files(bundle, files)
    items = [Item(str(file), index // 4, file.parent.name) for index, file in enumerate(files)]
    facts = {"space_id": bundle.space.id, "model_weights_sha256": "0" * 64, "dataset": "toy"}
    write_gallery(tmp_path / "gallery", vectors, items, **facts)
    shared = ["--bundle", bundle.path, "--gallery", tmp_path / "gallery", "--data", tmp_path / "pictures"]
    command = [lab.parent / "hetero", "device", "run", *shared, "--device=local", "--out", tmp_path / "out", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout)
    assert report["verdict"] == "passed"
    assert [cell["runtime"] for cell in report["cells"]] == ["onnxruntime"]
    assert "passed" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
