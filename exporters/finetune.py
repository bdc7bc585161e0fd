"""Quantisation-aware fine-tuning: the student learns, under the compatibility loss, to live with rounded numbers.

The loss is the alignment term of the student's own training: each picture's embedding, computed with all numbers
rounded, should be the gallery model's. Source: Jacob et al., Quantization and training of neural networks for efficient
integer-arithmetic-only inference, CVPR 2018, section 3 (simulated quantisation, straight-through gradients).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch

from exporters.graph import Graph, Step
from exporters.quantize import QuantizedNetwork, Scheme, as_image, observe
from hetero.errors import ConfigError
from hetero.losses.alignment import alignment_loss
from hetero.training.schedule import learning_rate


@dataclass(frozen=True)
class FineTuning:
    """Training pictures ``uint8 [n, h, w, c]``, the gallery model's embeddings of them ``float32 [n, dim]``, and how.

    ``rate`` is AdamW's peak learning rate: small, the student is a trained one.
    """

    pixels: np.ndarray
    targets: np.ndarray
    epochs: int = 3
    batch_size: int = 96
    rate: float = 3e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.targets) or len(self.pixels) < self.batch_size:
            raise ConfigError(
                "fine-tuning needs one gallery embedding for each picture, and at least a batch of them",
                got=f"{len(self.pixels)} pictures, {len(self.targets)} embeddings",
                expected=f"as many of both, at least {self.batch_size}",
            )


def finetuned(
    graph: Graph,
    scheme: Scheme,
    calibration: np.ndarray,
    tuning: FineTuning,
    *,
    keep_float: Collection[str] = (),
    say: Callable[[str], object] = lambda line: None,
) -> Graph:
    """The same graph with weights that survive rounding better.

    Ranges of the results are those of ``calibration`` (``uint8 [n, h, w, c]``) under the weights at the start of each
    epoch. Biases and weights of every operation are trained.

    Args:
        keep_float: operations that the file will keep in float.
        say: called with a line for each epoch.
    """
    order = np.random.default_rng(tuning.seed)
    steps = len(tuning.pixels) // tuning.batch_size * tuning.epochs
    targets = torch.from_numpy(tuning.targets)
    step = 0
    for epoch in range(tuning.epochs):
        network = QuantizedNetwork(graph, observe(graph, calibration), scheme, keep_float=keep_float)
        optimizer = torch.optim.AdamW(network.parameters(), tuning.rate, weight_decay=0.0)
        total = 0.0
        shuffled = order.permutation(len(tuning.pixels))
        batches = np.split(shuffled[: len(shuffled) // tuning.batch_size * tuning.batch_size], steps // tuning.epochs)
        for batch in batches:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, peak=tuning.rate, warmup_steps=steps // 20, total_steps=steps)
            loss = alignment_loss(network(as_image(tuning.pixels[batch])), targets[torch.from_numpy(batch)])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
            step += 1
        graph = _with_weights(graph, network)
        say(f"fine-tuning, epoch {epoch + 1} of {tuning.epochs}: alignment loss {total / len(batches):.4f}")
    return graph


def _with_weights(graph: Graph, network: QuantizedNetwork) -> Graph:
    operations = []
    for operation in graph.operations:
        step = network.steps[operation.name]
        assert isinstance(step, Step)  # noqa: S101  (what GraphNetwork makes)
        weights = {name: weight.detach().clone() for name, weight in step.weights.items()}
        operations.append(replace(operation, weights=weights))
    return Graph(graph.shape, tuple(operations))
