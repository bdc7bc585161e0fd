"""``scores.npz``: what each query scored in each cell, so that runs of several seeds can be compared query by query."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hetero import atomic
from hetero.errors import CheckpointError
from hetero.retrieval.compat import CompatReport
from hetero.retrieval.metrics import Scores

SCORES = "scores.npz"
METRICS = ("r_at_1", "map_at_r")
PARAGON = "paragon"

Series = Mapping[str, Mapping[str, np.ndarray]]
"""Series (``paragon``, ``STUDENT``, ``STUDENT/homogeneous``, ``STUDENT/reverse``, of some controls ``STUDENT/mapped``)
to metric to ``[q]``: float32 as written, float64 as read."""


def save_scores(path: Path, scored: Mapping[str, CompatReport], mapped: Mapping[str, Scores]) -> None:
    """Write the per-query scores of all students in one step; ``STUDENT`` alone is its heterogeneous cell.

    Args:
        mapped: of controls, after the best rotation towards the gallery model.

    Raises:
        StorageError: the disk refused; an older file is untouched.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, report in scored.items():
        cells = {PARAGON: PARAGON, name: "heterogeneous"}
        cells |= {f"{name}/{cell}": cell for cell in ("homogeneous", "reverse")}
        for series, cell in cells.items():
            for metric in METRICS:
                arrays[f"{series}|{metric}"] = report.scores[cell].per_query(metric).astype(np.float32)
        if name in mapped:
            for metric in METRICS:
                arrays[f"{name}/mapped|{metric}"] = mapped[name].per_query(metric).astype(np.float32)
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    atomic.write_bytes(path, data.getvalue())


def load_scores(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read what :func:`save_scores` wrote.

    Raises:
        CheckpointError: missing, damaged, or without the paragon.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key].astype(np.float64) for key in stored.files}
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path}", fix="run hetero compat on the run: it writes the file") from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged", got=error, fix="run hetero compat again") from error
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        series, _, metric = key.rpartition("|")
        found.setdefault(series, {})[metric] = values
    shapes = {values.shape for metrics in found.values() for values in metrics.values()}
    if PARAGON not in found or len(shapes) != 1 or any(set(metrics) != set(METRICS) for metrics in found.values()):
        raise CheckpointError(
            f"{path} does not hold the scores of a run",
            got=f"{len(found)} series of {len(shapes)} lengths",
            expected=f"{PARAGON} and each student, {' and '.join(METRICS)}, one value a query",
            fix="run hetero compat again",
        )
    return found
