"""The parity ladder: an exported file against the torch model, rung by rung, in every installed runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from exporters.manifest import Parity, Rung, RuntimeResult
from exporters.parity import compare
from exporters.recipes import RUNTIMES, Recipe
from exporters.signature import Signature, require_signature
from hetero.errors import BundleError, ExportError, RuntimeFailedError

_ARITHMETIC_COSINE = 0.99  # below this the two do not compute the same function; above, some operator is imprecise


@runtime_checkable
class Runner(Protocol):
    """What runs a file: an :class:`exporters.workers.RuntimeWorker`."""

    version: str

    def open(self, data: bytes) -> dict[str, Any]:
        """Open a model; its ``input`` and ``output`` as the runtime has them."""

    def run(self, pixels: np.ndarray, *, batch_size: int) -> np.ndarray:
        """Embed ``uint8 [n, h, w, c]``: ``float32 [n, dim]``."""


@dataclass(frozen=True)
class Measured:
    """What the runtimes made of a file; ``vectors`` are those of the first right one, ``float32 [n, dim]``."""

    ladder: tuple[Rung, ...]
    runtimes: tuple[RuntimeResult, ...]
    vectors: np.ndarray


def measure(
    data: bytes,
    recipe: Recipe,
    expected: Signature,
    pixels: np.ndarray,
    reference: np.ndarray,
    num_golden: int,
    workers: Mapping[str, Runner],
) -> Measured:
    """Run a file in each of the workers of its format and compare with the torch model.

    A runtime is right if it keeps the recipe's limits on all pictures and on the golden ones alone, and lies on those
    within the recipe's ``golden_max_abs`` of the first right one: what :func:`exporters.verify` will ask of it.

    Args:
        expected: how the file must take pictures and give embeddings.
        pixels: ``uint8 [n, h, w, c]``, the first ``num_golden`` of them the golden ones.
        reference: the torch model's embeddings of them, ``float32 [n, dim]``.
        workers: by runtime, from :func:`exporters.workers.start`.

    Raises:
        ExportError: no runtime computes what the torch model does; has each one's numbers and the likely cause.
    """
    results: list[RuntimeResult] = []
    first: tuple[np.ndarray, Parity] | None = None
    for runtime in RUNTIMES[recipe.format]:
        if runtime not in workers:
            continue
        worker = workers[runtime]
        vectors, parity, reason = None, None, None
        try:
            require_signature(worker.open(data), expected, where="the exported model")
            # Two batches of different sizes exercise a free batch.
            vectors = worker.run(pixels, batch_size=len(pixels) // 2 + 1)
            parity = compare(reference, vectors)
            reason = _broken(parity, compare(reference[:num_golden], vectors[:num_golden]), recipe.limits)
            if reason is None and first is not None:
                apart = compare(first[0][:num_golden], vectors[:num_golden]).max_abs
                if apart > recipe.golden_max_abs:
                    other = next(result.name for result in results if result.right)
                    reason = f"{apart:.3g} from {other} on the golden pictures"
        except (RuntimeFailedError, ExportError, BundleError) as error:
            reason = str(error)
        right = reason is None
        results.append(
            RuntimeResult.model_validate(
                {"name": runtime, "version": worker.version, "right": right, "parity": parity, "reason": reason}
            )
        )
        if right and first is None and vectors is not None and parity is not None:
            first = vectors, parity
    if first is None:
        raise ExportError(
            f"the exported {recipe.format} {recipe.precision} model does not reproduce the torch model",
            got="; ".join(f"{result.name} {result.version}: {result.reason}" for result in results),
            expected=_limits(recipe.limits),
            fix=_cause(results),
        )
    vectors, parity = first
    ladder = (
        _rung("tensor", {"max_abs": parity.max_abs}, recipe.limits),
        _rung("cosine", {"min_cosine": parity.min_cosine, "mean_cosine": parity.mean_cosine}, recipe.limits),
        Rung(rung="retrieval", status="not measured", measured={}, limits={}),
        Rung(rung="flips", status="not measured", measured={}, limits={}),
        Rung(rung="thresholds", status="not measured", measured={}, limits={}),
    )
    return Measured(ladder, tuple(results), vectors)


def _broken(everywhere: Parity, golden: Parity, limits: Mapping[str, float]) -> str | None:
    """What a runtime broke, with its numbers; None if nothing."""
    for parity, where in ((everywhere, ""), (golden, " on the golden pictures")):
        over = exceeded(parity, limits)
        if over:
            return ", ".join(f"{name} {getattr(parity, name):.6g}" for name in over) + where
    return None


def exceeded(parity: Parity, limits: Mapping[str, float]) -> list[str]:
    """The names of the limits that a measurement breaks: a ``max_…`` from above, any other from below."""
    over = []
    for name, limit in limits.items():
        value = getattr(parity, name)
        if value > limit if name.startswith("max") else value < limit:
            over.append(name)
    return over


def _rung(name: str, measured: dict[str, float], limits: Mapping[str, float]) -> Rung:
    held = {key: limit for key, limit in limits.items() if key in measured}
    return Rung.model_validate({"rung": name, "status": "passed", "measured": measured, "limits": held})


def _limits(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {'≤' if name.startswith('max') else '≥'} {limit:g}" for name, limit in limits.items())


def _cause(results: list[RuntimeResult]) -> str:
    best = max((result.parity.min_cosine for result in results if result.parity is not None), default=None)
    if best is None:
        return "look at what each runtime says of the file"
    if best < _ARITHMETIC_COSINE:
        return (
            "the two compute different functions: check mean and std, the order of channels, and dropout or batch "
            "statistics left in training mode"
        )
    return "an operator computes less precisely in the exported model: compare the two layer by layer"
