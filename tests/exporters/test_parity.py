from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from exporters.parity import compare, probe_pixels, reference_embeddings, synthetic_images
from hetero.errors import ExportError
from hetero.preprocess import PreprocessSpec

SPEC = PreprocessSpec(height=3, width=2, channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


def unit(angle: float) -> list[float]:
    return [math.cos(angle), math.sin(angle)]


def test_compare_measures_a_hand_worked_pair() -> None:
    reference = np.array([unit(0), unit(1)], np.float32)
    candidate = np.array([unit(0), unit(1.2)], np.float32)
    parity = compare(reference, candidate)
    assert parity.max_abs == pytest.approx(abs(math.cos(1) - math.cos(1.2)), rel=1e-5)
    assert parity.min_cosine == pytest.approx(math.cos(0.2), abs=1e-6)
    assert parity.mean_cosine == pytest.approx((1 + math.cos(0.2)) / 2, abs=1e-6)
    assert parity.images == 2
    assert parity.self_r_at_1 == 1.0


def test_compare_counts_the_pictures_nearest_to_their_own_embedding() -> None:
    reference = np.array([unit(0), unit(0.1), unit(0.2), unit(0.2)], np.float32)
    dead = np.array([unit(0.11)] * 4, np.float32)  # one embedding for all, and no cosine below 0.99
    parity = compare(reference, dead)
    assert parity.min_cosine > 0.99
    assert parity.self_r_at_1 == 0.25
    assert compare(reference, reference).self_r_at_1 == 1.0  # two equal pictures are each other's


def test_compare_counts_the_cosine_of_zero_vectors_as_one_and_of_a_single_one_as_zero() -> None:
    zero, unit_vector = np.zeros((1, 2), np.float32), np.array([[1, 0]], np.float32)
    assert compare(zero, zero).min_cosine == 1
    assert compare(zero, unit_vector).min_cosine == 0


@pytest.mark.parametrize("bad", [[[np.nan, 0.0]], [[np.inf, 0.0]], [[1.0, 0.0, 0.0]]])
def test_compare_raises_when_there_is_no_number_to_record(bad: list[list[float]]) -> None:
    good, worse = np.array([[1, 0]], np.float32), np.array(bad, np.float32)
    for pair in ((good, worse), (worse, good)):
        with pytest.raises(ExportError, match="cannot be compared"):
            compare(*pair)


def test_reference_embeddings_equal_a_loop_over_pictures_and_components() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 4), nn.Dropout(0.5))
    network.train()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 2, 3), dtype=np.uint8)
    found = reference_embeddings(network, pixels, SPEC, batch_size=2)
    assert network.training
    assert network[2].training
    weight, bias = network[1].weight.detach().double().numpy(), network[1].bias.detach().double().numpy()
    for picture, row in zip(pixels, found, strict=True):
        flat = [
            (picture[y, x, c] / 255 - SPEC.mean[c]) / SPEC.std[c] for c in range(3) for y in range(3) for x in range(2)
        ]
        vector = [
            sum(w * v for w, v in zip(weights, flat, strict=True)) + b for weights, b in zip(weight, bias, strict=True)
        ]
        length = math.sqrt(sum(v * v for v in vector))
        assert row == pytest.approx([v / length for v in vector], abs=1e-6)
    assert found.dtype == np.float32


def test_probe_pixels_hold_black_white_noise_and_patches_and_repeat() -> None:
    pixels = probe_pixels((5, 6, 3), count=4)
    assert pixels.shape == (6, 5, 6, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0].max() == 0
    assert pixels[1].min() == 255
    assert (pixels[4][:4, :4] == pixels[4][0, 0]).all()
    assert not (pixels[2][:4, :4] == pixels[2][0, 0]).all()
    np.testing.assert_array_equal(pixels, probe_pixels((5, 6, 3), count=4))
    assert (pixels != probe_pixels((5, 6, 3), count=4, seed=1)).any()


def test_synthetic_images_need_resizing_and_repeat() -> None:
    images = synthetic_images(SPEC, count=9)
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 and image.std() > 5 for image in images)
    assert all(image.shape[0] > SPEC.height and image.shape[1] > SPEC.width for image in images)
    for image, again in zip(images, synthetic_images(SPEC, count=9), strict=True):
        np.testing.assert_array_equal(image, again)
