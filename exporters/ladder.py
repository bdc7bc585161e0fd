"""The parity ladder: an exported file against the torch model, rung by rung, in every installed runtime."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from exporters.manifest import BOUNDED_ABOVE, RUNG_OF, RUNGS, Parity, Rung, RuntimeResult, Similarities
from exporters.parity import compare
from exporters.recipes import RUNTIMES, Recipe
from exporters.retrieval import Judge
from exporters.signature import Signature, require_signature
from hetero.errors import BundleError, ExportError, RuntimeFailedError


@runtime_checkable
class Runner(Protocol):
    """What runs a file: an :class:`exporters.workers.RuntimeWorker`."""

    version: str

    def open(self, data: bytes) -> dict[str, Any]:
        """Open a model; its ``input`` and ``output`` as the runtime has them."""

    def run(self, pixels: np.ndarray, *, batch_size: int = 8) -> np.ndarray:
        """Embed ``uint8 [n, h, w, c]``: ``float32 [n, dim]``."""


@dataclass(frozen=True)
class Probes:
    """The pictures that a file is compared on, ``uint8 [n, h, w, c]``, and the torch model's embeddings of them.

    The first ``num_golden`` are the bundle's golden ones.
    """

    pixels: np.ndarray
    reference: np.ndarray
    num_golden: int


@dataclass(frozen=True)
class Measured:
    """What the runtimes made of a file.

    ``vectors`` are the probes' embeddings in the first right runtime, ``float32 [n, dim]``; where no runtime is right,
    in the nearest one, and None if none answered.
    """

    ladder: tuple[Rung, ...]
    runtimes: tuple[RuntimeResult, ...]
    vectors: np.ndarray | None
    similarities: Similarities | None = None

    @property
    def passed(self) -> bool:
        """Whether some runtime is right and no rung failed."""
        return any(result.right for result in self.runtimes) and all(rung.status != "failed" for rung in self.ladder)

    def require_passed(self, recipe: Recipe, cause: str) -> np.ndarray:
        """The vectors of a file that passed.

        Raises:
            ExportError: it did not; has what it fell from, each runtime's numbers and the likely cause.
        """
        if not self.passed or self.vectors is None:
            raise ExportError(
                f"the exported {recipe.format} {recipe.precision} model does not reproduce the torch model",
                got=self.reason(),
                expected=limits_words(
                    {name: limit for rung in self.ladder for name, limit in rung.limits.items()} or recipe.limits
                ),
                fix=f"{cause}; or leave the file out (leave_out=True, --leave-out)",
            )
        return self.vectors

    def reason(self) -> str:
        """What failed, in one line."""
        failed = [rung for rung in self.ladder if rung.status == "failed"]
        if any(result.right for result in self.runtimes):
            return "; ".join(
                f"{rung.rung}: "
                + ", ".join(f"{name} {rung.measured[name]:+.4g}" for name in exceeded(rung.measured, rung.limits))
                for rung in failed
            )
        return "; ".join(f"{result.name} {result.version}: {result.reason}" for result in self.runtimes)


def measure(
    data: bytes,
    recipe: Recipe,
    expected: Signature,
    probes: Probes,
    workers: Mapping[str, Runner],
    *,
    judge: Judge | None = None,
    allow: Collection[str] = (),
) -> Measured:
    """Run a file in each of the workers of its format and compare with the torch model.

    A runtime is right if it keeps the recipe's limits on all pictures and on the golden ones alone, and lies on those
    within the recipe's ``golden_max_abs`` of the first right one: what :func:`exporters.verify` will ask of it. The
    upper rungs are measured in the first right one.

    Args:
        expected: how the file must take pictures and give embeddings.
        workers: by runtime, from :func:`exporters.workers.start`.
        judge: for the upper three rungs; without it they are "not measured".
        allow: rungs that may break their limits.
    """
    limits = {name: limit for name, limit in recipe.limits.items() if RUNG_OF[name] not in allow}
    results: list[RuntimeResult] = []
    first: tuple[np.ndarray, Parity, str] | None = None
    nearest: tuple[np.ndarray, Parity] | None = None
    golden = slice(probes.num_golden)
    for runtime in RUNTIMES[recipe.format]:
        if runtime not in workers:
            continue
        worker = workers[runtime]
        vectors, parity, reason = None, None, None
        try:
            require_signature(worker.open(data), expected, where="the exported model")
            vectors = worker.run(probes.pixels, batch_size=_uneven(len(probes.pixels)))
            parity = compare(probes.reference, vectors)
            reason = _broken(parity, compare(probes.reference[golden], vectors[golden]), limits)
            if reason is None and first is not None:
                apart = compare(first[0][golden], vectors[golden]).max_abs
                if apart > recipe.golden_max_abs:
                    reason = f"{apart:.3g} from {first[2]} on the golden pictures"
        except (RuntimeFailedError, ExportError, BundleError) as error:
            reason = str(error)
        right = reason is None
        results.append(
            RuntimeResult.model_validate(
                {"name": runtime, "version": worker.version, "right": right, "parity": parity, "reason": reason}
            )
        )
        if vectors is not None and parity is not None:
            if right and first is None:
                first = vectors, parity, runtime
            if nearest is None or parity.mean_cosine > nearest[1].mean_cosine:
                nearest = vectors, parity
    found: dict[str, dict[str, float]] = {}
    similarities = None
    shown = first[:2] if first is not None else nearest
    if shown is not None:
        parity = shown[1]
        found["tensor"] = {"max_abs": parity.max_abs}
        found["cosine"] = {"min_cosine": parity.min_cosine, "mean_cosine": parity.mean_cosine}
    if first is not None and judge is not None:
        worker = workers[first[2]]
        upper, similarities = judge.judge(lambda pixels: worker.run(pixels))
        found |= upper
    ladder = tuple(_rung(name, found.get(name, {}), recipe.limits, allow) for name in RUNGS)
    return Measured(ladder, tuple(results), None if shown is None else shown[0], similarities)


def _uneven(count: int) -> int:
    """A batch size that leaves a smaller batch for the end, so that a file with a free batch is run with two sizes."""
    return next((size for size in range(min(8, count - 1), 1, -1) if count % size), 1)


def _broken(everywhere: Parity, golden: Parity, limits: Mapping[str, float]) -> str | None:
    """What a runtime broke, with its numbers; None if nothing."""
    for parity, where in ((everywhere, ""), (golden, " on the golden pictures")):
        over = exceeded(parity.model_dump(), limits)
        if over:
            return ", ".join(f"{name} {getattr(parity, name):.6g}" for name in over) + where
    return None


def exceeded(measured: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """The names of the limits that measured numbers break, those of ``BOUNDED_ABOVE`` from above, others from below.

    A limit on what was not measured is not broken.
    """
    over = []
    for name, limit in limits.items():
        if name in measured:
            value = measured[name]
            if value > limit if name in BOUNDED_ABOVE else value < limit:
                over.append(name)
    return over


def _rung(name: str, measured: dict[str, float], limits: Mapping[str, float], allow: Collection[str]) -> Rung:
    held = {key: limit for key, limit in limits.items() if key in measured}
    status = "passed" if measured else "not measured"
    if exceeded(measured, held):
        status = "allowed" if name in allow else "failed"
    return Rung.model_validate({"rung": name, "status": status, "measured": measured, "limits": held})


def limits_words(limits: Mapping[str, float]) -> str:
    """``max_abs ≤ 1e-05, r_at_1_delta ≥ -0.005``."""
    return ", ".join(f"{name} {'≤' if name in BOUNDED_ABOVE else '≥'} {limit:g}" for name, limit in limits.items())
