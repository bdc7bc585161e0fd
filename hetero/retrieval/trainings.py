"""How far a mean over a few trainings would move with other trainings: the t interval over seeds.

Resampling the queries cannot say that: every resample holds the same few trainings. With so few the bootstrap is too
narrow, so this one is Student's. Source: Student, The probable error of a mean, Biometrika 6, 1908.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hetero.errors import RetrievalError
from hetero.retrieval.bootstrap import Interval

# 97.5 % quantiles of Student's distribution for 1, 2, … degrees of freedom; more have the last, which is a little wide.
_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
              2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860)  # fmt: skip


def over_trainings(values: Sequence[float]) -> Interval:
    """The mean with its 95 % interval over trainings: mean ± t · s / √n.

    Args:
        values: one a training (seed), at least two, each finite; for a comparison the difference within each seed.

    Raises:
        RetrievalError: fewer than two, or one that is not finite.
    """
    found = np.asarray(values, np.float64)
    if len(found) < 2 or not np.isfinite(found).all():
        raise RetrievalError(
            "an interval over trainings needs two finite values", got=found.tolist(), fix="train another seed"
        )
    mean, spread = float(found.mean()), float(found.std(ddof=1)) / len(found) ** 0.5
    reach = _QUANTILES[min(len(found) - 1, len(_QUANTILES)) - 1] * spread
    return Interval(mean, mean - reach, mean + reach)
