"""Training a gallery model of ResNet-50's size in bfloat16: images/s, and the share of this device's matrix products.

On a GPU where there is one, else on the CPU. The bound is measured in the same run: a large square bfloat16 product.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hetero.config import load_config
from hetero.models.cost import cost
from hetero.training.trainee import Trainee

CONFIG = Path(__file__).parents[1] / "examples" / "resnet50-grocery.yaml"
ROUNDS = 5
PASSES = 3  # a training step is a forward and twice as much backward


def run() -> list[dict[str, object]]:
    """Share of the measured peak that training reaches."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    name = torch.cuda.get_device_name() if cuda else f"{platform.processor() or platform.machine()} CPU"
    side, batch, steps = (8192, 256, 20) if cuda else (1024, 16, 1)
    os.environ.setdefault("HETERO_DATA", ".")  # the config names it; no data is read here
    config = load_config(CONFIG)
    arch, train = config.gallery.arch, config.gallery.train
    assert arch is not None
    assert train is not None
    trainee = Trainee("gallery", arch, config.gallery.loss, train, steps=10**6, num_classes=41, seed=0, device=device)
    image = torch.randn(batch, arch.channels, arch.size, arch.size, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 41

    def step() -> None:
        total, _ = trainee.loss(trainee.embed(image), labels)
        trainee.update(total, 1)

    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    _seconds(step, 2)
    _seconds(lambda: left @ right, 2)
    pairs = [(_seconds(step, steps), _seconds(lambda: left @ right, 10)) for _ in range(ROUNDS)]
    speed = batch / statistics.median(first for first, _ in pairs)
    peak = 2 * side**3 / statistics.median(second for _, second in pairs)
    reached = statistics.median(
        2 * PASSES * cost(arch).macs * batch / first / (2 * side**3 / second) for first, second in pairs
    )
    print(f"{name}: {speed:.0f} images/s of {arch.size} px, peak of matrix products {peak / 1e12:.2f} TFLOP/s")
    return [
        {
            "name": f"training a gallery model of {cost(arch).params / 1e6:.0f} M parameters in bfloat16, FLOP/s",
            "ratio": reached,
            "against": f"a {side}×{side} bfloat16 product on {name}",
            "goal": None,
            "better": "higher",
        }
    ]


def _seconds(work: Callable[[], object], repeats: int) -> float:
    _wait()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait()
    return (time.perf_counter() - start) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
