"""Random changes of training pictures, on tensors, seeded by step: the same step is augmented alike in every run."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from hetero.config import AugmentConfig


def augment(
    image: Float[Tensor, "b c h w"], config: AugmentConfig, *, seed: int, step: int
) -> Float[Tensor, "b c h w"]:
    """Augment colour-normalised pictures; every picture draws its own change.

    Random numbers come from the CPU whatever the device, from a generator seeded by ``(seed, step)``: nothing else
    has to be saved to resume a run exactly. Outside the picture the border pixel is repeated.
    """
    generator = torch.Generator().manual_seed(((seed & 0xFFFFFFFF) << 31) ^ step)
    count = len(image)

    def uniform(half_width: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * half_width

    angle = uniform(config.rotate_deg * math.pi / 180)
    scale_x, scale_y = torch.exp(uniform(config.log_scale)), torch.exp(uniform(config.log_scale))
    shear = uniform(config.shear)
    shift_x, shift_y = uniform(2 * config.translate), uniform(2 * config.translate)  # the grid spans −1..1
    mirrored = torch.where(torch.rand(count, generator=generator) < config.flip, -1.0, 1.0)
    brightness, contrast = uniform(config.brightness), 1 + uniform(config.contrast)

    if config.rotate_deg or config.log_scale or config.shear or config.translate or config.flip:
        cos, sin = torch.cos(angle), torch.sin(angle)
        # rotation · shear · scale, with the mirror first
        rows = [
            torch.stack([cos * scale_x * mirrored, (cos * shear - sin) * scale_y, shift_x], 1),
            torch.stack([sin * scale_x * mirrored, (sin * shear + cos) * scale_y, shift_y], 1),
        ]
        matrix = torch.stack(rows, 1).to(image.device)
        grid = affine_grid(matrix, list(image.shape), align_corners=False)
        image = grid_sample(image, grid, padding_mode="border", align_corners=False)
    if config.contrast:
        mean = image.mean((1, 2, 3), keepdim=True)
        image = mean + (image - mean) * contrast.to(image.device)[:, None, None, None]
    if config.brightness:
        image = image + brightness.to(image.device)[:, None, None, None]
    if config.noise:
        image = image + config.noise * torch.randn(image.shape, generator=generator).to(image.device)
    return image.contiguous(memory_format=torch.channels_last)


def stranger_views(image: Float[Tensor, "b c s s"], *, seed: int, step: int) -> Float[Tensor, "b c s s"]:
    """Pictures of nothing that was ever trained on: each turned or mirrored, and half of them cut together in pairs.

    Every picture is turned by 90°, 180° or 270°, mirrored, or both, never left as it was. Then, with probability ½,
    what lies beyond a random straight line across it is replaced by the same part of another such picture. These have
    no training class, so only the alignment term can use them: the student learns to agree with the gallery model on
    things that neither was trained to classify, which is what retrieval of unseen classes asks of it.

    Source: matching the teacher's function far beyond the training pictures is from Beyer et al., Knowledge
    distillation: a good teacher is patient and consistent, CVPR 2022; the turns as new classes from Vinyals et al.,
    Matching networks, NeurIPS 2016; the cuts after Yun et al., CutMix, ICCV 2019.
    """
    generator = torch.Generator().manual_seed(((seed & 0xFFFFFFFF) << 31) ^ step)
    count, side = len(image), image.shape[3]
    which = torch.randint(1, 8, (count,), generator=generator)
    views = torch.empty_like(image)
    for kind in range(1, 8):
        rows = which == kind
        turned = torch.rot90(image[rows], kind % 4, (2, 3))
        views[rows] = turned.flip(3) if kind >= 4 else turned
    cut = torch.rand(count, generator=generator) < 0.5
    upright = torch.rand(count, generator=generator) < 0.5
    line = side * (0.25 + 0.5 * torch.rand(count, generator=generator))
    beyond = torch.arange(side)[None, :] >= line[:, None]
    mask = torch.where(upright[:, None, None], beyond[:, None, :], beyond[:, :, None]) & cut[:, None, None]
    partner = views[torch.randperm(count, generator=generator).to(views.device)]
    return torch.where(mask[:, None].to(views.device), partner, views)
