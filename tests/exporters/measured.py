"""One real export with everything in it: int8 files, a retrieval test, thresholds.

Shared by the tests of what is shown of a bundle.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from exporters import Bundle, export
from exporters.parity import reference_embeddings
from exporters.retrieval import RetrievalTest
from hetero.retrieval.protocol import Protocol
from hetero.retrieval.verification import calibrate
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent))
from networks import DIM, SPEC, wide

SPACE = define_space(weights_sha256="a" * 64, preprocess_fingerprint=SPEC.fingerprint(), dim=DIM)
NOISE = 28.0  # grey levels between two pictures of a class: hard enough that some queries fail


def smooth(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random walks in both directions, ``uint8 [count, h, w, 3]``: neighbours are alike, as in photographs."""
    walk = rng.normal(0, 1, (count, SPEC.height, SPEC.width, 3)).cumsum(1).cumsum(2)
    walk -= walk.mean((1, 2, 3), keepdims=True)
    walk /= walk.std((1, 2, 3), keepdims=True)
    return np.clip(127 + 55 * walk, 0, 255).astype(np.uint8)


def measured_bundle(folder: Path) -> Bundle:
    """ONNX and TFLite, fp32 and int8."""
    rng = np.random.default_rng(0)
    calibration = smooth(rng, 64)
    network = wide()

    def embed(pixels: np.ndarray) -> np.ndarray:
        return reference_embeddings(network, pixels, SPEC)

    def searched() -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, Protocol]]:
        walks = smooth(rng, 24).astype(float)[:, None]
        pixels = np.clip(walks + rng.normal(0, NOISE, (24, 4, *walks.shape[2:])), 0, 255).astype(np.uint8)
        pixels = pixels.reshape(-1, SPEC.height, SPEC.width, 3)
        ids, labels = np.arange(96), np.repeat(np.arange(24), 4)
        query = ids % 2 == 0
        protocol = Protocol(ids[query], ids[~query], labels[query], labels[~query])
        return pixels[query], (embed(pixels[query]), embed(pixels[~query]), protocol)

    queries, test = searched()
    _, training = searched()
    return export(
        network,
        folder / "shown.hetero",
        preprocess=SPEC,
        space=SPACE,
        formats=("onnx", "tflite"),
        precisions=("fp32", "int8"),
        calibration=calibration,
        retrieval=RetrievalTest("synthetic/test", lambda numbers: queries[numbers], test[1], test[2]),
        thresholds=calibrate(training, test, (0.01, 0.1)),
        licence="CC-BY-4.0",
    )
