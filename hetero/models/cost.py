"""Exact multiply-accumulates and parameters of an ArchSpec, without building the network."""

from __future__ import annotations

from dataclasses import dataclass

from hetero.models.arch import ArchSpec, Stage

SQUEEZE_RATIO, MIN_SQUEEZE = 4, 8  # as blocks.py, which needs torch; a test compares the two


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    Attributes:
        macs: multiply-accumulates of convolutions and linear layers (batch normalisation, which export folds,
            activations, gates and additions are not counted).
        params: trainable parameters, batch normalisation's scale and shift included.
    """

    macs: int
    params: int


class _Counter:
    def __init__(self) -> None:
        self.macs = self.params = 0

    def conv(self, inputs: int, outputs: int, kernel: int, side: int, groups: int = 1, norm: bool = True) -> None:
        weights = outputs * (inputs // groups) * kernel * kernel
        self.macs += weights * side * side
        self.params += weights + 2 * outputs * norm

    def squeeze_excite(self, channels: int) -> None:
        hidden = max(MIN_SQUEEZE, channels // SQUEEZE_RATIO)
        self.macs += 2 * channels * hidden
        self.params += 2 * channels * hidden + channels + hidden

    def residual(self, inputs: int, stage: Stage, stride: int, before: int, after: int) -> None:
        hidden = stage.hidden(inputs, "residual")
        self.conv(inputs, hidden, stage.kernel, after)
        self.conv(hidden, stage.width, stage.kernel, after)
        if stage.squeeze_excite:
            self.squeeze_excite(stage.width)
        if stride != 1 or inputs != stage.width:
            self.conv(inputs, stage.width, 1, after)

    def bottleneck(self, inputs: int, stage: Stage, stride: int, before: int, after: int) -> None:
        hidden = stage.hidden(inputs, "bottleneck")
        groups = 1 if stage.group_width is None else hidden // stage.group_width
        self.conv(inputs, hidden, 1, before)
        self.conv(hidden, hidden, stage.kernel, after, groups=groups)
        self.conv(hidden, stage.width, 1, after)
        if stage.squeeze_excite:
            self.squeeze_excite(stage.width)
        if stride != 1 or inputs != stage.width:
            self.conv(inputs, stage.width, 1, after)

    def inverted_residual(self, inputs: int, stage: Stage, stride: int, before: int, after: int) -> None:
        hidden = stage.hidden(inputs, "inverted_residual")
        self.conv(inputs, hidden, 1, before)
        self.conv(hidden, hidden, stage.kernel, after, groups=hidden)
        if stage.squeeze_excite:
            self.squeeze_excite(hidden)
        self.conv(hidden, stage.width, 1, after)


def cost(arch: ArchSpec) -> Cost:
    """Count the multiply-accumulates and parameters of one image through ``arch``."""
    counter = _Counter()
    side = -(-arch.size // arch.stem_stride)
    counter.conv(arch.channels, arch.stem_width, 3, side)
    kinds = {
        "residual": counter.residual,
        "bottleneck": counter.bottleneck,
        "inverted_residual": counter.inverted_residual,
    }
    block = kinds[arch.block]
    width = arch.stem_width
    for stage in arch.stages:
        for index in range(stage.depth):
            stride = stage.stride if index == 0 else 1
            after = -(-side // stride)
            block(width, stage, stride, side, after)
            width, side = stage.width, after
    if arch.head == "depthwise":
        counter.conv(width, width, side, 1, groups=width)
    features = width * side**2 if arch.head == "flatten" else width
    counter.macs += features * arch.dim
    counter.params += features * arch.dim + 2 * arch.dim
    return Cost(macs=counter.macs, params=counter.params)
