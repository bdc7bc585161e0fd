"""The torch network of an ArchSpec."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetero.models.arch import ArchSpec
from hetero.models.blocks import BLOCKS, conv_norm


class EmbeddingNetwork(nn.Module):
    """Colour-normalised image in, embedding out (not yet L2-normalised: losses and the exported graph do that)."""

    def __init__(self, arch: ArchSpec) -> None:
        super().__init__()
        self.arch = arch
        self.stem = nn.Sequential(*conv_norm(arch.channels, arch.stem_width, 3, arch.stem_stride), nn.ReLU())
        block, width, side = BLOCKS[arch.block], arch.stem_width, _halved(arch.size, arch.stem_stride)
        blocks: list[nn.Module] = []
        for stage in arch.stages:
            for index in range(stage.depth):
                hidden = stage.hidden(width, arch.block)
                groups = {"groups": hidden // stage.group_width} if stage.group_width is not None else {}
                blocks.append(
                    block(
                        width,
                        stage.width,
                        hidden=hidden,
                        kernel=stage.kernel,
                        stride=stage.stride if index == 0 else 1,
                        squeeze_excite=stage.squeeze_excite,
                        **groups,
                    )
                )
                width = stage.width
            side = _halved(side, stage.stride)
        self.body = nn.Sequential(*blocks)
        pool: list[nn.Module] = []
        if arch.head == "depthwise":
            pool = [nn.Conv2d(width, width, side, groups=width, bias=False), nn.BatchNorm2d(width)]
        elif arch.head == "average":
            pool = [nn.AdaptiveAvgPool2d(1)]
        self.pool = nn.Sequential(*pool, nn.Flatten())
        self.project = nn.Linear(width * side**2 if arch.head == "flatten" else width, arch.dim, bias=False)
        self.norm = nn.BatchNorm1d(arch.dim)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Embed colour-normalised images; the result is not of unit length."""
        embedding: Tensor = self.norm(self.project(self.pool(self.body(self.stem(image)))))
        return embedding


def build_network(arch: ArchSpec, *, seed: int) -> EmbeddingNetwork:
    """A freshly initialised network; the same seed gives the same weights and leaves torch's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EmbeddingNetwork(arch)


def channels_last(network: EmbeddingNetwork) -> EmbeddingNetwork:
    """The same network, weights laid out for channels-last pictures, which oneDNN and cuDNN are fastest with."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _halved(side: int, stride: int) -> int:
    """Output side of a 'same'-padded convolution: ⌈side / stride⌉."""
    return -(-side // stride)
