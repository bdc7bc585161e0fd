"""``python -m benchmarks.keep_scores RUN FOLDER``: what ``hetero summary`` needs of a scored run, for the repository.

Left out are the report's pictures, curves and histograms, the folders of data and models, the scores of students whose
gallery is searched (reverse), and the digits of mAP@R beyond float16.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path, PurePath

import numpy as np

from hetero import atomic
from hetero.report.build import load_report
from hetero.workflows.experiment import without_folders
from hetero.workflows.scores import SCORES

DROPPED = ("curves", "examples", "histograms")


def main(run: Path, folder: Path) -> None:
    """Write ``report.json`` and ``scores.npz`` into ``folder``."""
    load_report(run)  # whole and valid
    content = json.loads((run / "report.json").read_text(encoding="utf-8"))
    content |= {key: [] for key in DROPPED}
    content["run"]["config"] = without_folders(content["run"]["config"])
    words = content["run"]["command"].split()
    content["run"]["command"] = " ".join(PurePath(word).name if word.startswith("/") else word for word in words)
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(folder / "report.json", content)
    with np.load(run / SCORES, allow_pickle=False) as stored:
        kept = {key: stored[key].astype(np.float16) for key in stored.files if "/reverse|" not in key}
    packed = io.BytesIO()
    np.savez_compressed(packed, **kept)
    atomic.write_bytes(folder / SCORES, packed.getvalue())
    load_report(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
