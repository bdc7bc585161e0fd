from __future__ import annotations

import pytest
import torch
from torch import nn

from exporters.source import evaluation_mode, require_exportable
from hetero.errors import ExportError
from hetero.preprocess import PreprocessSpec

SPEC = PreprocessSpec(height=5, width=4, channels=3, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))


def small_network(dim: int = 7) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, dim)
    ).eval()


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
        (Wrong(torch.ones(2, 7, 1)), "no embedding of this space"),
        (Wrong(torch.ones(2, 7, dtype=torch.float64)), "no embedding of this space"),
        (Wrong((torch.ones(2, 7),)), "no embedding of this space"),
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
