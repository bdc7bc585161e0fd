"""``result.json`` of a device check: every cell of device, runtime, delegate and precision, and what was measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from device_tests.device import DeviceKind
from device_tests.job import DelegateName, Record
from device_tests.result import DelegateRecord

REPORT_SCHEMA = 1
CellStatus = Literal["passed", "failed", "not run", "latency only"]
Verdict = Literal["passed", "failed", "not judged"]
METRICS = ("r_at_1", "r_at_5", "map_at_r")


class Interval(Record):
    """A value with its 95 % bootstrap interval over queries."""

    value: float
    low: float
    high: float


class Metric(Record):
    """One retrieval metric: the device's, the other side's, and the paired difference (device less other)."""

    device: float
    other: float
    difference: Interval


class Search(Record):
    """How the device's embeddings search the gallery, against another set of embeddings of the same queries."""

    r_at_1: Metric
    r_at_5: Metric
    map_at_r: Metric


class Flip(Record):
    """A query whose first match is another one on the device than on the host.

    ``host`` and ``device`` are the gallery pictures found first; ``host_right`` and ``device_right``: of the query's
    class. ``number`` is the query's in the check.
    """

    query: str
    number: int = Field(ge=0)
    host: str
    device: str
    host_right: bool
    device_right: bool
    cosine: float

    @property
    def names(self) -> tuple[str, str, str]:
        """The pictures it is about."""
        return self.query, self.host, self.device


class Golden(Record):
    """The device's embeddings of the golden pictures against those that the bundle has of this file."""

    max_abs: float = Field(ge=0)
    limit: float = Field(gt=0)
    min_cosine: float
    host_max_abs: float | None


class ThresholdCheck(Record):
    """Accept rates at one of the bundle's calibrated similarities: on the device, on the host, and as recorded."""

    false_accept_rate: float
    similarity: float
    device_true_accepts: float
    host_true_accepts: float
    recorded_true_accepts: float
    device_false_accepts: float
    host_false_accepts: float
    genuine_pairs: int
    impostor_pairs: int


class Measured(Record):
    """What was measured of a cell that ran.

    Attributes:
        min_cosine, mean_cosine: of the device's and the host's embedding of a query, over the queries.
        same_top: share of the queries with the same first match on both.
        host_runtime: which runtime ran on the host.
        mcnemar_p: two-sided exact test that as many queries were lost as won.
        no_paragon: why ``paragon`` is absent.
    """

    queries: int = Field(gt=0)
    min_cosine: float
    mean_cosine: float
    same_top: float = Field(ge=0, le=1)
    host_runtime: str
    host: Search
    paragon: Search | None
    no_paragon: str | None
    chance_r_at_1: float
    r_at_1: Interval
    flips: tuple[Flip, ...]
    lost: int = Field(ge=0)
    won: int = Field(ge=0)
    mcnemar_p: float = Field(ge=0, le=1)
    golden: Golden
    thresholds: tuple[ThresholdCheck, ...]


class LatencyRecord(Record):
    """Milliseconds an embedding on the device; ``quoted``: it is a phone's, and worth looking at.

    A benchmark tool gives a mean and neither quantiles nor ``each`` picture's.
    """

    mean: float
    median: float | None
    p90: float | None
    p99: float | None
    each: tuple[float, ...]
    load: float | None
    quoted: bool


class CellRecord(Record):
    """One cell and its verdict; ``reasons`` say why it failed or was not run.

    ``delegate`` is None where nothing ran; ``delegate_asked`` is always known.
    """

    device: str
    format: str
    precision: str
    path: str
    runtime: str
    runtime_version: str | None
    delegate_asked: DelegateName
    delegate: DelegateRecord | None
    status: CellStatus
    reasons: tuple[str, ...]
    resumed: bool
    measured: Measured | None
    latency_ms: LatencyRecord | None
    threads: int
    peak_rss_bytes: int | None
    temperature_c: tuple[float | None, float | None]
    battery_percent: float | None

    @property
    def name(self) -> str:
        """``emulator, tflite int8, ai-edge-litert``, and the delegate where one was asked for."""
        asked = "" if self.delegate_asked == "auto" else f", {self.delegate_asked}"
        return f"{self.device}, {self.format} {self.precision}, {self.runtime}{asked}"


class DeviceRecord(Record):
    """One device; ``error`` is why it could not be used, ``leftovers`` are folders that are still on it."""

    name: str
    kind: DeviceKind | None
    abi: str | None
    model: str | None
    system: str | None
    error: str | None
    leftovers: tuple[str, ...]


class DeviceReport(Record):
    """The whole check; ``not judged``: nothing failed, and only latency was measured."""

    schema_version: Literal[1] = 1
    bundle: str
    bundle_sha256: str
    space_id: str
    gallery: str
    gallery_model_sha256: str
    data: str
    queries: int
    queries_in_gallery: int
    gallery_size: int
    hetero_version: str
    host: str
    verdict: Verdict
    devices: tuple[DeviceRecord, ...]
    cells: tuple[CellRecord, ...]

    @property
    def passed(self) -> bool:
        """Whether every device found what it should."""
        return self.verdict == "passed"
