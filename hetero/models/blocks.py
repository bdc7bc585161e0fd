"""The block kinds of the family and squeeze-excite."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetero.models.convolution import Convolution

SQUEEZE_RATIO = 4  # Hu et al. use 16 for ResNets, MobileNetV3 4: students have few channels
MIN_SQUEEZE = 8


def squeeze_width(channels: int) -> int:
    """Hidden channels of squeeze-excite over ``channels``."""
    return max(MIN_SQUEEZE, channels // SQUEEZE_RATIO)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution with 'same' padding, without bias, and batch normalisation."""
    return [Convolution(inputs, outputs, kernel, stride=stride, groups=groups), nn.BatchNorm2d(outputs)]


class SqueezeExcite(nn.Module):
    """Channel attention. Source: Hu et al., Squeeze-and-excitation networks, CVPR 2018."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = squeeze_width(channels)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale each channel by a gate in 0..1 computed from all channels' means."""
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(mean))))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The input as it is, or brought to the output's shape."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(*conv_norm(inputs, outputs, 1, stride))


class Residual(nn.Module):
    """Two dense k×k convolutions and a shortcut. Source: He et al., Deep residual learning, CVPR 2016 (basic block)."""

    def __init__(
        self, inputs: int, outputs: int, *, hidden: int, kernel: int, stride: int, squeeze_excite: bool
    ) -> None:
        super().__init__()
        layers = [
            *conv_norm(inputs, hidden, kernel, stride),
            nn.ReLU(),
            *conv_norm(hidden, outputs, kernel),
        ]
        if squeeze_excite:
            layers.append(SqueezeExcite(outputs))
        self.body = nn.Sequential(*layers)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k v u"]:
        """Map ``[b, inputs, h, w]`` to ``[b, outputs, h / stride, w / stride]``."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1 to the hidden width, k×k in groups, 1×1 to the output width, and a shortcut.

    Source: He et al., Deep residual learning, CVPR 2016 (bottleneck), with the stride in the k×k convolution as usual
    since; the groups from Xie et al., Aggregated residual transformations, CVPR 2017.
    """

    def __init__(
        self, inputs: int, outputs: int, *, hidden: int, kernel: int, stride: int, squeeze_excite: bool, groups: int = 1
    ) -> None:
        super().__init__()
        layers = [
            *conv_norm(inputs, hidden, 1),
            nn.ReLU(),
            *conv_norm(hidden, hidden, kernel, stride, groups=groups),
            nn.ReLU(),
            *conv_norm(hidden, outputs, 1),
        ]
        if squeeze_excite:
            layers.append(SqueezeExcite(outputs))
        self.body = nn.Sequential(*layers)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k v u"]:
        """Map ``[b, inputs, h, w]`` to ``[b, outputs, h / stride, w / stride]``."""
        return torch.relu(self.body(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise k×k, project 1×1. Source: Sandler et al., MobileNetV2, CVPR 2018."""

    def __init__(
        self, inputs: int, outputs: int, *, hidden: int, kernel: int, stride: int, squeeze_excite: bool
    ) -> None:
        super().__init__()
        layers = [
            *conv_norm(inputs, hidden, 1),
            nn.ReLU(),
            *conv_norm(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU(),
        ]
        if squeeze_excite:
            layers.append(SqueezeExcite(hidden))
        self.body = nn.Sequential(*layers, *conv_norm(hidden, outputs, 1))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k v u"]:
        """Map ``[b, inputs, h, w]`` to ``[b, outputs, h / stride, w / stride]``."""
        y: Tensor = self.body(x)
        return x + y if self.has_shortcut else y


BLOCKS: dict[str, type[Residual] | type[Bottleneck] | type[InvertedResidual]] = {
    "residual": Residual,
    "bottleneck": Bottleneck,
    "inverted_residual": InvertedResidual,
}
