"""From a run or a data set to what an export is proved with: calibration pictures and a retrieval test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exporters.retrieval import RetrievalTest
from hetero.config import load_config
from hetero.data.dataset import Dataset
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.errors import ConfigError, SpaceMismatchError
from hetero.models.checkpoint import LoadedModel, load_model
from hetero.models.embed import embed
from hetero.retrieval.config import EvaluationConfig
from hetero.retrieval.protocol import for_dataset
from hetero.training.run import read_run
from hetero.workflows.source import open_source, split_to_search

BLOCK = 2048  # pictures decoded at a time


@dataclass(frozen=True)
class Proof:
    """Calibration pixels, ``uint8 [n, h, w, c]`` (None: there is no training split), and the retrieval test."""

    calibration: np.ndarray | None
    retrieval: RetrievalTest | None


def proof_of(
    checkpoint: Path,
    *,
    data: Path | None = None,
    gallery_model: Path | None = None,
    split: str | None = None,
    overrides: Sequence[str] = (),
    calibration_pictures: int = 512,
    search: bool = True,
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
) -> Proof:
    """Take pictures of training classes to calibrate on, and embed the gallery that exported files must search.

    Args:
        checkpoint: the student's. In a run directory it needs no other argument: data, split and gallery model are
            the run's.
        data: run config, folder, CSV manifest or npz file instead of the run's data.
        gallery_model: checkpoint of the gallery model instead of the run's.
        split: whose pictures search and are searched; with None, that of the run's or the run config's evaluation, else
            the one that is not ``train``; of data that nobody divided all do.
        overrides: ``key.path=value`` of the run config.
        calibration_pictures: how many are drawn, with ``seed``, from the split ``train``, or from all pictures where
            nobody divided them and nothing is searched; 0: none.
        search: whether there is to be a retrieval test.
        say: told what is going on.

    Raises:
        ConfigError: neither a run nor data; no split that could be meant; a split with the calibration pictures in it.
        SpaceMismatchError: the gallery model embeds into another space.
        CheckpointError, DataError: they cannot be read.
    """
    if calibration_pictures < 0:
        raise ConfigError("fewer than no calibration pictures", got=calibration_pictures, expected="32 to 4096, or 0")
    student = load_model(checkpoint)
    run = checkpoint.resolve().parent.parent
    evaluation: EvaluationConfig | None = None
    if data is not None:
        dataset = open_source(data, overrides)
        if data.suffix in (".yaml", ".yml"):
            evaluation = load_config(data, overrides).evaluation
    elif (run / "run.json").exists():
        config = read_run(run).config
        dataset, evaluation = open_dataset(config.data), config.evaluation
    else:
        raise ConfigError(
            f"{checkpoint} lies in no run, so there are no pictures to calibrate on and to search",
            fix="name them with --data, and the gallery model with --gallery-model",
        )
    if evaluation is not None:
        split = split or evaluation.split
        dataset = dataset if evaluation.exclude_groups else replace(dataset, groups=None)
    calibration, drawn = None, np.empty(0, np.int64)
    if calibration_pictures and ("train" in dataset.splits or not (dataset.splits or search)):
        train = dataset.split("train" if dataset.splits else None)
        drawn = np.random.default_rng(seed).permutation(train)[:calibration_pictures]
        calibration = read_pixels(dataset, np.sort(drawn), student.preprocess)
    if not search:
        return Proof(calibration, None)
    gallery_model = gallery_model or run / "gallery"
    gallery = load_model(gallery_model)
    if student.card.role == "control":
        raise SpaceMismatchError(
            f"{checkpoint} is a control: it has a space of its own and finds nothing in the gallery model's",
            got=student.space.id,
            expected=gallery.space.id,
            fix="export a compatible student, or search nothing (--no-retrieval)",
        )
    if gallery.space.id != student.space.id:
        raise SpaceMismatchError(
            "the gallery model and the student embed into different spaces",
            got=f"{gallery_model}: {gallery.space.id}",
            expected=student.space.id,
            fix="name the gallery model that the student was trained with, or search nothing (--no-retrieval)",
        )
    split = split or split_to_search(dataset, fix="name one with --split, or search nothing (--no-retrieval)")
    indices = dataset.split(split)
    name = dataset.name if split is None else f"{dataset.name}/{split}"
    if np.isin(drawn, indices).any():
        raise ConfigError(
            "files would be judged on the pictures that they are calibrated on",
            got=f"{np.isin(drawn, indices).sum()} of {len(drawn)} calibration pictures in {name}",
            expected="classes never trained on",
            fix="name another with --split, or calibrate nothing",
        )
    protocol = for_dataset(dataset, indices)
    say(f"{dataset.name}: embedding {len(protocol.gallery_ids):,} gallery pictures with the gallery model")
    vectors = _embedded(gallery, dataset, indices[protocol.gallery_ids])

    def read(queries: np.ndarray) -> np.ndarray:
        return read_pixels(dataset, indices[protocol.query_ids[queries]], student.preprocess)

    return Proof(calibration, RetrievalTest(name, read, vectors, protocol))


def _embedded(model: LoadedModel, dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    blocks = (indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK))
    return np.concatenate(
        [embed(model.network, read_pixels(dataset, block, model.preprocess), model.preprocess) for block in blocks]
    )
