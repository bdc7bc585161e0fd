"""Several runs of one experiment as one table: means over seeds, spread, and which orderings hold.

An ordering is claimed only where two intervals of the paired difference lie on one side of 0: the bootstrap's over the
queries, of the mean over the seeds, which knows nothing of other trainings, and Student's over the trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hetero.errors import ConfigError, nearest
from hetero.report.schema import Cost, Report, Student
from hetero.retrieval.bootstrap import Interval, paired_difference
from hetero.retrieval.trainings import over_trainings
from hetero.workflows.experiment import Scores, Turned, differing_precisions, read_experiment, require_same, searched
from hetero.workflows.scores import METRICS, PARAGON

_LEAST_TRAININGS = 3  # the interval over two has no width where their differences happen to be equal


@dataclass(frozen=True)
class Comparison:
    """``first − second`` in one metric.

    Attributes:
        difference: mean over seeds and queries, with its 95 % interval over queries.
        by_seed: the mean over queries of each seed that has both.
        trainings: how often what is compared was trained: as many as seeds, or fewer where a gallery model is compared
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
        comparisons: see :class:`Comparison`. turned: see
            :class:`hetero.workflows.experiment.Turned`. rival: see :class:`Rival`.
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
    mine = read_experiment(runs)
    report, scores, reports = mine.report, mine.scores, mine.reports
    rival, galleries = None, {PARAGON: [mine.spaces]}
    if versus:
        other = read_experiment(versus)
        reports = reports + other.reports
        rival = Rival(other.report.run.name, Cost.of(report.macs.gallery, other.report.macs.gallery))
        require_same(versus[0], runs[0], "data", searched(other.report), searched(report))
        common = scores.keys() & other.scores.keys()
        if not common:
            raise ConfigError(
                f"{report.run.name} and {other.report.run.name} have no seed in common",
                got=f"seeds {', '.join(map(str, scores))} and {', '.join(map(str, other.scores))}",
                fix="train both with the same seeds",
            )
        for seed in common:
            scores[seed][rival.series] = other.scores[seed][PARAGON]
        galleries[rival.series] = [mine.spaces, other.spaces]
    pairs = list(compare)
    if not pairs:
        for student in mine.students:
            if student.role == "compatible":
                pairs += [(student.name, PARAGON), (student.name, f"{student.name}/homogeneous")]
    if rival is not None:
        pairs.append((PARAGON, rival.series))
    comparisons = tuple(
        _compared(first, second, metric, scores, resamples, galleries) for first, second in pairs for metric in METRICS
    )
    return Summary(
        report,
        mine.students,
        scores,
        comparisons,
        mine.turned,
        rival,
        mine.mismatched,
        differing_precisions(reports),
    )


def _compared(
    first: str,
    second: str,
    metric: str,
    scores: Mapping[int, Scores],
    resamples: int,
    galleries: Mapping[str, Sequence[Mapping[int, str]]],
) -> Comparison:
    for series in (first, second):
        known = sorted({name for own in scores.values() for name in own})
        if series not in known:
            raise ConfigError(f"there is no series {series!r} to compare", expected=nearest(series, known))
    both = {seed: own for seed, own in scores.items() if first in own and second in own}
    if not both:
        raise ConfigError(
            f"{first} and {second} cannot be compared",
            got="no seed that has both",
            fix="train both with one seed",
        )
    one, two = (
        np.stack([own[series][metric] for own in both.values()]).astype(np.float64) for series in (first, second)
    )
    difference = paired_difference(one.mean(0), two.mean(0), resamples=resamples)
    models = [of for series in (first, second) for of in galleries.get(series, ())]
    fewest = min([len(both), *(len({of[seed] for seed in both}) for of in models)])
    return Comparison(first, second, metric, difference, tuple((one - two).mean(1).tolist()), fewest)
