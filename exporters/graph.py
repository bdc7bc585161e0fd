"""The exported graph: takes what a camera gives, returns what a search takes, with the network in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hetero.errors import ExportError
from hetero.preprocess import PreprocessSpec

NORM_EPSILON = 1e-12  # torch.nn.functional.normalize's: a zero vector stays zero instead of becoming NaN


class EmbeddingGraph(nn.Module):
    """``image`` uint8 ``[b, h, w, c]`` in, unit-length float32 ``[b, dim]`` out; colour normalisation inside.

    Computes ``v / max(‖v‖₂, 1e-12)`` with ``v = network((image − 255·mean) / (255·std))`` per channel, and
    channels moved first. ``network`` is the module given, not a copy.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, preprocess: PreprocessSpec) -> None:
        super().__init__()
        self.network = network
        shape = (1, preprocess.channels, 1, 1)
        offset = torch.tensor(preprocess.mean, dtype=torch.float64) * 255
        scale = 1 / (torch.tensor(preprocess.std, dtype=torch.float64) * 255)
        self.register_buffer("offset", offset.float().reshape(shape), persistent=False)
        self.register_buffer("scale", scale.float().reshape(shape), persistent=False)

    def forward(self, image: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b dim"]:
        """Embed preprocessed pixels."""
        x = (image.permute(0, 3, 1, 2).to(torch.float32) - self.offset) * self.scale
        vectors: Tensor = self.network(x)
        # F.normalize, spelled out: its expand_as would put a Shape and an Expand into the graph.
        return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(NORM_EPSILON)


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


def require_exportable(network: nn.Module, preprocess: PreprocessSpec, dim: int) -> None:
    """Run the network on two pictures and check what comes out, before the exporter fails deep inside.

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
            vectors = EmbeddingGraph(network, preprocess)(pixels)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                "the network does not run on pictures of the declared size",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                expected=f"to take float32 {[2, shape[3], shape[1], shape[2]]}",
                fix="export with the PreprocessSpec that the network was trained with",
            ) from error
    if vectors.shape != (2, dim) or vectors.dtype != torch.float32:
        raise ExportError(
            "the network's output is no embedding of this space",
            got=f"{vectors.dtype} {list(vectors.shape)}",
            expected=f"torch.float32 {[2, dim]}",
            fix="export with the space that the network was trained into",
        )
    if not bool(torch.isfinite(vectors).all()):
        raise ExportError("the network returns NaN or infinity", fix="train again; these weights are damaged")
