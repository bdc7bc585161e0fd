"""Seeded pictures with edges and gradients, several of a kind, for tests that need some like photographs."""

from __future__ import annotations

import numpy as np

from exporters.retrieval import RetrievalTest
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.protocol import Protocol, leave_one_out


def smooth(count: int, spec: PreprocessSpec, *, seed: int = 0, classes: int | None = None) -> np.ndarray:
    """``uint8 [count, h, w, c]``: waves and a rectangle; those of one class are noisy copies of one picture."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : spec.height, 0 : spec.width]
    kinds = []
    for _ in range(classes or count):
        picture = np.empty((spec.height, spec.width, spec.channels))
        for channel in range(spec.channels):
            period = random.uniform(2, 8, 2)
            picture[..., channel] = np.sin(rows / period[0] + random.uniform(0, 6)) + np.cos(columns / period[1])
        top, left = random.integers(0, spec.height // 2), random.integers(0, spec.width // 2)
        picture[top : top + spec.height // 3, left : left + spec.width // 3] = random.uniform(-2, 2, spec.channels)
        kinds.append((picture + 2) * 63.75)
    noisy = [kinds[index % len(kinds)] + random.normal(0, 12, kinds[0].shape) for index in range(count)]
    return np.clip(noisy, 0, 255).astype(np.uint8)


def search(embed: object, spec: PreprocessSpec, *, classes: int = 24, each: int = 4, seed: int = 1) -> RetrievalTest:
    """Leave-one-out over ``classes`` kinds of pictures, the gallery embedded by ``embed(pixels)``."""
    pixels = smooth(classes * each, spec, seed=seed, classes=classes)
    protocol: Protocol = leave_one_out(np.arange(classes * each) % classes)
    assert callable(embed)
    return RetrievalTest("waves", lambda queries: pixels[queries], embed(pixels), protocol)
