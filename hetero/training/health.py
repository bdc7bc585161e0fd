"""Which trainees still learn: a student that diverges is stopped and named, and the others train on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_WORSE = 2.0  # times the loss of its first metrics line
_PATIENCE = 100  # steps in a row: one bad stretch is no divergence


@dataclass
class Health:
    """Part of the committed state, so that a resumed run stops the same students.

    Attributes:
        stopped: name to what happened. told: those of them that a metrics line has named.
        first: name to the mean loss of its first metrics line, from fresh weights; infinity for weights that had
            learnt before: they begin so low that a healthy rise at full learning rate is many times as high.
        bad: name to the step since which its loss is far above that, 0 where it is not.
    """

    stopped: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)
    bad: dict[str, int] = field(default_factory=dict)

    def check_losses(self, terms: Mapping[str, Mapping[str, float]], step: int) -> list[str]:
        """Stop those with a loss that is not a number at this 0-based step; their names."""
        found = []
        for name, parts in terms.items():
            wrong = [key for key, value in parts.items() if not math.isfinite(value)]
            if wrong:
                self.stopped[name] = f"its loss is not a number at step {step + 1}: {wrong[0]} = {parts[wrong[0]]}"
                found.append(name)
        return found

    def check_line(self, means: Mapping[str, Mapping[str, float]], done: int) -> list[str]:
        """Stop those whose loss stays far above where it began, over the steps of a metrics line; their names."""
        found = []
        for name, parts in means.items():
            if name in self.stopped:
                continue
            first = self.first.setdefault(name, parts["total"])
            self.bad[name] = (self.bad.get(name) or done) if parts["total"] > _WORSE * first else 0
            if self.bad[name] and done - self.bad[name] >= _PATIENCE:
                self.stopped[name] = (
                    f"its loss went from {first:.4g} to {parts['total']:.4g} by step {done} and stayed there"
                )
                found.append(name)
        return found

    def check_weights(self, states: Mapping[str, Mapping[str, Tensor]], done: int) -> list[str]:
        """Stop those whose weights are not numbers: the last step may have ruined them unseen by its loss."""
        found = []
        for name, tensors in states.items():
            for key, tensor in tensors.items():
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    self.stopped[name] = f"its weights are not numbers after step {done}: {key}"
                    found.append(name)
                    break
        return found

    def tell(self) -> dict[str, str]:
        """Who was stopped since the last metrics line."""
        new = {name: reason for name, reason in self.stopped.items() if name not in self.told}
        self.told += new
        return new

    def well(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that were not stopped."""
        return [name for name in names if name not in self.stopped]

    def to_json(self) -> dict[str, Any]:
        """Plain dict for the state; read back by ``Health(**…)``."""
        return {
            "stopped": dict(self.stopped),
            "told": list(self.told),
            "first": dict(self.first),
            "bad": dict(self.bad),
        }
