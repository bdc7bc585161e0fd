"""Random changes of training pictures, on tensors, seeded by step: the same step is augmented alike in every run."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from hetero.training.config import AugmentConfig
from hetero.training.seeds import derived_seed

POSES = 8  # of a square picture: four turns, each mirrored or not
_BENDS = 4  # control points of the elastic change, per axis


def augment(
    image: Float[Tensor, "b c h w"], config: AugmentConfig, *, seed: int, step: int
) -> Float[Tensor, "b c h w"]:
    """Augment colour-normalised pictures; every picture draws its own change.

    Random numbers come from the CPU whatever the device, from a generator seeded by ``(seed, step)``: nothing else
    has to be saved to resume a run exactly. Outside the picture the border pixel is repeated.

    Source of the elastic change: Simard et al., Best practices for convolutional neural networks, ICDAR 2003; here
    a coarse grid of normal displacements, interpolated bicubically, which leaves 0.8 of their standard deviation.
    """
    generator = _generator("augment", seed, step)
    count = len(image)

    def uniform(half_width: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * half_width

    angle = uniform(config.rotate_deg * math.pi / 180)
    scale_x, scale_y = torch.exp(uniform(config.log_scale)), torch.exp(uniform(config.log_scale))
    shear = uniform(config.shear)
    shift_x, shift_y = uniform(2 * config.translate), uniform(2 * config.translate)  # the grid spans −1..1
    mirrored = torch.where(torch.rand(count, generator=generator) < config.flip, -1.0, 1.0)
    brightness, contrast = uniform(config.brightness), 1 + uniform(config.contrast)

    if config.moves_pixels:
        cos, sin = torch.cos(angle), torch.sin(angle)
        # rotation · shear · scale, with the mirror first
        rows = [
            torch.stack([cos * scale_x * mirrored, (cos * shear - sin) * scale_y, shift_x], 1),
            torch.stack([sin * scale_x * mirrored, (sin * shear + cos) * scale_y, shift_y], 1),
        ]
        matrix = torch.stack(rows, 1).to(image.device)
        grid = affine_grid(matrix, list(image.shape), align_corners=False)
        if config.elastic:
            bends = torch.randn(count, 2, _BENDS, _BENDS, generator=generator) * (2 * config.elastic)
            field = interpolate(bends, size=image.shape[2:], mode="bicubic", align_corners=True)
            grid = grid + field.permute(0, 2, 3, 1).to(image.device)
        image = grid_sample(image, grid, padding_mode="border", align_corners=False)
    if config.contrast:
        mean = image.mean((1, 2, 3), keepdim=True)
        image = mean + (image - mean) * contrast.to(image.device)[:, None, None, None]
    if config.brightness:
        image = image + brightness.to(image.device)[:, None, None, None]
    if config.noise:
        image = image + config.noise * torch.randn(image.shape, generator=generator).to(image.device)
    return image.contiguous(memory_format=torch.channels_last)


def turned_classes(
    image: Float[Tensor, "b c s s"],
    labels: Int[Tensor, " b"],
    *,
    share: float,
    num_classes: int,
    seed: int,
    step: int,
) -> tuple[Float[Tensor, "b c s s"], Int[Tensor, " b"]]:
    """Turn or mirror a random ``share`` of the pictures, each pose of a class being a class of its own.

    Pose ``p`` of class ``c`` has label ``p · num_classes + c``, pose 0 being the picture as it was: a model learns to
    tell eight times the classes apart. Of a class that looks the same in two poses it is asked the impossible; the
    margin softmax bears that. Where pictures are flipped before (``augment.flip``) that is every class: a pose and its
    mirror image then hold the same pictures.

    Source: Vinyals et al., Matching networks, NeurIPS 2016 (turns as new classes).
    """
    generator = _generator("turned classes", seed, step)
    chosen = torch.rand(len(image), generator=generator) < share
    pose = torch.where(chosen, torch.randint(1, POSES, (len(image),), generator=generator), 0)
    return _posed(image, pose), labels + num_classes * pose.to(labels.device)


def _generator(purpose: str, seed: int, step: int) -> torch.Generator:
    """One stream for each purpose, seed and step."""
    return torch.Generator().manual_seed(derived_seed(purpose, seed, step))


def _posed(image: Tensor, pose: Tensor) -> Tensor:
    """Each picture turned by ``pose mod 4`` quarter turns and, from pose 4 on, mirrored."""
    posed = image.clone()
    for kind in range(1, POSES):
        chosen = pose == kind
        turned = torch.rot90(image[chosen], kind % 4, (2, 3))
        posed[chosen] = turned.flip(3) if kind >= POSES // 2 else turned
    return posed


def stranger_views(
    image: Float[Tensor, "b c s s"], labels: Int[Tensor, " b"], *, seed: int, step: int
) -> Float[Tensor, "b c s s"]:
    """Pictures of no training class: each class turned or mirrored, and half of them cut together.

    All pictures of a class are turned by 90°, 180° or 270°, mirrored, or both, never left as they were, and all alike:
    classes of strangers, as losses that look at the classes in a batch need them. (In joint phases pictures may have
    been turned before, by :func:`turned_classes`, and a stranger may then stand upright again.) Then, with probability
    ½, what lies beyond a random straight line across them is replaced by the same part of another such class (rarely of
    itself). These have no training class, so only the terms that align to the gallery model can use them: the student
    learns to agree with it on things that neither was trained to classify, which is what retrieval of unseen classes
    asks of it.

    Source: matching the teacher's function far beyond the training pictures is from Beyer et al., Knowledge
    distillation: a good teacher is patient and consistent, CVPR 2022; the turns as new classes from Vinyals et al.,
    Matching networks, NeurIPS 2016; the cuts after Yun et al., CutMix, ICCV 2019.
    """
    generator = _generator("stranger views", seed, step)
    side = image.shape[3]
    _, row, count = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
    classes = len(count)
    views = _posed(image, torch.randint(1, POSES, (classes,), generator=generator)[row])
    cut = torch.rand(classes, generator=generator) < 0.5
    upright = torch.rand(classes, generator=generator) < 0.5
    line = side * (0.25 + 0.5 * torch.rand(classes, generator=generator))
    beyond = torch.arange(side)[None, :] >= line[:, None]
    mask = torch.where(upright[:, None, None], beyond[:, None, :], beyond[:, :, None]) & cut[:, None, None]
    partner = _partners(row, count, torch.randperm(classes, generator=generator))
    return torch.where(mask[row][:, None].to(views.device), views[partner.to(views.device)], views)


def _partners(row: Tensor, count: Tensor, other: Tensor) -> Tensor:
    """For each picture of class ``row`` a picture of class ``other[row]``, its pictures taken in turn."""
    order = torch.argsort(row, stable=True)
    start = torch.cumsum(count, 0) - count
    rank = torch.empty_like(row)
    rank[order] = torch.arange(len(row)) - start[row[order]]
    partner = other[row]
    return order[start[partner] + rank % count[partner]]
