"""Convolution whose weights' gradient is right on every processor."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def convolve(
    x: Float[Tensor, "b c h w"],
    weight: Float[Tensor, "k i v u"],
    bias: Float[Tensor, " k"] | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Float[Tensor, "b k y x"]:
    """``torch.nn.functional.conv2d``; on a CPU, where gradients are computed, a strided 1×1 convolution is a dense one
    of every ``stride``-th pixel, which gives the same numbers up to rounding.

    For the gradient of such a convolution's weights oneDNN (3.12, which torch 2.13 has; its issue 6035) copies those
    pixels piece by piece, and puts the pieces where they would be if pictures had a vector's channels (8 with AVX2, 16
    with AVX-512). With fewer channels, channels-last, it writes past its buffer and, on several threads, computes a
    wrong gradient.
    Without gradients this is an ordinary convolution; whoever exports a network must switch them off.
    """
    pointwise = weight.shape[2:] == (1, 1) and padding == (0, 0)
    if pointwise and stride != (1, 1) and x.device.type == "cpu" and torch.is_grad_enabled():
        x, stride = x[:, :, :: stride[0], :: stride[1]], (1, 1)
    return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)


class Convolution(nn.Conv2d):
    """``torch.nn.Conv2d`` without bias and with 'same' padding for odd kernels, by :func:`convolve`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k v u"]:
        """Convolve."""
        margin = self.kernel_size[0] // 2
        down, across = self.stride
        return convolve(x, self.weight, stride=(down, across), padding=(margin, margin), groups=self.groups)
