"""ArchSpec: one member of the architecture family from which gallery models and students both come.

Members of a family share what makes them *architecture-matched*: stem stride, number of stages, strides, block kind
and embedding dimension. Width, depth, kernel, expansion, groups, squeeze-excite, head and the input size vary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hetero.errors import ConfigError
from hetero.validation import validation_lines

MAX_WIDTH, MAX_DEPTH = 4096, 64  # beyond these a typo is likelier than a plan


class Stage(BaseModel):
    """A run of blocks at one resolution.

    Attributes:
        width: output channels.
        depth: number of blocks; the first one takes the stride.
        stride: 1 or 2.
        kernel: side of the square kernel, odd.
        expansion: hidden channels as a multiple of the block's input (inverted residual) or output (others) width.
        squeeze_excite: channel attention in every block.
        group_width: channels a group of a bottleneck's k×k convolution; 1 is depthwise, None one group of all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(ge=1, le=MAX_WIDTH)
    depth: int = Field(default=1, ge=1, le=MAX_DEPTH)
    stride: Literal[1, 2] = 2
    kernel: Literal[1, 3, 5, 7] = 3
    expansion: float = Field(default=1.0, gt=0, le=16)
    squeeze_excite: bool = False
    group_width: int | None = Field(default=None, ge=1, le=MAX_WIDTH)

    def hidden(self, inputs: int, block: str) -> int:
        """Hidden channels of a block of this stage with ``inputs`` input channels, a multiple of the group width."""
        base = inputs if block == "inverted_residual" else self.width
        step = self.group_width or 1
        return step * max(1, round(base * self.expansion / step))


class ArchSpec(BaseModel):
    """The whole network: image ``[channels, size, size]`` in, embedding ``[dim]`` out.

    Attributes:
        size: side of the square input, pixels. channels: 1 (grey) or 3 (RGB).
        dim: length of the embedding.
        block: ``residual`` (two dense k×k convolutions), ``bottleneck`` (1×1 to fewer channels, k×k, 1×1 back, the
            block of ResNet-50) or ``inverted_residual`` (expand, depthwise, project).
        stem_width, stem_stride: the first 3×3 convolution.
        stages: see :class:`Stage`.
        head: ``depthwise`` (one learned weight a position and channel, as in MobileFaceNets), ``average`` pooling, or
            ``flatten`` (every position and channel, as in ArcFace), then a linear layer and batch normalisation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=8, le=1024)
    channels: Literal[1, 3] = 3
    dim: int = Field(default=128, ge=2, le=4096)
    block: Literal["residual", "bottleneck", "inverted_residual"] = "residual"
    stem_width: int = Field(default=16, ge=1, le=MAX_WIDTH)
    stem_stride: Literal[1, 2] = 1
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=8)
    head: Literal["depthwise", "average", "flatten"] = "depthwise"

    @model_validator(mode="after")
    def _groups_fit(self) -> ArchSpec:
        if self.block != "bottleneck" and any(stage.group_width is not None for stage in self.stages):
            raise ValueError(f"group_width is for bottleneck blocks, not for {self.block}")
        return self

    @model_validator(mode="after")
    def _strides_fit(self) -> ArchSpec:
        stride: int = self.stem_stride
        for stage in self.stages:
            stride *= stage.stride
        if stride > self.size:
            raise ValueError(
                f"the strides multiply to {stride}, more than the input side of {self.size} pixels: "
                "remove a stride or enlarge the input"
            )
        return self

    def family(self) -> dict[str, object]:
        """What two architecture-matched models have in common."""
        return {
            "channels": self.channels,
            "dim": self.dim,
            "block": self.block,
            "stem_stride": self.stem_stride,
            "strides": [stage.stride for stage in self.stages],
        }

    def to_json(self) -> str:
        """JSON text that :func:`parse_arch` reads back to an equal spec."""
        return self.model_dump_json(indent=2)


def parse_arch(text: str | bytes) -> ArchSpec:
    """Read an ArchSpec from JSON.

    Raises:
        ConfigError: naming each field that is wrong and why.
    """
    try:
        return ArchSpec.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError("this is no valid architecture", got=validation_lines(error, ArchSpec)) from error


def load_arch(path: Path | str) -> ArchSpec:
    """Read an ArchSpec from a JSON file; errors as :func:`parse_arch`, and for a missing file."""
    try:
        return parse_arch(Path(path).read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"no architecture file at {path}", fix="check the path") from None


def require_fitting(student: ArchSpec, gallery: ArchSpec, *, name: str, matched: bool) -> None:
    """Refuse a student that cannot share the gallery model's space, or, ``matched``, is not of its family.

    A student may take smaller pictures than the gallery model, never larger ones: those have never been seen.

    Raises:
        ConfigError: naming every trait that differs.
    """
    own, other = student.family(), gallery.family()
    if not matched:
        own, other = ({key: traits[key] for key in ("channels", "dim")} for traits in (own, other))
    differing = [key for key in own if own[key] != other[key]]
    if differing:
        raise ConfigError(
            f"student {name!r} is not of the gallery model's family" if matched else f"student {name!r} does not fit",
            got=", ".join(f"{key} {own[key]}" for key in differing),
            expected=", ".join(f"{key} {other[key]}" for key in differing),
            fix="give both the same value"
            + (
                "; width, depth, kernel, expansion, groups, squeeze_excite, head and a smaller size may differ, and "
                "more with matched: false"
                if matched
                else ""
            ),
        )
    if student.size > gallery.size:
        raise ConfigError(
            f"student {name!r} takes larger pictures than the gallery model",
            got=f"{student.size} pixels",
            expected=f"at most {gallery.size}",
            fix="lower the student's size",
        )
