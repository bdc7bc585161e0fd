from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from exporters.graph import EmbeddingGraph, evaluation_mode, require_exportable
from exporters.parity import reference_embeddings
from hetero.errors import ExportError
from hetero.models.embed import embed
from hetero.preprocess import PreprocessSpec

SPEC = PreprocessSpec(height=5, width=4, channels=3, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


def small_network(dim: int = 7) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, dim)
    ).eval()


def test_graph_equals_the_numpy_reference_and_the_embedding_used_for_retrieval() -> None:
    network = small_network()
    with torch.no_grad():
        found = EmbeddingGraph(network, SPEC)(torch.from_numpy(PIXELS)).numpy()
    np.testing.assert_allclose(found, reference_embeddings(network, PIXELS, SPEC), atol=1e-6)
    np.testing.assert_allclose(found, embed(network, PIXELS, SPEC), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_graph_gives_zeros_and_not_nan_for_a_zero_vector() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    assert EmbeddingGraph(network, SPEC)(torch.from_numpy(PIXELS)).detach().abs().max() == 0


def test_graph_adds_no_weights_to_the_network() -> None:
    network = small_network()
    assert {f"network.{name}" for name in network.state_dict()} == set(EmbeddingGraph(network, SPEC).state_dict())


def test_evaluation_mode_restores_each_submodule_even_after_an_error() -> None:
    network = small_network().train()
    network[1].eval()  # a frozen batch norm must stay frozen
    seen = []

    def fail_inside() -> None:
        with evaluation_mode(network):
            seen.extend(part.training for part in network.modules())
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail_inside()
    assert seen == [False] * 6
    assert [part.training for part in network] == [True, False, True, True, True]
    assert network.training


class Wrong(nn.Module):
    """Returns what it is told to."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> object:
        return self.output


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (small_network().double(), "float32 on the CPU"),
        (small_network().half(), "float32 on the CPU"),
        (small_network().to("meta"), "float32 on the CPU"),
        (small_network(dim=8), r"\[2, 8\]; expected torch.float32 \[2, 7\]"),
        (nn.Sequential(nn.Conv2d(1, 7, 5), nn.Flatten()), "does not run on pictures"),
        (Wrong(torch.ones(2, 7, 1)), "no embedding of this space|does not run"),
        (Wrong(torch.ones(2, 7, dtype=torch.float64)), "no embedding of this space|does not run"),
        (Wrong((torch.ones(2, 7),)), "no embedding of this space|does not run"),
        (Wrong(torch.full((2, 7), float("nan"))), "NaN or infinity"),
    ],
)
def test_require_exportable_raises_when_the_network_cannot_be_a_student(network: nn.Module, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        require_exportable(network, SPEC, 7)


def test_require_exportable_accepts_a_student_and_leaves_its_mode() -> None:
    network = small_network().train()
    before = network[1].running_mean.clone()
    require_exportable(network, SPEC, 7)
    assert network.training
    assert torch.equal(network[1].running_mean, before)
