"""Several runs of one experiment as one table: means over seeds, spread, and which orderings hold.

An ordering is claimed only where two intervals of the paired difference lie on one side of 0: the bootstrap's over the
queries, of the mean over the seeds, which knows nothing of other trainings, and Student's over the trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from hetero.errors import CheckpointError, ConfigError, nearest
from hetero.report.build import load_report
from hetero.report.fleet import Band
from hetero.report.schema import METRICS as METRIC_NAMES
from hetero.report.schema import Cost, Report, Student
from hetero.retrieval.bootstrap import Interval, paired_difference
from hetero.retrieval.trainings import over_trainings
from hetero.workflows.scores import METRICS, PARAGON, SCORES, load_scores

Scores = dict[str, dict[str, np.ndarray]]
_PATHS = ("path", "cache", "checkpoint")
_PRECISIONS = frozenset({"precision", "gallery_precision"})
_LEAST_TRAININGS = 3  # the interval over two has no width where their differences happen to be equal
_ROUNDING = 1e-3  # of scores kept in float16


@dataclass(frozen=True)
class Comparison:
    """``first − second`` in one metric.

    Attributes:
        difference: mean over seeds and queries, with its 95 % interval over queries.
        by_seed: the mean over queries of each seed that has both.
        trainings: how often what is compared was trained: as many as seeds, or fewer where gallery models are compared
            and one stands under several seeds.
    """

    first: str
    second: str
    metric: str
    difference: Interval
    by_seed: tuple[float, ...]
    trainings: int

    @property
    def over_trainings(self) -> Interval | None:
        """The mean over seeds with its 95 % interval over trainings; None of one, or of one under several seeds."""
        return over_trainings(self.by_seed) if 1 < self.trainings == len(self.by_seed) else None

    @property
    def claimed(self) -> bool:
        """Whether there is an ordering that both intervals and all seeds agree on; never of fewer than three."""
        if self.over_trainings is None or self.trainings < _LEAST_TRAININGS:
            return False
        found = (self.difference, self.over_trainings)
        above = min(*(one.low for one in found), *self.by_seed) > 0
        below = max(*(one.high for one in found), *self.by_seed) < 0
        return above or below

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return {
            "first": self.first,
            "second": self.second,
            "metric": self.metric,
            **self.difference.to_json(),
            "by_seed": list(self.by_seed),
            "trainings": self.trainings,
            "over_trainings": None if self.over_trainings is None else self.over_trainings.to_json(),
            "claimed": self.claimed,
        }


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
class Rival:
    """The gallery model of another experiment on the same queries: its run's name and the MACs of both models."""

    name: str
    macs: Cost

    @property
    def series(self) -> str:
        """Its name among the series."""
        return f"{PARAGON} of {self.name}"


@dataclass(frozen=True)
class Summary:
    """What several runs of one experiment say.

    Attributes:
        report: of the first run; data and gallery model are those of all.
        students: of all runs together, each as the first run that has it reports it.
        scores: by seed; of a student that not all seeds have, only those that do hold series.
        comparisons: see :class:`Comparison`. turned: see :class:`Turned`. rival: see :class:`Rival`.
        mismatched: names of students that need not be of the gallery model's family.
        arithmetic: config keys of a precision that the runs do not share (the rival's among them), each with its values
            and their seeds.
    """

    report: Report
    students: tuple[Student, ...]
    scores: Mapping[int, Scores]
    comparisons: tuple[Comparison, ...]
    turned: tuple[Turned, ...] = ()
    rival: Rival | None = None
    mismatched: frozenset[str] = frozenset()
    arithmetic: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(self.scores)

    def seeds_of(self, series: str) -> tuple[int, ...]:
        """Those that have it."""
        return tuple(seed for seed, own in self.scores.items() if series in own)

    def by_seed(self, series: str, metric: str) -> tuple[float, ...]:
        """The mean over queries, of each seed that has the series."""
        return tuple(float(self.scores[seed][series][metric].mean()) for seed in self.seeds_of(series))

    def mean(self, series: str, metric: str) -> float:
        """The mean over seeds."""
        return float(np.mean(self.by_seed(series, metric)))

    def to_json(self) -> dict[str, Any]:
        """Plain dict: the seeds, each series' values by seed, costs, comparisons."""
        series = list(dict.fromkeys(name for own in self.scores.values() for name in own))
        return {
            "name": self.report.run.name,
            "dataset": self.report.run.dataset.name,
            "split": self.report.run.dataset.split,
            "seeds": list(self.seeds),
            "queries": self.report.run.dataset.queries,
            "gallery_macs": self.report.macs.gallery,
            "students": [
                {"name": one.name, "role": one.role, "macs": one.macs.query, "ratio": one.macs.ratio}
                for one in self.students
            ],
            "series": {
                name: {"seeds": list(self.seeds_of(name))} | {key: list(self.by_seed(name, key)) for key in METRICS}
                for name in series
            },
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "turned": [one.to_json() for one in self.turned],
            "arithmetic": {
                key: {name: list(seeds) for name, seeds in of.items()} for key, of in self.arithmetic.items()
            },
        }


def summarise(
    runs: Sequence[Path],
    compare: Sequence[tuple[str, str]] = (),
    *,
    versus: Sequence[Path] = (),
    resamples: int = 2000,
) -> Summary:
    """Put runs of one experiment together: other seeds, and other students of the same gallery models.

    Processors have their arithmetic: runs may differ in precision, and the summary says so.

    Args:
        runs: run directories with ``report.json`` and ``scores.npz``, as ``hetero compat`` writes them.
        compare: pairs of series; by default each compatible student with the paragon and with itself alone
            (homogeneous).
        versus: runs of another experiment on the same queries; the two paragons are compared, too.

    Raises:
        ConfigError: no runs, a student of a seed twice, runs of different experiments, a series that there is not.
        BundleError, CheckpointError: files that are missing or damaged.
    """
    mine = _gathered(runs)
    report, scores, reports = mine.report, mine.scores, mine.reports
    rival, trainings = None, dict[str, int]()
    if versus:
        other = _gathered(versus)
        reports = reports + other.reports
        rival = Rival(other.report.run.name, Cost.of(report.macs.gallery, other.report.macs.gallery))
        _require_same(versus[0], runs[0], "data", _data(other.report), _data(report))
        common = scores.keys() & other.scores.keys()
        if not common:
            raise ConfigError(
                f"{report.run.name} and {other.report.run.name} have no seed in common",
                got=f"seeds {', '.join(map(str, scores))} and {', '.join(map(str, other.scores))}",
                fix="train both with the same seeds",
            )
        for seed in common:
            scores[seed][rival.series] = other.scores[seed][PARAGON]
        trainings[rival.series] = min(len({of[seed] for seed in common}) for of in (mine.spaces, other.spaces))
    pairs = list(compare)
    if not pairs:
        for student in mine.students:
            if student.role == "compatible":
                pairs += [(student.name, PARAGON), (student.name, f"{student.name}/homogeneous")]
    if rival is not None:
        pairs.append((PARAGON, rival.series))
    comparisons = tuple(
        _compared(first, second, metric, scores, resamples, trainings) for first, second in pairs for metric in METRICS
    )
    return Summary(
        report, mine.students, scores, comparisons, mine.turned, rival, mine.mismatched, arithmetic=_arithmetic(reports)
    )


def _compared(
    first: str,
    second: str,
    metric: str,
    scores: Mapping[int, Scores],
    resamples: int,
    trainings: Mapping[str, int],
) -> Comparison:
    for series in (first, second):
        known = sorted({name for own in scores.values() for name in own})
        if series not in known:
            raise ConfigError(f"there is no series {series!r} to compare", expected=nearest(series, known))
    both = [own for own in scores.values() if first in own and second in own]
    if not both:
        raise ConfigError(
            f"{first} and {second} cannot be compared",
            got="no seed that has both",
            fix="train both with one seed",
        )
    one, two = (np.stack([own[series][metric] for own in both]).astype(np.float64) for series in (first, second))
    difference = paired_difference(one.mean(0), two.mean(0), resamples=resamples)
    fewest = min(trainings.get(series, len(both)) for series in (first, second))
    return Comparison(first, second, metric, difference, tuple((one - two).mean(1).tolist()), fewest)


@dataclass(frozen=True)
class _Gathered:
    """The first run's report, and what :class:`Summary` has of all runs; ``spaces`` by seed."""

    report: Report
    students: tuple[Student, ...]
    scores: dict[int, Scores]
    turned: tuple[Turned, ...]
    spaces: dict[int, str]
    mismatched: frozenset[str]
    reports: list[Report]


def _gathered(runs: Sequence[Path]) -> _Gathered:
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
        _require_same(run, runs[0], "data", _data(report), _data(first))
        config: dict[str, Any] = dict(report.run.config)
        seed, gallery = report.run.seed, config["gallery"]
        _require_same(run, runs[0], "gallery models", report.macs.gallery, first.macs.gallery)
        if "checkpoint" not in gallery:
            training = _without_precision(gallery)
            recipe = recipe or (run, training)
            _require_same(run, recipe[0], "training of the gallery model", training, recipe[1])
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
            _require_same(run, known[0], f"training of {student.name}", settings, known[2])
            if student.rotated is not None:
                score = {metric: getattr(student.cells.heterogeneous, metric).value for metric in METRICS}
                turned.append(Turned(student.name, seed, score, student.rotated))
    _require_paired(runs[0], scores)
    return _Gathered(
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


def _arithmetic(reports: Sequence[Report]) -> dict[str, dict[str, list[int]]]:
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


def _data(report: Report) -> tuple[str, str, int, str]:
    data = report.run.dataset
    return data.name, data.split, data.queries, data.protocol


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


def _require_same(run: Path, other: Path, what: str, mine: Any, theirs: Any) -> None:
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
