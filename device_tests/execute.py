"""Running one cell on a device: push, run, pull, and what it gave, checked. Nothing is judged here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from device_tests.cells import Cell, Settings
from device_tests.device import Device, Finished, Properties
from device_tests.errors import CommandError, DeviceError, DeviceLostError, DeviceStoppedError, JobError, TransferError
from device_tests.job import FileRef, Job, new_nonce
from device_tests.native import Runner, benchmark_argv, parse_benchmark
from device_tests.outcome import (
    EMBEDDINGS,
    JOB,
    RESULT,
    Conditions,
    Inputs,
    Outcome,
    ok_outcome,
    save_outcome,
)
from device_tests.result import MAX_RESULT_BYTES, DeviceResult, Failure, parse_embeddings, parse_result
from device_tests.workspace import Workspace
from exporters.bundle import Bundle

TRIES = 3  # of a cell: a cable that slips twice is a broken cable
_PROGRAM = "runner"  # what the runner is called on the device
_FAILED = 3  # the exit code of a runner that says in its result why it failed
_NPY_HEADER_BYTES = 4096
_TOLD_EVERY_S = 10.0
_INTERRUPTED = "the check was interrupted"
Say = Callable[[str], object]


def python_runner() -> Runner:
    """``run_job.py``, as it goes to a device."""
    return Runner("python", resources.files("device_tests.runner").joinpath("run_job.py").read_bytes())


def _conditions(device: Device, before_c: float | None) -> Conditions:
    return Conditions(temperature_c=(before_c, device.temperature_c()), battery_percent=device.battery_percent())


def make_job(cell: Cell, bundle: Bundle, inputs: Inputs, settings: Settings, properties: Properties) -> Job:
    """What a device of these properties is asked to do for a cell."""
    return Job(
        nonce=new_nonce(),
        runtime=cell.runtime,
        delegate=cell.delegate,
        threads=settings.threads,
        warmup=settings.warmup,
        device_kind=properties.kind,
        abi=properties.abi,
        # Not the bundle's name for it, which could be that of a module beside the runner.
        model=FileRef(path=f"model.{cell.file.format}", sha256=cell.file.sha256),
        inputs=inputs.refs,
        dim=bundle.manifest.output.dim,
        embeddings=EMBEDDINGS,
        result=RESULT,
    )


@dataclass(frozen=True)
class Executor:
    """Runs cells in a device's folder; ``runner`` is what executes the jobs there."""

    workspace: Workspace
    properties: Properties
    bundle: Bundle
    inputs: Inputs
    settings: Settings
    runner: Runner
    say: Say
    stop: threading.Event

    def run(self, cell: Cell, store: Path) -> Outcome:
        """One cell, tried again where the device or a file was lost on the way: every step may be repeated."""
        device = self.workspace.device
        if self.stop.is_set():
            return Outcome(cell, "failed", _INTERRUPTED)
        for tried in range(1, TRIES + 1):
            try:
                return self._try(cell, store)
            except (DeviceLostError, TransferError) as error:
                if self.stop.is_set():
                    return Outcome(cell, "failed", _INTERRUPTED)
                if tried == TRIES:
                    return self._failed(cell, f"{error} (tried {TRIES} times)")
                self.say(f"{device.name}: {cell.name}: {error}; trying again ({tried + 1} of {TRIES})")
                try:
                    device.reconnect()
                    self.workspace.end_processes()  # a runner may have outlived its connection
                except DeviceError as lost:
                    return self._failed(cell, str(lost))
            except DeviceStoppedError:
                return Outcome(cell, "failed", _INTERRUPTED)
            except DeviceError as error:
                with suppress(DeviceError):
                    self.workspace.end_processes()  # what hung would slow down the cells that follow
                return self._failed(cell, str(error))
        raise AssertionError  # unreachable: the last try returns

    def _failed(self, cell: Cell, reason: str) -> Outcome:
        self.say(f"{self.workspace.device.name}: {cell.name}: failed: {reason}")
        return Outcome(cell, "failed", reason)

    def _try(self, cell: Cell, store: Path) -> Outcome:
        device, model = self.workspace.device, self.bundle.read(cell.file.path)  # which hashes it again
        if self.runner.kind == "python" and device.python is None:
            return self._failed(cell, "this device has no Python: give a --runner, see docs/phones.md")
        job = make_job(cell, self.bundle, self.inputs, self.settings, self.properties)
        self.workspace.ensure(_PROGRAM, self.runner.data, mode=0o755)
        self.workspace.ensure(job.model.path, model)
        if self.runner.kind == "tflite-benchmark":
            return self._benchmark(cell, job)
        for name, data in self.inputs.files.items():
            self.workspace.ensure(name, data)
        self.workspace.ensure(JOB, job.model_dump_json().encode())
        before = device.temperature_c()
        self.say(
            f"{device.name}: {cell.name}: {len(self.inputs.queries)} queries, {len(self.inputs.golden)} golden pictures"
        )
        argv = (f"./{_PROGRAM}", JOB) if self.runner.kind == "job" else (str(device.python), _PROGRAM, JOB)
        self._run(argv, cell)
        raw = self.workspace.fetch(RESULT, limit_bytes=MAX_RESULT_BYTES)
        result = parse_result(raw, job, device=device.name)
        if result.failure is not None:
            return self._refused(cell, result, result.failure)
        embeddings = self.workspace.fetch(EMBEDDINGS, limit_bytes=4 * job.pictures * job.dim + _NPY_HEADER_BYTES)
        vectors = parse_embeddings(embeddings, result, device=device.name)
        conditions = Conditions(
            temperature_c=(before, device.temperature_c()), battery_percent=device.battery_percent()
        )
        save_outcome(store, job, raw, embeddings, conditions)
        return ok_outcome(cell, self.inputs, result, vectors, conditions)

    def _benchmark(self, cell: Cell, job: Job) -> Outcome:
        argv = benchmark_argv(
            f"./{_PROGRAM}", job.model.path, threads=job.threads, warmup=job.warmup, delegate=job.delegate
        )
        if cell.file.format != "tflite" or argv is None:
            what = "TFLite files" if argv else f"no {job.delegate}"
            return Outcome(cell, "not run", f"TFLite's benchmark tool runs {what}")
        device, before = self.workspace.device, self.workspace.device.temperature_c()
        ended = self._run(argv, cell)
        found = parse_benchmark(ended.stdout + ended.stderr)
        if found is None:
            raise JobError(
                "the benchmark tool printed no summary",
                device=device.name,
                command=argv,
                got=ascii((ended.stdout + ended.stderr)[-200:]),
                expected="a line count=… min=… max=… avg=…",
            )
        conditions = Conditions(
            temperature_c=(before, device.temperature_c()), battery_percent=device.battery_percent()
        )
        return Outcome(
            cell, "latency only", "a benchmark tool gives no embeddings", benchmark=found, conditions=conditions
        )

    def _run(self, argv: Sequence[str], cell: Cell) -> Finished:
        ended = self.workspace.run(argv, timeout_s=self.settings.timeout_s, on_line=self._teller(cell), stop=self.stop)
        if ended.exit_code == 0 or (ended.exit_code == _FAILED and self.runner.kind != "tflite-benchmark"):
            return ended
        said = (ended.stderr or ended.stdout).strip().splitlines()
        raise CommandError(
            "the runner ended without a result",
            device=self.workspace.device.name,
            command=argv,
            exit_code=ended.exit_code,
            got=ascii(said[-1])[:300] if said else None,
            fix="above 128 an exit code is a signal: 137 is memory running out, 139 a crash of the runtime",
        )

    def _teller(self, cell: Cell) -> Callable[[str], None]:
        told = time.monotonic()

        def tell(line: str) -> None:
            nonlocal told
            if time.monotonic() - told < _TOLD_EVERY_S:
                return
            try:
                progress = json.loads(line)
                done, total = int(progress["done"]), int(progress["total"])
            except (ValueError, TypeError, KeyError):
                return
            told = time.monotonic()
            self.say(f"{self.workspace.device.name}: {cell.name}: {done} of {total}")

        return tell

    def _refused(self, cell: Cell, result: DeviceResult, failure: Failure) -> Outcome:
        if failure.kind in ("no-runtime", "no-delegate"):
            self.say(f"{self.workspace.device.name}: {cell.name}: not run: {failure.message}")
            return Outcome(cell, "not run", failure.message, result)
        self.say(f"{self.workspace.device.name}: {cell.name}: failed: {failure.message}")
        return Outcome(cell, "failed", f"{failure.kind}: {failure.message}", result)
