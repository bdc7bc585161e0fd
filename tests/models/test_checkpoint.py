"""Checkpoints: what is saved comes back, and what is damaged is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from hetero.errors import CheckpointError
from hetero.models.arch import ArchSpec, Stage
from hetero.models.checkpoint import ModelCard, load_model, network_digest, read_card, save_model, update_card
from hetero.models.embed import colour_normalise, embed
from hetero.models.network import build_network
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space

ARCH = ArchSpec(size=12, channels=3, dim=8, stem_width=4, stages=(Stage(width=6),))
SPEC = PreprocessSpec(height=12, width=12, channels=3, mean=(0.1, 0.2, 0.3), std=(0.2, 0.4, 0.8))


@pytest.fixture
def network():
    return build_network(ARCH, seed=0)


@pytest.fixture
def saved(network, tmp_path):
    digest = network_digest(network.state_dict())
    card = ModelCard(
        name="toy",
        role="gallery",
        arch=ARCH,
        preprocess=SPEC,
        space=define_space(weights_sha256=digest, preprocess_fingerprint=SPEC.fingerprint(), dim=8),
        weights_sha256=digest,
        classes=("a", "b"),
    )
    save_model(tmp_path / "model", network, card, normalize(torch.randn(2, 8)))
    return tmp_path / "model"


def test_a_checkpoint_comes_back(saved, network):
    loaded = load_model(saved)
    assert not loaded.network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor)
    assert loaded.prototypes is not None
    assert loaded.prototypes.shape == (2, 8)
    assert (loaded.arch, loaded.preprocess, loaded.card.classes) == (ARCH, SPEC, ("a", "b"))
    assert loaded.space.origin_weights_sha256 == loaded.card.weights_sha256


def test_updating_the_card_leaves_the_weights_alone(saved):
    before = (saved / "model.safetensors").read_bytes()
    update_card(saved, metrics={"r_at_1": 0.5})
    assert load_model(saved).card.metrics == {"r_at_1": 0.5}
    assert (saved / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("file", ["model.safetensors", "prototypes.safetensors"])
def test_a_flipped_byte_in_the_weights_is_refused(saved, file):
    data = bytearray((saved / file).read_bytes())
    data[-3] ^= 4
    (saved / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{file} is not the file that model.json describes"):
        load_model(saved)


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_a_truncated_weights_file_is_refused(saved, keep):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        load_model(saved)


def test_a_missing_weights_file_or_checkpoint_is_refused(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing"):
        load_model(saved)
    with pytest.raises(CheckpointError, match=r"is no checkpoint.*runs/NAME/gallery"):
        load_model(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "another version"),
        ({"colour": 1}, "colour"),
        ({"role": "boss"}, "role"),
    ],
)
def test_a_card_of_another_shape_is_refused(saved, change, message):
    card = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps(card | change))
    with pytest.raises(CheckpointError, match=message):
        read_card(saved)


@pytest.mark.parametrize("text", ["{", "[]", "null", "\x00"])
def test_a_card_that_is_no_json_object_is_refused(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_card(saved)


def test_a_changed_preprocessing_is_refused_because_it_would_be_another_space(saved):
    card = json.loads((saved / "model.json").read_text())
    card["preprocess"]["mean"] = [0.9, 0.9, 0.9]
    (saved / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"names a space that its weights, preprocessing .* do not make"):
        load_model(saved)


def test_weights_of_another_architecture_are_refused(saved):
    card = json.loads((saved / "model.json").read_text())
    card["arch"]["stages"][0]["width"] = 7
    (saved / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="does not fit the architecture"):
        load_model(saved)


def test_colour_normalisation_is_the_stated_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    found = colour_normalise(torch.from_numpy(pixels), SPEC).numpy()
    expected = (pixels.astype(np.float64) / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    assert np.allclose(found, expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_embed_is_normalised_independent_of_batching_and_restores_the_mode(network):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3), dtype=np.uint8)
    network.train()
    whole, parts = embed(network, pixels, SPEC), embed(network, pixels, SPEC, batch_size=2)
    assert network.training
    assert whole.shape == (7, 8)
    assert whole.dtype == np.float32
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    assert np.allclose(whole, parts, atol=1e-6)
