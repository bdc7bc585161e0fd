"""Networks that the exporters' tests share: random weights, batch statistics that are not the initial ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from exporters.parity import probe_pixels
from hetero.models.arch import ArchSpec, Stage
from hetero.models.embed import colour_normalise
from hetero.models.network import build_network
from hetero.preprocess import PreprocessSpec

SPEC = PreprocessSpec(height=16, width=12, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
SQUARE = PreprocessSpec(height=16, width=16, channels=3, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.4))
DIM = 12


def settle(network: nn.Module, spec: PreprocessSpec = SPEC) -> nn.Module:
    """Give batch normalisation the statistics of pictures like the parity check's, as training would."""
    network.train()
    pixels = torch.from_numpy(probe_pixels((spec.height, spec.width, spec.channels)))
    with torch.no_grad():
        for _ in range(40):  # momentum 0.1: the initial statistics are forgotten
            network(colour_normalise(pixels, spec))
    return network.eval()


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


def mixed() -> nn.Module:
    """Dense, grouped and depthwise convolutions, batch norm, dropout, squeeze-excite, pooling to 2×2, linear."""
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        SqueezeExcite(8),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, DIM),
    )
    return settle(network)


def wide() -> nn.Module:
    """Large enough for TFLite's dynamic range, which leaves tensors of less than 1,024 numbers float."""
    torch.manual_seed(8)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.Hardswish(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        SqueezeExcite(32),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, DIM),
    )
    return settle(network)


def unpadded() -> nn.Module:
    """The first convolution pads nothing, two filters a channel, a rectangular kernel; PReLU and ReLU6."""
    torch.manual_seed(6)
    network = nn.Sequential(
        nn.Conv2d(3, 6, (3, 2), groups=3),
        nn.PReLU(6, init=0.2),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 8, 3, dilation=2, padding="same"),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 4, stride=2, padding=1),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(DIM),
    )
    network(torch.zeros(1, 3, SPEC.height, SPEC.width))
    return settle(network)


class _Residual(nn.Module):
    """In-place activations, both shortcuts, a scale a channel, numbers, a concatenation, a result used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        self.gamma = nn.Parameter(torch.randn(8, 1, 1))
        self.gate = nn.Sequential(nn.Linear(16, 16), nn.Hardsigmoid())
        self.head = nn.Linear(16, DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x))
        y = self.body(x)
        x = torch.cat([torch.tanh(x - y) / 2 + 1, self.gamma * y * 3.0], 1)
        x = x.mean((2, 3))
        return 0.25 - self.head(self.gate(x) * x.view(x.size(0), -1))


def residual() -> nn.Module:
    torch.manual_seed(7)
    return settle(_Residual())


def family(block: str = "inverted_residual") -> nn.Module:
    """A member of hetero's family, squeeze-excite included; of residual blocks with a head of every position."""
    arch = ArchSpec(
        size=16,
        channels=3,
        dim=DIM,
        block=block,
        stem_width=8,
        head="flatten" if block == "residual" else "depthwise",
        stages=(Stage(width=8, depth=2), Stage(width=16, depth=2, kernel=5, squeeze_excite=True)),
    )
    return settle(build_network(arch, seed=1), SQUARE)


class _Transformer(nn.Module):
    """A block of depthwise convolution, LayerNorm and GELU over channels, then one of attention over positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.depthwise = (
            nn.Conv2d(3, width, 4, stride=4),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
        )
        self.norm, self.attention_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.permute(0, 2, 3, 1) + self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        x = x.flatten(1, 2)
        y = self.attention_norm(x)
        return self.head((x + self.attention(y, y, y, need_weights=False)[0]).mean(1))


def transformer() -> nn.Module:
    """Outside the operations that a graph may have."""
    torch.manual_seed(9)
    return _Transformer(32).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], PreprocessSpec]] = {
    "mixed": (mixed, SPEC),
    "wide": (wide, SPEC),
    "unpadded": (unpadded, SPEC),
    "residual": (residual, SPEC),
    "family": (family, SQUARE),
    "family-residual": (lambda: family("residual"), SQUARE),
}
