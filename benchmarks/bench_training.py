"""The student training step against a plain PyTorch loop over the same two networks, and the loader on its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from hetero.data.dataset import Dataset
from hetero.data.loader import Loader
from hetero.data.sampler import shuffled_batches
from hetero.losses.config import AlignmentConfig, InfluenceConfig, LossConfig
from hetero.losses.reference import GalleryReference
from hetero.models.arch import ArchSpec, Stage
from hetero.models.embed import colour_normalise
from hetero.models.network import build_network, channels_last
from hetero.preprocess import PreprocessSpec
from hetero.training.config import TrainConfig
from hetero.training.step import train_step
from hetero.training.trainee import Trainee

CLASSES, IMAGES, BATCH, STEPS, ROUNDS = 200, 4000, 96, 8, 5
LARGE = ArchSpec(
    size=28, channels=1, stem_width=32,
    stages=(Stage(width=64, depth=2), Stage(width=128, depth=2), Stage(width=256, depth=2)),
)  # fmt: skip
SMALL = ArchSpec(
    size=28, channels=1, stem_width=8,
    stages=(Stage(width=16, depth=2), Stage(width=24, depth=2), Stage(width=48, depth=2)),
)  # fmt: skip
SPEC = PreprocessSpec(height=28, width=28, channels=1, mean=(0.15,), std=(0.3,))


def run() -> list[dict[str, object]]:
    """Ratios of images/s: our step with loader and colour normalisation, and the loader alone over our step."""
    loader = _loader()
    ours, plain = _our_step(loader), _plain_loop()
    ours(), plain()
    speeds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(ROUNDS):
        for name, step in (("ours", ours), ("plain", plain)):
            speeds[name].append(_images_per_s(step))
    alone = _loader_alone(loader)
    own = statistics.median(speeds["ours"])
    print(f"training step {own:.0f} images/s, plain loop {statistics.median(speeds['plain']):.0f}, loader {alone:.0f}")
    ratio = statistics.median(o / p for o, p in zip(speeds["ours"], speeds["plain"], strict=True))
    return [
        {
            "name": "student training step, images/s",
            "ratio": ratio,
            "against": "plain PyTorch loop over the same networks, tensors in memory",
            "goal": 0.95,
            "better": "higher",
        },
        {
            "name": "loader alone, images/s",
            "ratio": alone / own,
            "against": "our training step",
            "goal": 3.0,
            "better": "higher",
        },
    ]


def _images_per_s(steps: Callable[[], None]) -> float:
    start = time.perf_counter()
    steps()
    return STEPS * BATCH / (time.perf_counter() - start)


def _loader() -> Loader:
    rng = np.random.default_rng(0)
    dataset = Dataset(
        "noise",
        rng.integers(0, 256, (IMAGES, 28, 28), dtype=np.uint8),
        np.arange(IMAGES) % CLASSES,
        tuple(map(str, range(CLASSES))),
        {"train": np.arange(IMAGES)},
    )
    return Loader(
        dataset, dataset.split("train"), SPEC, lambda epoch: shuffled_batches(IMAGES, BATCH, seed=0, epoch=epoch)
    )


def _our_step(loader: Loader) -> Callable[[], None]:
    gallery = channels_last(build_network(LARGE, seed=0)).eval()
    prototypes = normalize(torch.randn(CLASSES, 128, generator=torch.Generator().manual_seed(0)))
    trainee = Trainee(
        "small",
        SMALL,
        LossConfig(influence=InfluenceConfig(), alignment=AlignmentConfig()),
        TrainConfig(epochs=1),
        steps=STEPS,
        num_classes=CLASSES,
        reference=GalleryReference(centres=prototypes),
        seed=0,
        device=torch.device("cpu"),
    )

    def steps() -> None:
        for batch in loader.batches(0, STEPS):
            image = colour_normalise(torch.from_numpy(batch.pixels), SPEC)
            train_step([trainee], gallery, image, torch.from_numpy(batch.labels), step=batch.step)

    return steps


def _plain_loop() -> Callable[[], None]:
    gallery, student = channels_last(build_network(LARGE, seed=0)).eval(), channels_last(build_network(SMALL, seed=0))
    prototypes = normalize(torch.randn(CLASSES, 128, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randn(STEPS, BATCH, 1, 28, 28)
    labels = torch.randint(0, CLASSES, (STEPS, BATCH))

    def steps() -> None:
        for image, label in zip(images, labels, strict=True):
            image = image.contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                target = gallery(image)
            embedding = student(image)
            logits = normalize(embedding) @ prototypes.T
            logits[torch.arange(BATCH), label] -= 0.2
            loss = cross_entropy(16 * logits, label) + 10 * (1 - cosine_similarity(embedding, target)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return steps


def _loader_alone(loader: Loader) -> float:
    count = 40 * loader.steps_per_epoch
    start = time.perf_counter()
    for _ in loader.batches(0, count):
        pass
    return count * BATCH / (time.perf_counter() - start)
