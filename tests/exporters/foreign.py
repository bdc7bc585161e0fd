"""Three embedding networks that are not of hetero's family, as others would write them, trained on real pictures.

They retrieve classes they never saw better than raw pixels do, so that a file which computes nonsense shows in
retrieval and not only in the last digits. No gallery model is trained besides them: the gallery is embedded by the
same network in torch, the query by the exported file, which is what a file that reproduces torch must allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hetero.data.dataset import Dataset
from hetero.data.npz import NpzConfig
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.data.sampler import shuffled_batches
from hetero.losses.softmax import margin_softmax_loss
from hetero.models.embed import colour_normalise, embed
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.metrics import score
from hetero.retrieval.protocol import Protocol, leave_one_out
from hetero.space import EmbeddingSpace, define_space, weights_digest
from hetero.training.augment import augment
from hetero.training.config import AugmentConfig
from hetero.training.schedule import learning_rate

CALIBRATION = 512  # pictures of train classes, for those who quantise
THREADS = 1  # where others compute too, two were seen to spend up to ten times the CPU time waiting for each other


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (at stride 1), then batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        down, up = nn.Conv2d(width, max(8, width // 4), 1), nn.Conv2d(max(8, width // 4), width, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), down, nn.ReLU(inplace=True), up, nn.Hardsigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x) * x


class InvertedResidual(nn.Module):
    """Howard et al., Searching for MobileNetV3, ICCV 2019, figure 4."""

    def __init__(
        self, inputs: int, expanded: int, outputs: int, kernel: int, stride: int, *, excite: bool, swish: bool
    ) -> None:
        super().__init__()
        self.shortcut = stride == 1 and inputs == outputs
        activation: Callable[..., nn.Module] = nn.Hardswish if swish else nn.ReLU
        self.body = nn.Sequential(
            *conv_bn(inputs, expanded, 1),
            activation(inplace=True),
            *conv_bn(expanded, expanded, kernel, stride, groups=expanded),
            *([SqueezeExcite(expanded)] if excite else []),
            activation(inplace=True),
            *conv_bn(expanded, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilenet_v3_like(channels: int, dim: int) -> nn.Module:
    return nn.Sequential(
        *conv_bn(channels, 16, 3, stride=2),
        nn.Hardswish(inplace=True),
        InvertedResidual(16, 32, 16, 3, 1, excite=True, swish=False),
        InvertedResidual(16, 64, 24, 3, 2, excite=False, swish=False),
        InvertedResidual(24, 88, 24, 3, 1, excite=False, swish=False),
        InvertedResidual(24, 96, 40, 5, 2, excite=True, swish=True),
        InvertedResidual(40, 160, 40, 5, 1, excite=True, swish=True),
        *conv_bn(40, 160, 1),
        nn.Hardswish(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(160, 256),
        nn.Hardswish(inplace=True),
        nn.Dropout(0.1),
        nn.Linear(256, dim),
    )


def vgg_like(channels: int, dim: int) -> nn.Module:
    """Stacks of convolutions between max pools, then what is left is flattened: 28 → 14 → 7 → 3 pixels a side."""
    layers: list[nn.Module] = []
    for width, depth in ((24, 1), (48, 2), (96, 2)):
        for inputs in (channels, *[width] * (depth - 1)):
            layers += [*conv_bn(inputs, width), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2))
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(96 * 3 * 3, dim))


class Bottleneck(nn.Module):
    """He et al., Deep residual learning, CVPR 2016, figure 5, with the stride on the 3×3 as everybody trains it."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv_bn(inputs, width, 1)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride)
        self.conv3, self.bn3 = conv_bn(width, outputs, 1)
        self.relu = nn.ReLU(inplace=True)
        reshapes = stride != 1 or inputs != outputs
        self.downsample = nn.Sequential(*conv_bn(inputs, outputs, 1, stride)) if reshapes else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


def resnet_50_like(channels: int, dim: int) -> nn.Module:
    layers = [*conv_bn(channels, 24, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 24
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        layers += [Bottleneck(inputs, width, stride), Bottleneck(4 * width, width, 1)]
        inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, dim))


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; ``bar`` is the R@1 that counts as trained."""

    build: Callable[[int, int], nn.Module]
    file: str
    preprocess: PreprocessSpec
    augment: AugmentConfig
    floor: float
    bar: float
    epochs: int
    dim: int = 64
    batch_size: int = 64
    peak: float = 3e-3  # learning rate
    scale: float = 16.0  # of the cosines
    seed: int = 0


GREY = PreprocessSpec(height=28, width=28, channels=1, mean=(0.081,), std=(0.236,))
SMALL = PreprocessSpec(height=48, width=48, channels=3, mean=(0.527, 0.406, 0.265), std=(0.241, 0.217, 0.207))
LARGE = PreprocessSpec(height=64, width=64, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
STROKES = AugmentConfig(rotate_deg=10, log_scale=0.1, shear=0.1, translate=0.06)
PHOTOS = AugmentConfig(rotate_deg=10, log_scale=0.2, translate=0.1, flip=0.5, brightness=0.2, contrast=0.2)
# Floors: R@1 of raw pixels → PCA-64 of the train classes → cosine, leave-one-out over the test classes.
OMNIGLOT, GROCERY = (0.348, 0.348 + 0.1), (0.616, 0.616 + 0.05)
RECIPES = {
    "mobilenet_v3_like": Recipe(mobilenet_v3_like, "grocery64.npz", SMALL, PHOTOS, *GROCERY, epochs=12),
    "vgg_like": Recipe(vgg_like, "omniglot28.npz", GREY, STROKES, *OMNIGLOT, epochs=3),
    "resnet_50_like": Recipe(resnet_50_like, "grocery64.npz", LARGE, PHOTOS, *GROCERY, epochs=12),
}
FOREIGN = tuple(RECIPES)


@dataclass(frozen=True)
class Foreign:
    """A trained network with what is needed to export, calibrate and score it.

    Attributes:
        network: in evaluation mode; colour-normalised float32 ``[b, c, h, w]`` to ``[b, dim]``, of any length.
        train_pixels: ``uint8 [512, h, w, c]``, of train classes.
        test_pixels: ``uint8 [n, h, w, c]``, the whole test split, rows as the protocol numbers them.
        r_at_1, map_at_r: of the network on both sides. floor: R@1 of raw pixels. cpu_s: of training.
    """

    name: str
    network: nn.Module
    preprocess: PreprocessSpec
    space: EmbeddingSpace
    dataset: Dataset
    train_pixels: np.ndarray
    test_pixels: np.ndarray
    protocol: Protocol
    r_at_1: float
    map_at_r: float
    floor: float
    cpu_s: float


def train_foreign(name: str, data_folder: Path) -> Foreign:
    """Train one of :data:`FOREIGN` on the train classes of its data set and score it on the test classes."""
    recipe = RECIPES[name]
    spec = recipe.preprocess
    dataset = open_dataset(NpzConfig(path=data_folder / recipe.file))
    train, test = dataset.split("train"), dataset.split("test")
    pixels, test_pixels = read_pixels(dataset, train, spec), read_pixels(dataset, test, spec)
    with _repeatable(recipe.seed):
        started_s = time.process_time()
        network = recipe.build(spec.channels, recipe.dim)
        _train(network, recipe, pixels, np.unique(dataset.labels[train], return_inverse=True)[1])
        cpu_s = time.process_time() - started_s
        vectors = embed(network, test_pixels, spec)
    protocol = leave_one_out(dataset.labels[test])
    found = score(vectors, vectors, protocol).mean
    digest = weights_digest({key: tensor.numpy() for key, tensor in network.state_dict().items()})
    space = define_space(weights_sha256=digest, preprocess_fingerprint=spec.fingerprint(), dim=recipe.dim)
    sample = pixels[np.random.default_rng(recipe.seed).choice(len(pixels), CALIBRATION, replace=False)]
    numbers = {"r_at_1": found["r_at_1"], "map_at_r": found["map_at_r"], "floor": recipe.floor, "cpu_s": cpu_s}
    return Foreign(name, network, spec, space, dataset, sample, test_pixels, protocol, **numbers)


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """The same random numbers on the same number of threads each time; afterwards both as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _train(network: nn.Module, recipe: Recipe, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Fit network and class prototypes to ``uint8 [n, h, w, c]`` and ``int64 [n]`` with the cosine classifier."""
    prototypes = nn.Parameter(torch.randn(int(labels.max()) + 1, recipe.dim))
    network.to(memory_format=torch.channels_last).train()  # a third faster with bottlenecks and depthwise filters
    optimizer = torch.optim.AdamW([*network.parameters(), prototypes], weight_decay=1e-4)
    size, seed = recipe.batch_size, recipe.seed
    steps = np.concatenate([shuffled_batches(len(pixels), size, seed=seed, epoch=i) for i in range(recipe.epochs)])
    for step, batch in enumerate(steps):
        image = colour_normalise(torch.from_numpy(pixels[batch]), recipe.preprocess)
        image = augment(image, recipe.augment, seed=seed, step=step)
        loss = margin_softmax_loss(network(image), prototypes, torch.from_numpy(labels[batch]), scale=recipe.scale)
        optimizer.param_groups[0]["lr"] = learning_rate(step, peak=recipe.peak, warmup_steps=40, total_steps=len(steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.to(memory_format=torch.contiguous_format).eval()
