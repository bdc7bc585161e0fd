"""MediaPipe, in an environment of its own, embeds pictures with an exported TFLite file as torch does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exporters import export
from exporters.parity import probe_pixels, reference_embeddings
from exporters.tflite_metadata import rgb_metadata
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent.parent / "exporters"))
from networks import DIM, SPEC, wide

ROOT = Path(__file__).parent.parent.parent
MEDIAPIPE = "mediapipe==1.2.2"  # its library wants libEGL.so.1 and libGLESv2.so.2 of the system, and a wheel fits
MIN_COSINE = 0.999
PROGRAM = """
import json, sys
import mediapipe, numpy as np
from mediapipe.tasks.metadata.metadata_schema_py_generated import ImageProperties, ModelMetadata
from mediapipe.tasks.python import BaseOptions, vision

def read(path):
    model = ModelMetadata.GetRootAs(open(path, "rb").read())
    graph, image = model.SubgraphMetadata(0), ImageProperties()
    source, result = graph.InputTensorMetadata(0), graph.OutputTensorMetadata(0)
    image.Init(source.Content().ContentProperties().Bytes, source.Content().ContentProperties().Pos)
    names = source.Name(), result.Name(), model.MinParserVersion()
    return [*map(bytes.decode, names), image.ColorSpace(), image.DefaultSize().Height(), image.DefaultSize().Width()]

def embed(path, pictures):
    options = vision.ImageEmbedderOptions(BaseOptions(model_asset_path=path), l2_normalize=False)
    with vision.ImageEmbedder.create_from_options(options) as embedder:
        images = [mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture) for picture in pictures]
        return [embedder.embed(image).embeddings[0].embedding.tolist() for image in images]

answers = {"metadata": read(sys.argv[2])}
for path in sys.argv[3:]:
    try:
        answers[path] = embed(path, np.load(sys.argv[1]))
    except (RuntimeError, ValueError) as error:
        answers[path] = str(error)
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def mediapipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with MediaPipe and nothing of ours."""
    folder = tmp_path_factory.mktemp("mediapipe") / "lab"
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    command = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", MEDIAPIPE]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    return python


def test_mediapipe_embeds_as_torch_does_because_of_the_metadata(mediapipe: Path, tmp_path: Path) -> None:
    network, shape = wide(), (SPEC.height, SPEC.width, SPEC.channels)
    space = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
    formats, precisions = ("tflite",), ("fp32", "fp16", "dynamic")
    path = tmp_path / "student.hetero"
    bundle = export(network, path, preprocess=SPEC, space=space, formats=formats, precisions=precisions)
    good = {file.precision: bundle.read(file.path) for file in bundle.manifest.files}
    own, other = (rgb_metadata(SPEC.height, SPEC.width, mean=m, std=s) for m, s in ((0.0, 1.0), (127.5, 127.5)))
    assert good["fp32"].count(own) == 1
    files = good | {"wrong": good["fp32"].replace(own, other), "none": good["fp32"].replace(b"M001", b"M999")}
    for name, data in {**files, "own": own}.items():
        (tmp_path / name).write_bytes(data)
    pixels = probe_pixels(shape)
    np.save(tmp_path / "pixels.npy", pixels)
    command = [mediapipe, "-c", PROGRAM, *(tmp_path / name for name in ("pixels.npy", "own", *files))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    answers = {Path(name).name: answer for name, answer in json.loads(result.stdout).items()}
    assert answers.pop("metadata") == ["image", "embedding", "1.0.0", 1, SPEC.height, SPEC.width]
    assert "etadata" in answers.pop("none"), "MediaPipe takes files without metadata now"
    reference = reference_embeddings(network, pixels, SPEC)
    found = {name: np.array(answer) for name, answer in answers.items()}
    cosines = {name: (vectors * reference).sum(1) / np.linalg.norm(vectors, axis=1) for name, vectors in found.items()}
    print({name: float(cosine.min()) for name, cosine in cosines.items()})
    for precision in precisions:
        assert found[precision].shape == (len(pixels), DIM)
        assert cosines[precision].min() >= MIN_COSINE
        np.testing.assert_allclose(np.linalg.norm(found[precision], axis=1), 1, atol=1e-5)
    assert np.abs(found["fp32"] - reference).max() < 1e-5
    assert cosines["wrong"].min() < MIN_COSINE
