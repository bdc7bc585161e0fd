"""What a manifest says of each file that was asked for, as the page, the model card and the terminal table show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from exporters.manifest import BOUNDED_ABOVE, Manifest, Rung, exceeded

SIGNS = {
    "passed": "✓",
    "undecided": "?",
    "no limit": "–",
    "allowed": "!",
    "failed": "✗",
    "left out": "✗",
    "not measured": "–",
}
NUMBERS = {
    "max_abs": "max abs",
    "min_cosine": "min cosine",
    "mean_cosine": "mean cosine",
    "self_r_at_1": "own picture nearest",
    "r_at_1": "R@1",
    "r_at_1_delta": "R@1 difference",
    "map_at_r": "mAP@R",
    "map_at_r_delta": "mAP@R difference",
    "lost": "lost",
    "won": "won",
    "true_accept_delta": "true accept rate difference",
    "false_accept_ratio": "false accept rate ratio",
}
"""The numbers of the ladder in words; the ends of their intervals stand beside them."""


@dataclass(frozen=True)
class FileRow:
    """One file, or one that was left out: that has no ``path``, ``size_bytes`` and ``num_ops``.

    ``int8_layers`` are of recipes that ask for some.

    ``reason`` says which limits a file was allowed to break, what is undecided, or why it was left out. Numbers are of
    the ladder, against the torch model, and None where they were not measured.
    """

    name: str
    recipe: str
    path: str | None
    size_bytes: int | None
    num_ops: int | None
    int8_layers: str | None
    verdict: Literal["passed", "undecided", "allowed", "left out"]
    reason: str
    ladder: tuple[Rung, ...]

    def measured(self, name: str) -> float | None:
        """A number of the ladder."""
        return next((rung.measured[name] for rung in self.ladder if name in rung.measured), None)

    @property
    def max_abs(self) -> float | None:
        """Largest difference of one component of an embedding."""
        return self.measured("max_abs")

    @property
    def min_cosine(self) -> float | None:
        """Cosine of the picture that is furthest off."""
        return self.measured("min_cosine")

    @property
    def r_at_1_delta(self) -> tuple[float, float, float] | None:
        """R@1 less the torch model's, and the ends of its 95 % interval."""
        value, low, high = (self.measured(f"r_at_1_{end}") for end in ("delta", "low", "high"))
        return None if value is None or low is None or high is None else (value, low, high)


def file_rows(manifest: Manifest) -> tuple[FileRow, ...]:
    """A row for each file of the bundle, then one for each that was left out."""
    rows = []
    for file in manifest.files:
        broken = [f"{rung.rung}: {broken_limits(rung)}" for rung in file.ladder if rung.status == "allowed"]
        undecided = [undecided_limits(rung) for rung in file.ladder if rung.status == "undecided"]
        rows.append(
            FileRow(
                name=f"{file.format} {file.precision}",
                recipe=file.recipe,
                path=file.path,
                size_bytes=file.size_bytes,
                num_ops=sum(file.ops.values()),
                int8_layers=f"{file.content.int8_layers} of {file.content.layers}" if "wi8" in file.recipe else None,
                verdict="allowed" if broken else "undecided" if undecided else "passed",
                reason="; ".join(broken + undecided),
                ladder=file.ladder,
            )
        )
    for entry in manifest.blocked:
        rows.append(
            FileRow(
                name=f"{entry.format} {entry.precision}",
                recipe=entry.recipe,
                path=None,
                size_bytes=None,
                num_ops=None,
                int8_layers=None,
                verdict="left out",
                reason=entry.reason,
                ladder=entry.ladder,
            )
        )
    return tuple(rows)


def reference_only(manifest: Manifest) -> bool:
    """Whether Core ML files were run by the reference alone, and nowhere by Apple's runtime."""
    right = {one.name for file in manifest.files if file.format == "coreml" for one in file.runtimes if one.right}
    return right == {"mil-reference"}


def broken_limits(rung: Rung) -> str:
    """The numbers of a rung that break its limits, with them: ``lost 0.031 (limit: at most 0.02)``."""
    return ", ".join(
        f"{NUMBERS.get(name, name)} {rung.measured[name]:.4g} ({limit_words(name, rung.limits[name])})"
        for name in exceeded(rung.measured, rung.limits)
    )


def undecided_limits(rung: Rung) -> str:
    """The intervals of a rung that reach beyond its limits: ``R@1 difference may be -0.0104 (limit: …): …``."""
    lows = {name: rung.measured.get(name.replace("_delta", "_low"), math.inf) for name in rung.limits}
    return (
        ", ".join(
            f"{NUMBERS[name]} as low as {low:.4g} ({limit_words(name, rung.limits[name])})"
            for name, low in lows.items()
            if name.endswith("_delta") and low < rung.limits[name]
        )
        + ": more queries would tell"
    )


def limit_words(name: str, limit: float) -> str:
    """``limit: at most 0.02``."""
    return f"limit: {'at most' if name in BOUNDED_ABOVE else 'at least'} {limit:g}"
