"""``hetero compat``: the four cells of every student of a run, with everything else that the report shows."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hetero
from hetero.config import RunConfig, with_overrides
from hetero.data.dataset import Dataset
from hetero.data.open import open_dataset
from hetero.data.pixels import read_pixels
from hetero.errors import CheckpointError, ConfigError, DataError, MissingExtraError, nearest
from hetero.journal import read_journal
from hetero.report import schema
from hetero.report.assemble import curves_from_journal, make_report
from hetero.report.numbers import Interval
from hetero.retrieval.bootstrap import interval
from hetero.retrieval.compat import CompatReport, chance_level, compare, pixel_baseline
from hetero.retrieval.metrics import Scores, score
from hetero.retrieval.protocol import Protocol, for_dataset
from hetero.retrieval.verification import Threshold, calibrate, count_pairs, require_enough_pairs
from hetero.space import Compatibility
from hetero.workflows.checks import make_checks
from hetero.workflows.description import describe_data, speeds
from hetero.workflows.examples import make_examples
from hetero.workflows.fleet import make_band, make_mapped, make_matrix, make_tax, score_mapped
from hetero.workflows.recalls import with_recalls
from hetero.workflows.scores import SCORES, save_scores

if TYPE_CHECKING:
    from hetero.models.checkpoint import LoadedModel

Embedder = Callable[[Dataset, np.ndarray], np.ndarray]
"""``embedder(dataset, indices [m]) -> float32 [m, dim]``: a student run elsewhere than in torch."""

MAX_CALIBRATION_QUERIES = 4000  # × the training gallery: tens of millions of impostor pairs, in seconds
HISTOGRAM_BINS = 80
BLOCK = 4096  # pictures decoded at a time: a large split never lies in memory as pixels
PIXEL_BASELINE_SIDE = 32  # pixels; raw pixels as vectors of more would cost more memory than any model's


_FREE_TO_CHANGE = ("data", "evaluation", "device")


@dataclass(frozen=True)
class Searched:
    """One split ready to be searched: its image indices, and the protocol over positions in them."""

    indices: np.ndarray
    protocol: Protocol


def evaluate_run(
    run: Path,
    *,
    split: str | None = None,
    overrides: Sequence[str] = (),
    embedders: Mapping[str, Embedder] | None = None,
    scores_to: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> schema.Report:
    """Embed a split with the gallery model and every student of a run, and score all cells.

    Where the split is the config's own and torch embedded it, the students' checkpoints receive their metrics,
    thresholds and what was measured about their compatibility.

    Args:
        run: a finished run directory. split: instead of the config's ``evaluation.split``.
        overrides: ``key.path=value``, e.g. to search other data.
        embedders: by student name, instead of torch: how an exported bundle is scored.
        scores_to: folder that receives ``scores.npz``, what each query scored.
        say: told what is going on.

    Raises:
        ConfigError, CheckpointError, DataError, RetrievalError: as the parts do.
    """
    try:
        import torch

        from hetero.models.checkpoint import load_model
        from hetero.models.embed import embed
        from hetero.training.device import resolve_device
        from hetero.training.joint import UNTUNED
        from hetero.training.run import read_run
        from hetero.training.students import read_stopped
    except ImportError:
        raise MissingExtraError("hetero compat", "torch", "train") from None

    for override in overrides:
        if override.split("=")[0].split(".")[0] not in _FREE_TO_CHANGE:
            raise ConfigError(
                "a finished run cannot be changed", got=repr(override), expected="keys of " + ", ".join(_FREE_TO_CHANGE)
            )
    record = read_run(run)
    config = with_overrides(record.config, overrides)
    if not any(student.role == "compatible" for student in config.students):
        raise ConfigError(
            f"{run} has no compatible student, so there is nothing to compare",
            fix="add one to the config and run hetero train again: it keeps the gallery model",
        )
    split = split or config.evaluation.split
    device = str(resolve_device(config.device))
    stopped = read_stopped(run)
    wanted = [run / "gallery", *(run / "students" / s.name for s in config.students if s.name not in stopped)]
    for path in wanted:
        if not (path / "model.json").exists():
            raise CheckpointError(
                f"{run} is not finished",
                got=f"no {path.relative_to(run)} yet",
                fix="run the same hetero train again: it goes on where it stopped",
            )
    gallery = load_model(run / "gallery")
    students = {s.name: load_model(run / "students" / s.name) for s in config.students if s.name not in stopped}
    if not any(model.card.role == "compatible" for model in students.values()):
        raise ConfigError(
            f"{run} has no compatible student left to compare",
            got="; ".join(f"{name}: {reason}" for name, reason in stopped.items()),
            fix="lower their learning rates and train into another directory",
        )
    for name in embedders or {}:
        if name not in students:
            raise ConfigError(f"the run has no student {name!r}", expected=nearest(name, students))
    dataset = open_dataset(config.data)
    if not config.evaluation.exclude_groups:
        dataset = replace(dataset, groups=None)

    def embedded(model: LoadedModel, indices: np.ndarray) -> np.ndarray:
        network = model.network.to(device)
        blocks = (indices[start : start + BLOCK] for start in range(0, len(indices), BLOCK))
        return np.concatenate(
            [embed(network, read_pixels(dataset, b, model.preprocess), model.preprocess, device=device) for b in blocks]
        )

    require_searchable(dataset, split)
    test, train = (_searched(dataset, name) for name in (split, "train"))
    calibration: Any = {"max_queries": MAX_CALIBRATION_QUERIES, "seed": config.seed}
    require_enough_pairs(train.protocol, config.evaluation.false_accept_rates, **calibration)
    sides = {"test": test, "train": train}
    say(f"embedding {dataset.name} with the gallery model")
    by_gallery = {key: embedded(gallery, side.indices) for key, side in sides.items()}
    scored: dict[str, CompatReport] = {}
    thresholds: dict[str, tuple[Threshold, ...]] = {}
    by_student: dict[str, np.ndarray] = {}
    mapped: dict[str, Scores] = {}
    for name, model in students.items():
        say(f"embedding and scoring {name}")
        own = {}
        for key, side in sides.items():
            if embedders and name in embedders:
                own[key] = embedders[name](dataset, side.indices)
            else:
                own[key] = embedded(model, side.indices)
        scored[name] = compare(
            own["test"],
            by_gallery["test"],
            test.protocol,
            seed=config.seed,
            resamples=config.evaluation.resamples,
            macs=_costs(gallery, model)[0],
            params=_costs(gallery, model)[1],
            paragon=next(iter(scored.values())).scores["paragon"] if scored else None,
        )
        by_student[name] = own["test"]
        if config.evaluation.procrustes and model.card.role == "control":
            fitted_on = (own["train"], by_gallery["train"])
            mapped[name] = score_mapped(own["test"], by_gallery["test"], fitted_on, test.protocol)
        if model.card.role == "compatible":
            thresholds[name] = calibrate(
                _pairs(own["train"], by_gallery["train"], train.protocol),
                _pairs(own["test"], by_gallery["test"], test.protocol),
                config.evaluation.false_accept_rates,
                **calibration,
            )
        if split == config.evaluation.split and not overrides and not embedders:
            _record(run, name, model, scored[name], thresholds.get(name, ()), f"{dataset.name}/{split}")

    if scores_to is not None:
        save_scores(scores_to / SCORES, scored, mapped)
    say("scoring raw pixels")
    baselines = _baselines(dataset, test, config)
    compatible = [name for name in students if students[name].card.role == "compatible"]
    rotations, sampling = config.evaluation.rotations, {"seed": config.seed, "resamples": config.evaluation.resamples}
    entries = []
    for name, model in students.items():
        entry = with_recalls(_student(name, model, scored[name]), scored[name], config.evaluation)
        if rotations and name not in compatible:
            say(f"turning {name} {rotations} times")
            turned = (by_student[name], by_gallery["test"], test.protocol)
            band = make_band(*turned, rotations=rotations, seed=config.seed, threads=torch.get_num_threads())
            entry = entry.model_copy(update={"rotated": band})
        if name in mapped:
            entry = entry.model_copy(update={"mapped": make_mapped(mapped[name], **sampling)})
        entries.append(entry)
    matrix = None
    if config.evaluation.matrix and len(compatible) > 1:
        say("scoring all students against each other")
        among = {name: by_student[name] for name in compatible}
        matrix = make_matrix(by_gallery["test"], among, scored, test.protocol, **sampling)
    tax = None
    if (run / UNTUNED / "model.json").exists() and compatible:
        untuned = embedded(load_model(run / UNTUNED), test.indices)
        tax = make_tax(untuned, scored[compatible[0]].scores["paragon"], test.protocol, **sampling)
    journal = read_journal(run / "metrics.jsonl")
    return make_report(
        space_id=gallery.space.id,
        run=schema.Run(
            name=config.name,
            command=" ".join(["hetero", *sys.argv[1:]]) if "hetero" in Path(sys.argv[0]).name else "hetero compat",
            config=config.tree(),
            config_sha256=config.digest(),
            hetero_version=hetero.__version__,
            versions={
                "python": platform.python_version(),
                "numpy": np.__version__,
                "torch": str(torch.__version__),
            },
            seed=config.seed,
            device=device,
            threads=record.threads,
            dataset=describe_data(
                dataset, split, len(test.protocol.scorable), next(iter(scored.values())).skipped, config
            ),
            **speeds(journal, config),
        ),
        students=entries,
        baselines=baselines,
        thresholds=[_threshold(name, item) for name, items in thresholds.items() for item in items],
        histograms=[_histogram(name, by_student[name], by_gallery["test"], test.protocol) for name in students],
        examples=make_examples(
            dataset,
            gallery.preprocess,
            test,
            {name: (by_student[name], scored[name]) for name in compatible[:1]},
            by_gallery["test"],
            config.seed,
        ),
        curves=curves_from_journal(journal),
        checks=make_checks(config, entries, baselines, stopped, matrix),
        matrix=matrix,
        tax=tax,
    )


def require_searchable(dataset: Dataset, split: str) -> None:
    """Refuse a split in which nobody can be wrong (DataError)."""
    searched = dataset.split(split)
    if chance_level(for_dataset(dataset, searched)) == 1:
        raise DataError(
            f"nobody can be wrong about split {split!r} of {dataset.name}: every candidate of a query is of its class",
            got=f"number of classes: {len(np.unique(dataset.labels[searched]))}",
            expected="at least 2",
            fix=f"add classes, or raise data.split.{split}_fraction where hetero divides them",
        )


def _searched(dataset: Dataset, split: str) -> Searched:
    indices = dataset.split(split)
    return Searched(indices, for_dataset(dataset, indices))


def _pairs(query: np.ndarray, gallery: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray, Protocol]:
    return query[protocol.query_ids], gallery[protocol.gallery_ids], protocol


def _costs(gallery: LoadedModel, student: LoadedModel) -> tuple[tuple[int, int], tuple[int, int]]:
    from hetero.models.cost import cost

    large, small = cost(gallery.arch), cost(student.arch)
    return (large.macs, small.macs), (large.params, small.params)


def _student(name: str, model: LoadedModel, scored: CompatReport) -> schema.Student:
    content = scored.to_json()
    metrics = ("r_at_1", "r_at_5", "map_at_r", "map", "mrr")
    return schema.Student.model_validate(
        {
            "name": name,
            "role": model.card.role,
            "cells": {
                cell: {metric: values[metric] for metric in metrics} for cell, values in content["cells"].items()
            },
            "rule": content["rule"],
            "macs": content["macs"],
            "params": content["params"],
        }
    )


def _record(
    run: Path, name: str, model: LoadedModel, scored: CompatReport, thresholds: Sequence[Threshold], data: str
) -> None:
    from hetero.models.checkpoint import update_card

    changes: dict[str, Any] = {"metrics": scored.to_json(), "thresholds": tuple(t.to_json() for t in thresholds)}
    if model.card.role == "compatible":
        facts = tuple(
            Compatibility(
                query_weights_sha256=model.card.weights_sha256,
                metric=metric,
                heterogeneous=scored.cells["heterogeneous"][metric].value,
                homogeneous=scored.cells["homogeneous"][metric].value,
                satisfied=rule.satisfied,
                data=data,
            )
            for metric, rule in scored.rule.items()
        )
        changes["space"] = model.space.model_copy(update={"compatible": facts})
    update_card(run / "students" / name, **changes)


def _baselines(dataset: Dataset, test: Searched, config: RunConfig) -> schema.Baselines:
    side = min(PIXEL_BASELINE_SIDE, config.preprocess.height)
    spec = config.preprocess.model_copy(update={"height": side, "width": side})
    pixels = pixel_baseline(read_pixels(dataset, test.indices, spec))
    scores = score(*_pairs(pixels, pixels, test.protocol))
    values = {
        metric: Interval(
            **interval(scores.per_query(metric), config.seed, resamples=config.evaluation.resamples).to_json()
        )
        for metric in ("r_at_1", "r_at_5", "map_at_r")
    }
    return schema.Baselines(
        raw_pixels=schema.Baseline(
            description=f"cosine of the pictures' pixels at {side}×{side}, mean removed", **values
        ),
        chance=schema.Baseline(
            description="expected score of a random ranking", r_at_1=Interval.exact(chance_level(test.protocol))
        ),
    )


def _threshold(name: str, threshold: Threshold) -> schema.Threshold:
    return schema.Threshold(
        student=name,
        false_accept_rate=threshold.far,
        similarity=threshold.similarity,
        impostor_pairs=threshold.impostor_pairs,
        true_accept_rate=threshold.true_accept_rate.value,
        measured_false_accept_rate=threshold.false_accept_rate.value,
    )


def _histogram(name: str, query: np.ndarray, gallery: np.ndarray, protocol: Protocol) -> schema.Histogram:
    counts = count_pairs(*_pairs(query, gallery, protocol), max_queries=MAX_CALIBRATION_QUERIES)
    edges = np.linspace(-1, 1, HISTOGRAM_BINS + 1)
    place = np.clip(np.searchsorted(edges, counts.lower_edges, side="right") - 1, 0, HISTOGRAM_BINS - 1)
    matching, impostor = (
        np.bincount(place, weights=part, minlength=HISTOGRAM_BINS).astype(int).tolist()
        for part in (counts.genuine, counts.impostor)
    )
    return schema.Histogram(
        student=name, edges=tuple(edges.tolist()), matching=tuple(matching), non_matching=tuple(impostor)
    )
