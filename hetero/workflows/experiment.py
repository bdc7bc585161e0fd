"""The runs of one experiment, read and held to be of one: one data set, one recipe, other seeds and students.

Folders and precision may differ, since machines do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hetero.errors import CheckpointError, ConfigError
from hetero.report.build import load_report
from hetero.report.fleet import Band
from hetero.report.schema import METRICS as METRIC_NAMES
from hetero.report.schema import Report, Student
from hetero.workflows.scores import METRICS, PARAGON, SCORES, load_scores

Scores = dict[str, dict[str, np.ndarray]]
_PATHS = ("path", "cache", "checkpoint")
_OF_GALLERY = ("gallery", "data", "preprocess", "joint")
_PRECISIONS = frozenset({"precision", "gallery_precision"})
_ROUNDING = 1e-3  # of scores that earlier versions kept in float16


@dataclass(frozen=True)
class Turned:
    """A control's scores in the gallery beside those of its embeddings turned at random.

    Attributes:
        score: mean over the queries, by metric. band: see :class:`hetero.report.fleet.Band`.
    """

    student: str
    seed: int
    score: Mapping[str, float]
    band: Band

    def within(self, metric: str) -> bool:
        """Whether the score is among the central 95 %."""
        return self.band.place(metric, self.score[metric]) == "within"

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return {"student": self.student, "seed": self.seed, "rotations": self.band.rotations} | {
            metric: {
                "score": self.score[metric],
                "band": list(getattr(self.band, metric)),
                "within": self.within(metric),
            }
            for metric in METRICS
        }


@dataclass(frozen=True)
class Experiment:
    """What is known of all runs together.

    Attributes:
        report: of the first run. reports: of all. students: each as the first run that has it reports it.
        scores, spaces: by seed. turned: controls. mismatched: names of students outside the gallery model's family.
    """

    report: Report
    students: tuple[Student, ...]
    scores: dict[int, Scores]
    turned: tuple[Turned, ...]
    spaces: dict[int, str]
    mismatched: frozenset[str]
    reports: list[Report]


def read_experiment(runs: Sequence[Path]) -> Experiment:
    """Read runs, and refuse those that are not of one experiment.

    Raises:
        ConfigError: no runs, a student of a seed twice, runs of different experiments.
        BundleError, CheckpointError: files that are missing or damaged.
    """
    if not runs:
        raise ConfigError("a summary needs runs", fix="name run directories that hetero compat has scored")
    reports = [load_report(run) for run in runs]
    first = reports[0]
    spaces: dict[int, tuple[Path, str]] = {}
    recipe: tuple[Path, Any] | None = None
    students: dict[str, tuple[Path, Student, Any]] = {}
    scores: dict[int, Scores] = {}
    turned: list[Turned] = []
    for run, report in zip(runs, reports, strict=True):
        require_same(run, runs[0], "data", searched(report), searched(first))
        config: dict[str, Any] = dict(report.run.config)
        seed, gallery = report.run.seed, config["gallery"]
        require_same(run, runs[0], "gallery models", report.macs.gallery, first.macs.gallery)
        if "checkpoint" not in gallery:
            training = _without_precision(without_folders({key: config.get(key) for key in _OF_GALLERY}))
            recipe = recipe or (run, training)
            require_same(run, recipe[0], "training of the gallery model", training, recipe[1])
        before = spaces.setdefault(seed, (run, report.space_id))
        if before[1] != report.space_id:
            raise ConfigError(
                f"{run} and {before[0]} have seed {seed} both, but not one gallery model",
                got=f"spaces {report.space_id} and {before[1]}",
                fix="train each with another --set seed=N, or students of one gallery model with gallery.checkpoint",
            )
        own = load_scores(run / SCORES)
        _require_of_report(run, report, own)
        twice = sorted(own.keys() & scores.get(seed, {}).keys() - {PARAGON})
        if twice:
            raise ConfigError(
                f"{run} repeats what another run of the same seed has",
                got=f"seed {seed}, {', '.join(twice)}",
                fix="train it with another --set seed=N, or give the student another name",
            )
        scores.setdefault(seed, {}).update(own)
        for student in report.students:
            settings = _settings(report, student)
            known = students.setdefault(student.name, (run, student, settings))
            require_same(run, known[0], f"training of {student.name}", settings, known[2])
            if student.rotated is not None:
                score = {metric: getattr(student.cells.heterogeneous, metric).value for metric in METRICS}
                turned.append(Turned(student.name, seed, score, student.rotated))
    _require_paired(runs[0], scores)
    return Experiment(
        report=first,
        students=tuple(student for _, student, _ in students.values()),
        scores=dict(sorted(scores.items())),
        turned=tuple(turned),
        spaces={seed: space for seed, (_, space) in spaces.items()},
        mismatched=frozenset(
            name for name, (_, _, settings) in students.items() if not settings["student"][0]["matched"]
        ),
        reports=reports,
    )


def differing_precisions(reports: Sequence[Report]) -> dict[str, dict[str, list[int]]]:
    """Of each precision that the runs' configs do not share, the seeds under which it has which value."""
    found: dict[str, dict[str, set[int]]] = {}
    for report in reports:
        config: Any = report.run.config
        sections = {"gallery.train": config["gallery"].get("train"), "student_training": config.get("student_training")}
        for section, settings in sections.items():
            for key in _PRECISIONS & (settings or {}).keys():
                found.setdefault(f"{section}.{key}", {}).setdefault(settings[key], set()).add(report.run.seed)
    return {
        key: {name: sorted(seeds) for name, seeds in sorted(of.items())}
        for key, of in sorted(found.items())
        if len(of) > 1
    }


def _require_of_report(run: Path, report: Report, scores: Scores) -> None:
    """Refuse scores that another evaluation wrote than the report, as one that was stopped leaves them."""
    for student in report.students:
        cells = {PARAGON: student.cells.paragon, student.name: student.cells.heterogeneous}
        cells |= {f"{student.name}/homogeneous": student.cells.homogeneous}
        for (series, cell), metric in product(cells.items(), METRICS):
            found = scores[series][metric] if series in scores else np.empty(0)
            stated = getattr(cell, metric).value
            if len(found) != report.run.dataset.queries or abs(found.mean() - stated) > _ROUNDING:
                raise CheckpointError(
                    f"{run / SCORES} does not belong to the report beside it",
                    got=f"{series}: {len(found)} queries"
                    + (f", mean {METRIC_NAMES[metric]} {found.mean():.4f}" if len(found) else ""),
                    expected=f"{report.run.dataset.queries} queries, {stated:.4f}",
                    fix="run hetero compat again",
                )


def searched(report: Report) -> tuple[Any, ...]:
    """What a report's queries were, to compare with another's: of equal data, equally divided, in one order."""
    data, config = report.run.dataset, dict(report.run.config)
    return data.name, data.split, data.queries, data.protocol, without_folders({"data": config["data"]})


def _settings(report: Report, student: Student) -> dict[str, Any]:
    """Everything of the config that a student's training depends on, but for its gallery model and seed.

    Folders and arithmetic do not count: another machine has others.
    """
    free = ("name", "seed", "evaluation", "device", "gallery", "students")
    config = _without_precision(without_folders(dict(report.run.config)))
    shared = {key: value for key, value in config.items() if key not in free}
    own = [one for one in config["students"] if one["name"] == student.name]
    return shared | {"student": own}


def without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose paths are names of files and folders, without where these lie."""
    return {
        key: PurePath(value).name
        if key in _PATHS and isinstance(value, str)
        else without_folders(value)
        if isinstance(value, dict)
        else value
        for key, value in config.items()
    }


def _without_precision(config: dict[str, Any]) -> dict[str, Any]:
    """A config, or a part of one, without the arithmetic that it names."""
    return {
        key: _without_precision(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _PRECISIONS
    }


def require_same(run: Path, other: Path, what: str, mine: Any, theirs: Any) -> None:
    """Refuse a run whose ``what`` is not the other's (ConfigError)."""
    if mine != theirs:
        raise ConfigError(
            f"{run} does not belong to the experiment of {other}",
            got=f"other {what}",
            fix="summarise runs that differ in seed, students and precision alone",
        )


def _require_paired(run: Path, scores: Mapping[int, Scores]) -> None:
    lengths = {len(values) for own in scores.values() for metrics in own.values() for values in metrics.values()}
    if len(lengths) != 1:
        raise ConfigError(
            f"the runs beside {run} scored different numbers of queries",
            got=", ".join(map(str, sorted(lengths))),
            fix="run hetero compat on each with the same data",
        )
