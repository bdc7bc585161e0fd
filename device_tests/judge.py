"""The verdict on a cell: do the embeddings computed on the device find what they should in the gallery?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_tests.outcome import Conditions, Outcome
from device_tests.queries import QuerySet
from device_tests.run import DeviceRun
from device_tests.schema import (
    METRICS,
    CellRecord,
    Flip,
    Golden,
    Interval,
    LatencyRecord,
    Measured,
    Metric,
    Search,
    ThresholdCheck,
    Verdict,
)
from exporters.manifest import ModelFile
from hetero.retrieval import bootstrap
from hetero.retrieval.compat import chance_level
from hetero.retrieval.flips import find_flips
from hetero.retrieval.metrics import Scores, score, similarity_blocks
from hetero.retrieval.verification import Threshold, accept_rates

FALSE_ACCEPT_RATIO, TRUE_ACCEPT_LOSS = 1.25, 0.02
"""At a calibrated similarity, what a device may do to the host's accept rates: the limits that exports are held to."""
FEWEST_ACCEPTED = 10  # pairs: of fewer, one more or less is no ratio to go by
_ROUNDING = 1e-9
LEAST_OF_PARAGON = 0.5
"""A query model that finds less than half of what the gallery model finds is none of this space, whatever its name."""


@dataclass(frozen=True)
class Limits:
    """What a cell is held to.

    Attributes:
        min_cosine: of the device's and the host's embedding of any query.
        same_top: share of the queries whose first match is the same.
    """

    min_cosine: float
    same_top: float


_FP32 = Limits(0.9999, 0.99)  # another order of the sums costs 1e-7 of a cosine
_FP16 = Limits(0.999, 0.98)  # rounding each result to half precision in another order: 1e-4
_INT8 = Limits(0.99, 0.97)  # kernels round integers differently by one step, which a deep network carries along
_LIMITS = {"fp32": _FP32, "fp16": _FP16}


def limits_of(file: ModelFile) -> Limits:
    """The limits for a file's precision."""
    return _LIMITS.get(file.precision, _INT8)


@dataclass(frozen=True)
class Judge:
    """Judges cells in one set of queries.

    Args:
        thresholds: the bundle's calibrated similarities; may be none.
        golden: by a file's path, the bundle's own embeddings of the golden pictures, ``float32 [n, dim]``.
    """

    queries: QuerySet
    thresholds: tuple[Threshold, ...]
    golden: dict[str, np.ndarray]

    def cell(self, run: DeviceRun, outcome: Outcome, host: Outcome | None, *, threads: int) -> CellRecord:
        """The record of a cell, with its verdict.

        Args:
            host: the same file on the host; None or not ``ok``: there is nothing to compare with, a failure.
            threads: that the runtime was given.
        """
        result, file = outcome.result, outcome.cell.file
        conditions = outcome.conditions or Conditions()
        measured, reasons = None, [outcome.reason] if outcome.reason else []
        status = "passed" if outcome.status == "ok" else outcome.status
        if outcome.status == "ok" and (host is None or host.status != "ok"):
            reasons.append(f"the same file does not run on the host: {host.reason if host else 'no runtime'}")
        elif outcome.status == "ok" and host is not None:
            measured = self._measure(outcome, host)
            reasons += verdict(measured, limits_of(file))
        if reasons and status == "passed":
            status = "failed"
        return CellRecord.model_validate(
            {
                "device": run.name,
                "format": file.format,
                "precision": file.precision,
                "path": file.path,
                "runtime": outcome.cell.runtime,
                "runtime_version": result.runtime.version if result is not None else None,
                "delegate_asked": outcome.cell.delegate,
                "delegate": result.delegate if result is not None else None,
                "status": status,
                "reasons": tuple(reasons),
                "resumed": outcome.resumed,
                "measured": measured,
                "latency_ms": _latency(run, outcome),
                "threads": threads,
                "peak_rss_bytes": result.peak_rss_bytes if result is not None else None,
                "temperature_c": conditions.temperature_c,
                "battery_percent": conditions.battery_percent,
            }
        )

    def _measure(self, outcome: Outcome, host: Outcome) -> Measured:
        queries, result = self.queries, host.result
        assert outcome.queries is not None  # noqa: S101  (both are ok)
        assert host.queries is not None  # noqa: S101
        assert result is not None  # noqa: S101
        ours, theirs = self._score(outcome.queries), self._score(host.queries)
        cosines = _cosines(outcome.queries, host.queries)
        tops = self._tops(outcome.queries), self._tops(host.queries)
        flips = find_flips(theirs.r_at_1, ours.r_at_1)
        changed = np.flatnonzero(tops[0] != tops[1])
        paragon = None if queries.paragon is None else _search(ours, self._score(queries.paragon))
        value = bootstrap.interval(ours.r_at_1)
        return Measured(
            queries=len(queries.pixels),
            min_cosine=float(cosines.min()),
            mean_cosine=float(cosines.mean()),
            same_top=float((tops[0] == tops[1]).mean()),
            host_runtime=f"{result.runtime.name} {result.runtime.version}",
            host=_search(ours, theirs),
            paragon=paragon,
            no_paragon=queries.no_paragon,
            chance_r_at_1=chance_level(queries.protocol),
            r_at_1=Interval(**value.to_json()),
            flips=tuple(self._flip(int(number), tops, float(cosines[number])) for number in changed),
            lost=len(flips.lost),
            won=len(flips.won),
            mcnemar_p=flips.p_value,
            golden=self._golden(outcome, host),
            thresholds=self._thresholds(outcome.queries, host.queries),
        )

    def _score(self, vectors: np.ndarray) -> Scores:
        return score(vectors, self.queries.gallery, self.queries.protocol)

    def _tops(self, vectors: np.ndarray) -> np.ndarray:
        """The gallery row that each query finds first, ``int64 [q]``; of equals the first row."""
        numbers = np.arange(len(vectors))
        blocks = similarity_blocks(vectors, self.queries.gallery, self.queries.protocol, numbers)
        return np.concatenate([similarities.argmax(axis=1) for _, similarities in blocks])

    def _flip(self, number: int, tops: tuple[np.ndarray, np.ndarray], cosine: float) -> Flip:
        queries = self.queries
        label = queries.protocol.query_labels[number]
        device, host = (int(rows[number]) for rows in tops)
        return Flip(
            query=queries.ids[number],
            number=number,
            host=queries.gallery_ids[host],
            device=queries.gallery_ids[device],
            host_right=bool(queries.protocol.gallery_labels[host] == label),
            device_right=bool(queries.protocol.gallery_labels[device] == label),
            cosine=cosine,
        )

    def _golden(self, outcome: Outcome, host: Outcome) -> Golden:
        own = self.golden[outcome.cell.file.path].astype(np.float64)
        assert outcome.golden is not None  # noqa: S101  (it is ok)
        return Golden(
            max_abs=float(np.abs(outcome.golden - own).max()),
            limit=outcome.cell.file.golden.max_abs,
            min_cosine=float(_cosines(outcome.golden, own).min()),
            host_max_abs=None if host.golden is None else float(np.abs(host.golden - own).max()),
        )

    def _thresholds(self, device: np.ndarray, host: np.ndarray) -> tuple[ThresholdCheck, ...]:
        if not self.thresholds:
            return ()
        similarities = tuple(threshold.similarity for threshold in self.thresholds)
        protocol = self.queries.protocol
        ours, theirs = (accept_rates(side, self.queries.gallery, protocol, similarities) for side in (device, host))
        return tuple(
            ThresholdCheck(
                false_accept_rate=threshold.far,
                similarity=threshold.similarity,
                device_true_accepts=own[0].value,
                host_true_accepts=other[0].value,
                recorded_true_accepts=threshold.true_accept_rate.value,
                device_false_accepts=own[1].value,
                host_false_accepts=other[1].value,
                genuine_pairs=own[2],
                impostor_pairs=own[3],
            )
            for threshold, own, other in zip(self.thresholds, ours, theirs, strict=True)
        )


def verdict(measured: Measured, limits: Limits) -> list[str]:
    """Why a cell fails, one line each with the number and its limit; empty: it passes."""
    golden, r_at_1 = measured.golden, measured.host.r_at_1
    reasons = []
    if golden.max_abs > golden.limit:
        everywhere = golden.host_max_abs is not None and golden.host_max_abs > golden.limit
        cause = ", and on the host too: this is not the file that the bundle was made with" if everywhere else ""
        reasons.append(
            f"golden embeddings are off by {golden.max_abs:.3g} (at most {golden.limit:g}; smallest cosine "
            f"{golden.min_cosine:.4f}){cause}"
        )
    if measured.min_cosine < limits.min_cosine:
        reasons.append(
            f"smallest cosine to the host's embedding {measured.min_cosine:.6f} (at least {limits.min_cosine})"
        )
    # One query is always allowed: a near tie is no defect, and of 50 queries it is 2 %.
    if len(measured.flips) > max(1.0, (1 - limits.same_top) * measured.queries + _ROUNDING):
        reasons.append(
            f"{measured.same_top:.1%} of the queries find the same first match (at least {limits.same_top:.0%})"
        )
    if not r_at_1.difference.low <= 0 <= r_at_1.difference.high:
        reasons.append(f"R@1 differs from the host's by {_signed(r_at_1.difference)}")
    reasons += _useless(measured)
    for one in measured.thresholds:
        reasons += _decalibrated(one)
    return reasons


def _useless(measured: Measured) -> list[str]:
    """Whether the file finds nothing in this gallery, on whatever it runs."""
    found, chance = measured.r_at_1, measured.chance_r_at_1
    if found.low <= chance:
        interval = f"[{found.low:.4f}, {found.high:.4f}]"
        why = "more queries, or a model of another space"
        return [f"R@1 {found.value:.4f} {interval} is not told from chance ({chance:.4f}): {why}"]
    if measured.paragon is None:
        return []
    best = measured.paragon.r_at_1.other
    if found.value < LEAST_OF_PARAGON * best:
        return [f"R@1 {found.value:.4f} is less than half of the gallery model's {best:.4f}: not a model of this space"]
    return []


def _decalibrated(one: ThresholdCheck) -> list[str]:
    least = FEWEST_ACCEPTED / one.impostor_pairs
    ratio = max(one.device_false_accepts, least) / max(one.host_false_accepts, least)
    where = f"at the similarity for {one.false_accept_rate:g} false accepts it takes"
    reasons = []
    loss = max(TRUE_ACCEPT_LOSS, 1 / one.genuine_pairs) + _ROUNDING  # one pair is always allowed
    if one.device_true_accepts < one.host_true_accepts - loss:
        rates = f"{one.device_true_accepts:.4f} of the right pairs, the host {one.host_true_accepts:.4f}"
        reasons.append(f"{where} {rates} (at most {TRUE_ACCEPT_LOSS:g} less)")
    if ratio > FALSE_ACCEPT_RATIO:
        rates = f"{one.device_false_accepts:.2e} of the wrong pairs, the host {one.host_false_accepts:.2e}"
        reasons.append(f"{where} {rates} (at most {FALSE_ACCEPT_RATIO:g} times)")
    return reasons


def _search(ours: Scores, others: Scores) -> Search:
    found = {}
    for metric in METRICS:
        device, other = ours.per_query(metric), others.per_query(metric)
        difference = bootstrap.paired_difference(device, other)
        found[metric] = Metric(
            device=float(device.mean()), other=float(other.mean()), difference=Interval(**difference.to_json())
        )
    return Search(**found)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of rows ``[n, dim]`` that are not zero, ``float64 [n]``; no float32 row is of unit length to the last digit."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    found: np.ndarray = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return found


def _latency(run: DeviceRun, outcome: Outcome) -> LatencyRecord | None:
    quoted = run.properties is not None and run.properties.kind == "android-physical"
    if outcome.benchmark is not None:
        found = outcome.benchmark
        return LatencyRecord(
            mean=found.mean_ms, median=None, p90=None, p99=None, each=(), load=found.load_ms, quoted=quoted
        )
    if outcome.result is None or outcome.result.latency_ms is None:
        return None
    timed, load = outcome.result.latency_ms, outcome.result.load_ms
    return LatencyRecord(mean=float(np.mean(timed.each)), **timed.model_dump(), load=load, quoted=quoted)


def _signed(one: Interval) -> str:
    return f"{one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"


def overall(cells: Sequence[CellRecord]) -> Verdict:
    """``failed`` where a cell failed or a device ran nothing; ``not judged`` where nothing but latency was measured."""
    ran = {cell.device for cell in cells if cell.status in ("passed", "latency only")}
    if any(cell.status == "failed" for cell in cells) or {cell.device for cell in cells} != ran:
        return "failed"
    return "passed" if any(cell.status == "passed" for cell in cells) else "not judged"
