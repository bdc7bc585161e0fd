"""Make ``tests/golden/omniglot/`` from a finished run, so that later checks need not train.

    HETERO_DATA=… hetero train examples/omniglot.yaml && hetero compat runs/omniglot
    HETERO_DATA=… python tests/golden/make_omniglot.py runs/omniglot

It keeps the student's checkpoint and bundle, the gallery model's vectors of every image of the first 100 test classes,
and ``golden.json`` with the cells that the student reaches on them.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import exporters
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.retrieval.gallery import open_gallery
from hetero.retrieval.metrics import score
from hetero.retrieval.protocol import leave_one_out
from hetero.training.run import run_config
from hetero.workflows.index import index_pictures

NUM_CLASSES, TRAINED, STUDENT, SPLIT = 100, "x23", "small", "golden"  # the run's student, and its name here
MAX_BYTES = 6_000_000
HERE = Path(__file__).parent / "omniglot"


def main(run: Path) -> None:
    """Write the folder anew."""
    config = run_config(run)
    dataset = open_dataset(config.data)
    test = dataset.split("test")
    chosen = test[np.isin(dataset.labels[test], np.unique(dataset.labels[test])[:NUM_CLASSES])]
    subset = replace(dataset, splits={SPLIT: chosen.copy()})
    shutil.rmtree(HERE, ignore_errors=True)
    shutil.copytree(run / "students" / TRAINED, HERE / STUDENT)
    pixels = read_pixels(subset, chosen, config.preprocess)
    bundle = exporters.export(HERE / STUDENT, HERE / f"{STUDENT}.hetero", golden_images=pixels[:: len(pixels) // 8][:8])
    index_pictures(run / "gallery", subset, HERE / "gallery", split=SPLIT, device="cpu")
    query = exporters.embed_pixels(bundle, pixels)
    vectors = open_gallery(HERE / "gallery").vectors
    protocol = leave_one_out(dataset.labels[chosen])
    cells = {
        "paragon": score(vectors, vectors, protocol).mean,
        "heterogeneous": score(query, vectors, protocol).mean,
        "homogeneous": score(query, query, protocol).mean,
    }
    (HERE / "golden.json").write_text(
        json.dumps({"indices": chosen.tolist(), "cells": cells}, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    size = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise SystemExit(f"{HERE} holds {size} bytes, more than {MAX_BYTES}")
    print(f"{HERE}: {size} bytes, {cells}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
