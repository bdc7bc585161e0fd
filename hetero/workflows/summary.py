"""Several seeds of one experiment as one table: means, spread, and which orderings hold.

An ordering is claimed only where the interval of the paired difference, over the queries and averaged over the seeds,
lies on one side of 0 *and* every single seed is on that side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hetero.errors import ConfigError, nearest
from hetero.report.build import load_report
from hetero.report.schema import Report
from hetero.retrieval.bootstrap import Interval, paired_difference
from hetero.workflows.scores import METRICS, PARAGON, SCORES, load_scores


@dataclass(frozen=True)
class Comparison:
    """``first − second`` in one metric.

    Attributes:
        difference: mean over seeds and queries, with its 95 % interval over queries.
        by_seed: the mean over queries of each seed.
    """

    first: str
    second: str
    metric: str
    difference: Interval
    by_seed: tuple[float, ...]

    @property
    def claimed(self) -> bool:
        """Whether there is an ordering that interval and all seeds agree on; never of a single seed."""
        low, high = self.difference.low, self.difference.high
        if len(self.by_seed) < 2:
            return False
        return (low > 0 and min(self.by_seed) > 0) or (high < 0 and max(self.by_seed) < 0)

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return {
            "first": self.first,
            "second": self.second,
            "metric": self.metric,
            **self.difference.to_json(),
            "by_seed": list(self.by_seed),
            "claimed": self.claimed,
        }


@dataclass(frozen=True)
class Summary:
    """What several seeds of one experiment say.

    Attributes:
        reports: one a seed. scores: of each seed, see :data:`hetero.workflows.scores.Series`.
        comparisons: see :class:`Comparison`.
    """

    reports: tuple[Report, ...]
    scores: tuple[Mapping[str, Mapping[str, np.ndarray]], ...]
    comparisons: tuple[Comparison, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(report.run.seed for report in self.reports)

    def by_seed(self, series: str, metric: str) -> tuple[float, ...]:
        """The mean over queries, of each seed."""
        return tuple(float(one[series][metric].mean()) for one in self.scores)

    def mean(self, series: str, metric: str) -> float:
        """The mean over seeds."""
        return float(np.mean(self.by_seed(series, metric)))

    def to_json(self) -> dict[str, Any]:
        """Plain dict: the seeds, each series' values by seed, costs, comparisons."""
        first = self.reports[0]
        return {
            "seeds": list(self.seeds),
            "queries": first.run.dataset.queries,
            "gallery_macs": first.macs.gallery,
            "students": [
                {"name": one.name, "role": one.role, "macs": one.macs.query, "ratio": one.macs.ratio}
                for one in first.students
            ],
            "series": {
                series: {metric: list(self.by_seed(series, metric)) for metric in METRICS} for series in self.scores[0]
            },
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


def summarise(runs: Sequence[Path], compare: Sequence[tuple[str, str]] = (), *, resamples: int = 2000) -> Summary:
    """Put runs of one experiment with different seeds together.

    Args:
        runs: run directories with ``report.json`` and ``scores.npz``, as ``hetero compat`` writes them.
        compare: pairs of series; by default each compatible student with the paragon and with itself alone
            (homogeneous).

    Raises:
        ConfigError: no runs, a seed twice, runs of different experiments, a series that there is not.
        BundleError, CheckpointError: files that are missing or damaged.
    """
    if not runs:
        raise ConfigError("a summary needs runs", fix="name run directories that hetero compat has scored")
    reports = tuple(load_report(run) for run in runs)
    scores = tuple(load_scores(run / SCORES) for run in runs)
    _require_one_experiment(runs, reports, scores)
    pairs = list(compare)
    if not pairs:
        for student in reports[0].students:
            if student.role == "compatible":
                pairs += [(student.name, PARAGON), (student.name, f"{student.name}/homogeneous")]
    comparisons = tuple(
        _compared(first, second, metric, scores, resamples) for first, second in pairs for metric in METRICS
    )
    return Summary(reports, scores, comparisons)


def _compared(
    first: str,
    second: str,
    metric: str,
    scores: Sequence[Mapping[str, Mapping[str, np.ndarray]]],
    resamples: int,
) -> Comparison:
    for series in (first, second):
        if series not in scores[0]:
            raise ConfigError(f"there is no series {series!r} to compare", expected=nearest(series, scores[0]))
    one, two = (np.stack([seed[series][metric] for seed in scores]).astype(np.float64) for series in (first, second))
    difference = paired_difference(one.mean(0), two.mean(0), resamples=resamples)
    return Comparison(first, second, metric, difference, tuple((one - two).mean(1).tolist()))


def _require_one_experiment(
    runs: Sequence[Path], reports: Sequence[Report], scores: Sequence[Mapping[str, Mapping[str, np.ndarray]]]
) -> None:
    seeds = [report.run.seed for report in reports]
    if len(set(seeds)) != len(seeds):
        raise ConfigError(
            "two runs have the same seed",
            got=", ".join(f"{run}: {seed}" for run, seed in zip(runs, seeds, strict=True)),
            fix="train each with another --set seed=N",
        )
    first = reports[0]
    for run, report, own in zip(runs, reports, scores, strict=True):
        for what, mine, other in (
            ("data", (report.run.dataset.name, report.run.dataset.split, report.run.dataset.queries),
             (first.run.dataset.name, first.run.dataset.split, first.run.dataset.queries)),
            ("students", [(s.name, s.role, s.macs) for s in report.students],
             [(s.name, s.role, s.macs) for s in first.students]),
            ("training", _settings(report), _settings(first)),
            ("series", sorted(own), sorted(scores[0])),
        ):  # fmt: skip
            if mine != other:
                raise ConfigError(
                    f"{run} is no seed of the experiment of {runs[0]}",
                    got=f"other {what}",
                    fix="summarise runs of one config that differ in their seed alone",
                )


def _settings(report: Report) -> dict[str, Any]:
    free = ("name", "seed", "evaluation", "device")
    return {key: value for key, value in report.run.config.items() if key not in free}
