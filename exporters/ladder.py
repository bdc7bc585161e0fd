"""The parity ladder: an exported file against the torch model, rung by rung, in every installed runtime."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from exporters.manifest import (
    BOUNDED_ABOVE,
    RUNG_OF,
    RUNGS,
    Parity,
    Rung,
    RuntimeResult,
    Similarities,
    exceeded,
    status_of,
)
from exporters.parity import UNIT_LENGTH_TOLERANCE, compare, length_error
from exporters.recipes import FP32_MAX_ABS, RUNTIMES, Recipe
from exporters.retrieval import Judge
from exporters.signature import Signature, require_signature
from hetero.errors import BundleError, ExportError, RetrievalError, RuntimeFailedError


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

    A runtime is right if it keeps the recipe's limits on all pictures and on the golden ones alone, its embeddings have
    unit length, and it lies on the golden ones within the recipe's ``golden_max_abs`` of the leading runtime: what
    :func:`exporters.verify` will ask of it. The leading one is the first that keeps all limits, and if they are allowed
    to break some, the nearest to torch; in it the upper rungs are measured.

    Args:
        expected: how the file must take pictures and give embeddings.
        workers: by runtime, from :func:`exporters.workers.start`.
        judge: for the upper three rungs; without it they are "not measured".
        allow: rungs that may break their limits.
    """
    limits = {name: limit for name, limit in recipe.limits.items() if RUNG_OF[name] not in allow}
    tried = [_try(data, name, workers[name], expected, probes) for name in RUNTIMES[recipe.format] if name in workers]
    for one in tried:
        one.reason = one.reason or one.broken(limits)
    whole = [one for one in tried if one.reason is None and one.broken(recipe.limits) is None]
    others = [one for one in tried if one.reason is None and one not in whole]
    found: dict[str, dict[str, float]] = {}
    similarities, leader = None, None
    for one in [*whole, *sorted(others, key=_Tried.cosine, reverse=True)]:
        try:
            if judge is not None:
                exact = one.parity is not None and one.parity.max_abs <= FP32_MAX_ABS
                found, similarities = judge.judge(partial(_unit_length, workers[one.name]), exact=exact)
        except (RuntimeFailedError, RetrievalError) as error:
            one.reason = f"on the retrieval test: {error}"
            continue
        leader = one
        break
    for one in tried:
        if leader is not None and one is not leader and one.reason is None:
            apart = compare(leader.rows(probes.num_golden), one.rows(probes.num_golden)).max_abs
            if apart > recipe.golden_max_abs:
                one.reason = f"{apart:.3g} from {leader.name} on the golden pictures"
    shown = leader or max(tried, key=_Tried.cosine, default=None)
    if shown is not None and shown.parity is not None:
        for name, value in shown.parity.model_dump(exclude={"images"}).items():
            found.setdefault(RUNG_OF[name], {})[name] = value
    ladder = tuple(_rung(name, found.get(name, {}), recipe.limits, allow) for name in RUNGS)
    results = tuple(one.result() for one in tried)
    return Measured(ladder, results, None if shown is None else shown.vectors, similarities)


@dataclass(eq=False)
class _Tried:
    """What one runtime made of the probes (``golden``: of the golden ones alone), and why it is not right."""

    name: str
    version: str
    vectors: np.ndarray | None = None
    parity: Parity | None = None
    golden: Parity | None = None
    length_error: float = 0.0
    reason: str | None = None

    def cosine(self) -> float:
        return -math.inf if self.parity is None else self.parity.mean_cosine

    def rows(self, count: int) -> np.ndarray:
        assert self.vectors is not None  # noqa: S101  (only asked of runtimes that answered)
        return self.vectors[:count]

    def broken(self, limits: Mapping[str, float]) -> str | None:
        """Which limits it breaks, with its numbers, or that lengths are wrong; None if it keeps them."""
        for parity, where in ((self.parity, ""), (self.golden, " on the golden pictures")):
            numbers = {} if parity is None else parity.model_dump()
            over = exceeded(numbers, limits)
            if over:
                return ", ".join(f"{name} {numbers[name]:.6g}" for name in over) + where
        if self.length_error > UNIT_LENGTH_TOLERANCE:
            return f"lengths differ from 1 by up to {self.length_error:.3g}"
        return None

    def result(self) -> RuntimeResult:
        fields = {"name": self.name, "version": self.version, "parity": self.parity, "reason": self.reason}
        return RuntimeResult.model_validate({**fields, "right": self.reason is None})


def _try(data: bytes, name: str, worker: Runner, expected: Signature, probes: Probes) -> _Tried:
    try:
        require_signature(worker.open(data), expected, where="the exported model")
        vectors = worker.run(probes.pixels, batch_size=_uneven(len(probes.pixels)))
        parity = compare(probes.reference, vectors)
        golden = compare(probes.reference[: probes.num_golden], vectors[: probes.num_golden])
    except (RuntimeFailedError, ExportError, BundleError) as error:
        return _Tried(name, worker.version, reason=str(error))
    off = length_error(vectors[probes.reference.any(axis=1)])  # torch itself may give zero for a black picture
    return _Tried(name, worker.version, vectors, parity, golden, off)


def _unit_length(worker: Runner, pixels: np.ndarray) -> np.ndarray:
    """Embeddings of queries, which a search could not take otherwise.

    Raises:
        RuntimeFailedError: a row is not finite or has another length.
    """
    vectors = worker.run(pixels)
    off = length_error(vectors)
    if not off <= UNIT_LENGTH_TOLERANCE:  # NaN is not, either
        raise RuntimeFailedError("an embedding is not of unit length", got=f"a length off by {off:.3g}", expected="1")
    return vectors


def _uneven(count: int) -> int:
    """A batch size that leaves a smaller batch for the end, so that a file with a free batch is run with two sizes."""
    return next((size for size in range(min(8, count - 1), 1, -1) if count % size), 1)


def _rung(name: str, measured: dict[str, float], limits: Mapping[str, float], allow: Collection[str]) -> Rung:
    held = {key: limit for key, limit in limits.items() if key in measured}
    status = status_of(measured, held)
    if status == "failed" and name in allow:
        status = "allowed"
    return Rung.model_validate({"rung": name, "status": status, "measured": measured, "limits": held})


def limits_words(limits: Mapping[str, float]) -> str:
    """``max_abs ≤ 1e-05, r_at_1_delta ≥ -0.005``."""
    return ", ".join(f"{name} {'≤' if name in BOUNDED_ABOVE else '≥'} {limit:g}" for name, limit in limits.items())
