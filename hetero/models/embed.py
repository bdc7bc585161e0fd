"""From uint8 pixels to unit-length embeddings, in batches."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import normalize

from hetero.preprocess import PreprocessSpec


def colour_normalise(pixels: UInt8[Tensor, "b h w c"], spec: PreprocessSpec) -> Float[Tensor, "b c h w"]:
    """``(pixels / 255 − mean) / std`` per channel, as channels-last float32 on the pixels' device."""
    mean = torch.tensor(spec.mean, device=pixels.device) * 255
    scale = 1 / (torch.tensor(spec.std, device=pixels.device) * 255)
    # The permuted NHWC tensor *is* channels-last in memory: no copy, and the layout oneDNN and cuDNN are fastest with.
    return ((pixels.float() - mean) * scale).permute(0, 3, 1, 2)


@torch.inference_mode()
def embed(
    network: nn.Module,
    pixels: np.ndarray,
    spec: PreprocessSpec,
    *,
    device: str = "cpu",
    batch_size: int = 512,
) -> np.ndarray:
    """Embed preprocessed pictures.

    Args:
        network: a network that takes colour-normalised ``[b, c, h, w]``; put into evaluation mode and back.
        pixels: ``uint8 [n, h, w, c]`` as :func:`hetero.data.pixels.read_pixels` returns.

    Returns:
        ``float32 [n, dim]``, rows of unit length.
    """
    was_training = network.training
    network.eval()
    try:
        parts = [
            normalize(network(colour_normalise(torch.tensor(pixels[start : start + batch_size]).to(device), spec)))
            for start in range(0, len(pixels), batch_size)
        ]
    finally:
        network.train(was_training)
    return torch.cat(parts).cpu().numpy()
