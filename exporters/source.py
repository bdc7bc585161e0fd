"""The torch network to be exported: read from a checkpoint or given, and checked before anything is made from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetero.errors import ConfigError, ExportError
from hetero.models.embed import colour_normalise
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.verification import Threshold
from hetero.space import EmbeddingSpace, define_space, weights_digest


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode; afterwards each submodule is again in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def require_exportable(network: nn.Module, preprocess: PreprocessSpec, dim: int | None) -> int:
    """Run the network on two pictures and check what comes out, before the exporter fails deep inside.

    Args:
        dim: of its space; None: any.

    Returns:
        The embedding's dimension.

    Raises:
        ExportError: weights not float32 on the CPU, or an output that is not finite float32 ``[2, dim]``.
    """
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise ExportError(
                f"the network's {name!r} cannot be exported",
                got=f"{tensor.dtype} on {tensor.device}",
                expected="float32 on the CPU",
                fix="call network.float().cpu() first",
            )
    shape = (2, preprocess.height, preprocess.width, preprocess.channels)
    pixels = torch.arange(torch.Size(shape).numel()).remainder(251).to(torch.uint8).reshape(shape)
    with evaluation_mode(network), torch.no_grad():
        try:
            vectors = network(colour_normalise(pixels, preprocess))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                "the network does not run on pictures of the declared size",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                expected=f"to take float32 {[2, shape[3], shape[1], shape[2]]}",
                fix="export with the PreprocessSpec that the network was trained with",
            ) from error
    is_tensor = isinstance(vectors, torch.Tensor)
    right = is_tensor and vectors.dim() == 2 and len(vectors) == 2 and dim in (None, vectors.shape[1])
    if not right or vectors.dtype != torch.float32:
        raise ExportError(
            "the network's output is no embedding of this space" if dim else "the network's output is no embedding",
            got=f"{vectors.dtype} {list(vectors.shape)}" if is_tensor else type(vectors).__name__,
            expected=f"torch.float32 {[2, dim or 'dim']}",
            fix="export with the space that the network was trained into" if dim else "return one vector a picture",
        )
    if not bool(torch.isfinite(vectors).all()):
        raise ExportError("the network returns NaN or infinity", fix="train again; these weights are damaged")
    return int(vectors.shape[1])


@dataclass(frozen=True)
class Source:
    """A network in evaluation form with what a bundle says about it; ``arch`` is None for a foreign network."""

    network: nn.Module
    preprocess: PreprocessSpec
    space: EmbeddingSpace
    arch: dict[str, Any] | None
    thresholds: tuple[Threshold, ...]

    @property
    def weights_sha256(self) -> str:
        """The digest of the network's weights, docs/space-spec.md."""
        return _digest(self.network)


def _digest(network: nn.Module) -> str:
    return weights_digest({name: tensor.detach().numpy() for name, tensor in network.state_dict().items()})


def read_source(
    model: str | Path | nn.Module, preprocess: PreprocessSpec | None, space: EmbeddingSpace | None
) -> Source:
    """A checkpoint directory, or a network with its preprocessing and space.

    A network without a space defines one of its own, with its weights.

    Raises:
        ConfigError: a network without preprocessing, or a checkpoint with one. CheckpointError: it cannot be read.
        ExportError: as :func:`require_exportable`.
    """
    if isinstance(model, nn.Module):
        if not isinstance(preprocess, PreprocessSpec):
            raise ConfigError(
                "a bare network does not say how its pictures are prepared",
                got=None if preprocess is None else f"preprocess= of type {type(preprocess).__name__}",
                expected="preprocess=, a hetero.preprocess.PreprocessSpec",
                fix="pass it, or export a checkpoint, which has one",
            )
        if space is None:
            dim, fingerprint = require_exportable(model, preprocess, None), preprocess.fingerprint()
            space = define_space(weights_sha256=_digest(model), preprocess_fingerprint=fingerprint, dim=dim)
        if not isinstance(space, EmbeddingSpace):
            raise ConfigError(
                "this is no embedding space",
                got=f"space= of type {type(space).__name__}",
                expected="a hetero.space.EmbeddingSpace",
                fix="pass the space of the gallery that the network searches, or leave it out to define one",
            )
        return Source(model, preprocess, space, None, ())
    if not isinstance(model, str | Path):
        raise ConfigError(
            "there is nothing here to export",
            got=type(model).__name__,
            expected="a checkpoint's path or a torch.nn.Module",
            fix="load a state_dict into its network and pass that",
        )
    if preprocess is not None or space is not None:
        raise ConfigError(
            "a checkpoint has its own preprocess and space",
            got=f"{'preprocess' if preprocess is not None else 'space'}= besides the checkpoint {model}",
            fix="leave both out",
        )
    from hetero.models.checkpoint import load_model

    loaded = load_model(model)
    arch = loaded.arch.model_dump(mode="json")
    thresholds = tuple(Threshold.from_json(record) for record in loaded.card.thresholds)
    return Source(loaded.network, loaded.preprocess, loaded.space, arch, thresholds)
