"""Learning rate by step."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up over ``warmup_steps`` (at most a tenth of the run), then half a cosine down to 0 at the end.

    Args:
        step: 0-based.

    Source: Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5 without restarts; Goyal et al., 2017, gradual warm-up.
    """
    warmup = min(warmup_steps, total_steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
