"""The check: a bundle, a gallery and devices in; a verdict for each device, runtime, delegate and precision out."""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

import hetero
from device_tests.cells import Cell, Settings, choose_cells, host_runtimes
from device_tests.device import Device
from device_tests.job import RUNTIMES
from device_tests.judge import Judge, overall
from device_tests.local import LocalDevice
from device_tests.native import Runner
from device_tests.outcome import Inputs, Outcome
from device_tests.queries import QuerySet
from device_tests.run import DeviceRun, run_device
from device_tests.schema import DeviceRecord, DeviceReport
from exporters.bundle import Bundle
from exporters.verify import file_golden, golden_arrays
from exporters.workers import is_installed
from hetero import atomic
from hetero.errors import MissingExtraError
from hetero.retrieval.gallery import Gallery

Say = Callable[[str], object]


@dataclass(frozen=True)
class Checked:
    """The report, and by device and cell name what was embedded there, ``float32 [queries, dim]``."""

    report: DeviceReport
    embeddings: Mapping[tuple[str, str], np.ndarray]


def run_check(
    bundle: Bundle,
    gallery: Gallery,
    queries: QuerySet,
    devices: Mapping[str, Callable[[], Device]],
    out: Path,
    *,
    cells: Sequence[Cell] | None = None,
    settings: Settings | None = None,
    runner: Runner | None = None,
    say: Say = lambda line: None,
) -> Checked:
    """Run a bundle's files on devices, all devices at the same time, and judge what they embedded.

    The bundle was opened with the gallery's space (:func:`exporters.open_bundle` with ``expected_space``), so nothing
    of another space is ever pushed. Finished cells are kept in ``out`` and not run again by a later call.

    Args:
        devices: by name, how each is opened: called in a thread of its own.
        cells: with None, all that the bundle has.
        runner: a native program instead of Python on the device.

    Raises:
        MissingExtraError: no runtime on this host can run one of the files, so that there is nothing to compare with.
        BundleError: the golden arrays cannot be read.
    """
    cells = choose_cells(bundle) if cells is None else cells
    settings = settings or Settings()
    pixels, _ = golden_arrays(bundle)
    inputs = Inputs(pixels, queries.pixels)
    store = out / "cells"
    references = _references(cells)
    atomic.write_text(store / ".keep", "")  # no device is touched for results that could not be kept
    stop = threading.Event()
    with ThreadPoolExecutor(len(devices) + 1) as pool, _stopping(stop):
        wanted = list({one.name: one for one in references.values()}.values())
        hosted = pool.submit(
            run_device,
            partial(LocalDevice, name="host"),
            "host",
            bundle,
            wanted,
            inputs,
            settings,
            store,
            say=say,
            stop=stop,
        )
        runs = [
            pool.submit(
                run_device, opened, name, bundle, cells, inputs, settings, store, runner=runner, say=say, stop=stop
            )
            for name, opened in devices.items()
        ]
        host = {outcome.cell.name: outcome for outcome in hosted.result().outcomes}
        found = [run.result() for run in runs]
    judge = Judge(queries, bundle.manifest.thresholds, {one.file.path: file_golden(bundle, one.file) for one in cells})
    compared = {name: host[one.name] for name, one in references.items()}
    embeddings = {
        (run.name, outcome.cell.name): outcome.queries
        for run in found
        for outcome in run.outcomes
        if outcome.queries is not None
    }
    return Checked(_report(bundle, gallery, queries, found, compared, judge, settings), embeddings)


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Interrupted, let every device end what it runs and clean up, which the pool waits for."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def _references(cells: Sequence[Cell]) -> dict[str, Cell]:
    """By a cell's name the cell that the host runs to compare with it."""
    installed = [name for name in RUNTIMES if is_installed(name)]
    found = {}
    for cell in cells:
        runtimes = host_runtimes(cell, installed)
        if not runtimes:
            raise MissingExtraError(f"running {cell.file.path} on this host, to compare with", cell.runtime, "device")
        found[cell.name] = Cell(cell.file, runtimes[0], "auto")
    return found


def _report(
    bundle: Bundle,
    gallery: Gallery,
    queries: QuerySet,
    runs: Sequence[DeviceRun],
    host: Mapping[str, Outcome],
    judge: Judge,
    settings: Settings,
) -> DeviceReport:
    cells = tuple(
        judge.cell(run, outcome, host[outcome.cell.name], threads=settings.threads)
        for run in runs
        for outcome in run.outcomes
    )
    return DeviceReport(
        bundle=str(bundle.path),
        bundle_sha256=hashlib.sha256(bundle.raw).hexdigest(),
        space_id=bundle.space.id,
        gallery=str(gallery.path),
        gallery_model_sha256=gallery.record.model_weights_sha256,
        data=queries.name,
        queries=len(queries.pixels),
        queries_in_gallery=queries.in_gallery,
        gallery_size=len(queries.gallery),
        hetero_version=hetero.__version__,
        host=f"{platform.system()} {platform.machine()}",
        verdict=overall(cells),
        devices=tuple(_device(run) for run in runs),
        cells=cells,
    )


def _device(run: DeviceRun) -> DeviceRecord:
    known = run.properties
    return DeviceRecord(
        name=run.name,
        kind=known.kind if known else None,
        abi=known.abi if known else None,
        model=known.model if known else None,
        system=known.system if known else None,
        error=run.error,
        leftovers=run.leftovers,
    )
