"""Running cells on one device: push, run, pull, and what the device gave, checked. Nothing is judged here."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np

from device_tests.cells import Cell, Settings, cell_key
from device_tests.device import Device, Finished, Properties
from device_tests.errors import CommandError, DeviceError, DeviceLostError, JobError, TransferError
from device_tests.job import Job, PixelsRef, new_nonce, ref
from device_tests.result import MAX_RESULT_BYTES, DeviceResult, parse_embeddings, parse_result
from device_tests.workspace import Workspace, sweep
from exporters.bundle import Bundle
from hetero import atomic

TRIES = 3  # of a cell: a cable that slips twice is a broken cable
RUNNER, JOB, RESULT, EMBEDDINGS = "run_job.py", "job.json", "result.json", "embeddings.npy"
_OK, _FAILED = 0, 3  # the runner's exit codes that come with a result
_TOLD_EVERY_S = 10.0
Say = Callable[[str], object]


@dataclass(frozen=True)
class Inputs:
    """What every cell embeds: the golden pictures, then the queries, both ``uint8 [n, h, w, c]``."""

    golden: np.ndarray
    queries: np.ndarray
    files: dict[str, bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        files = {"golden.npy": _npy(self.golden), "queries.npy": _npy(self.queries)}
        object.__setattr__(self, "files", files)

    @property
    def refs(self) -> tuple[PixelsRef, ...]:
        """Their entries in a job."""
        shapes = {"golden.npy": self.golden.shape, "queries.npy": self.queries.shape}
        return tuple(PixelsRef(**ref(name, data).model_dump(), shape=shapes[name]) for name, data in self.files.items())


@dataclass(frozen=True)
class Outcome:
    """What became of one cell on one device.

    Attributes:
        status: ``ok``: there are embeddings; ``not run``: it cannot be run there; ``failed``: it should have worked.
        reason: why it is not ``ok``.
        golden, queries: ``float32 [n, dim]``; None where not ``ok``.
        resumed: it was finished by an earlier call.
    """

    cell: Cell
    status: str
    reason: str | None = None
    result: DeviceResult | None = None
    golden: np.ndarray | None = None
    queries: np.ndarray | None = None
    temperature_c: tuple[float | None, float | None] = (None, None)
    battery_percent: float | None = None
    resumed: bool = False


@dataclass(frozen=True)
class DeviceRun:
    """Everything one device did. ``error`` is what ended it before its cells, ``leftovers`` is what is still on it."""

    name: str
    properties: Properties | None
    outcomes: tuple[Outcome, ...]
    error: str | None = None
    leftovers: tuple[str, ...] = ()


def run_device(
    open_device: Callable[[], Device],
    name: str,
    bundle: Bundle,
    cells: Sequence[Cell],
    inputs: Inputs,
    settings: Settings,
    store: Path,
    *,
    runner: bytes | None = None,
    say: Say = lambda line: None,
) -> DeviceRun:
    """Run cells on one device, those that ``store`` has finished excepted, and leave nothing on it.

    Never raises for what a device does: what failed is in the outcomes.

    Args:
        runner: a native program to be run instead of Python with ``run_job.py``; it follows the same contract.
    """
    try:
        device = open_device()
        properties = device.properties()
        leftovers = sweep(device, say=say)
    except DeviceError as error:
        say(f"{name}: {error}")
        return DeviceRun(name, None, tuple(Outcome(cell, "failed", str(error)) for cell in cells), str(error))
    program = runner if runner is not None else runner_source()
    digest = hashlib.sha256(program).hexdigest()
    hashes = [entry.sha256 for entry in inputs.refs]
    keys = [cell_key(bundle, cell, settings, properties, hashes, digest) for cell in cells]
    outcomes: dict[int, Outcome] = {}
    for place, (cell, key) in enumerate(zip(cells, keys, strict=True)):
        reason = cell.impossible(properties)
        found = Outcome(cell, "not run", reason) if reason else _stored(store / key, cell, inputs)
        if found is not None:
            say(f"{name}: {cell.name}: {reason or 'finished before'}")
            outcomes[place] = found
    todo = [place for place in range(len(cells)) if place not in outcomes]
    if todo:
        with Workspace(device, say=say) as workspace:
            executor = _Executor(workspace, properties, bundle, inputs, settings, program, runner is not None, say)
            for place in todo:
                outcomes[place] = executor.run(cells[place], store / keys[place])
        if workspace.leftover is not None:
            leftovers.append(f"{workspace.folder}: {workspace.leftover}")
    return DeviceRun(name, properties, tuple(outcomes[place] for place in range(len(cells))), None, tuple(leftovers))


def runner_source() -> bytes:
    """The runner, as it goes to a device."""
    return resources.files("device_tests.runner").joinpath(RUNNER).read_bytes()


@dataclass(frozen=True)
class _Executor:
    workspace: Workspace
    properties: Properties
    bundle: Bundle
    inputs: Inputs
    settings: Settings
    program: bytes
    native: bool
    say: Say

    def run(self, cell: Cell, store: Path) -> Outcome:
        """One cell, tried again where the device or a file was lost on the way: every step may be repeated."""
        device = self.workspace.device
        for tried in range(1, TRIES + 1):
            try:
                return self._try(cell, store)
            except (DeviceLostError, TransferError) as error:
                if tried == TRIES:
                    return self._failed(cell, f"{error} (tried {TRIES} times)")
                self.say(f"{device.name}: {cell.name}: {error}; trying again ({tried + 1} of {TRIES})")
                try:
                    device.reconnect()
                except DeviceError as lost:
                    return self._failed(cell, str(lost))
            except DeviceError as error:
                return self._failed(cell, str(error))
        raise AssertionError  # unreachable: the last try returns

    def _failed(self, cell: Cell, reason: str) -> Outcome:
        self.say(f"{self.workspace.device.name}: {cell.name}: failed: {reason}")
        return Outcome(cell, "failed", reason)

    def _try(self, cell: Cell, store: Path) -> Outcome:
        workspace, device = self.workspace, self.workspace.device
        model = self.bundle.read(cell.file.path)  # hashed again: what is pushed is what the manifest lists
        job = self._job(cell, model)
        program = "runner" if self.native else RUNNER
        workspace.ensure(program, self.program, mode=0o755)
        for name, data in self.inputs.files.items():
            workspace.ensure(name, data)
        workspace.ensure(job.model.path, model)
        workspace.ensure(JOB, job.model_dump_json().encode())
        if not self.native and device.python is None:
            reason = "this device has no Python: give a --runner, see docs/phones.md"
            return self._failed(cell, reason)
        argv = (f"./{program}", JOB) if self.native else (str(device.python), program, JOB)
        before = device.temperature_c()
        self.say(f"{device.name}: {cell.name}: {job.pictures} pictures")
        ended = workspace.run(argv, timeout_s=self.settings.timeout_s, on_line=self._teller(cell))
        if ended.exit_code not in (_OK, _FAILED):
            raise self._crashed(argv, ended)
        raw = workspace.fetch(RESULT, limit_bytes=MAX_RESULT_BYTES)
        result = parse_result(raw, job, device=device.name)
        if result.status == "failed":
            return self._refused(cell, result)
        size = job.pictures * job.dim * 4 + 4096
        vectors_raw = workspace.fetch(EMBEDDINGS, limit_bytes=size)
        parse_embeddings(vectors_raw, result, device=device.name)
        conditions = {
            "temperature_c": [before, device.temperature_c()],
            "battery_percent": device.battery_percent(),
        }
        with atomic.directory(store, marker=RESULT) as folder:
            (folder / JOB).write_bytes(job.model_dump_json(indent=2).encode())
            (folder / EMBEDDINGS).write_bytes(vectors_raw)
            (folder / "conditions.json").write_text(json.dumps(conditions), encoding="utf-8")
            (folder / RESULT).write_bytes(raw)
        found = _stored(store, cell, self.inputs)
        if found is None:
            raise JobError("a result cannot be read back", device=device.name, got=str(store))
        return Outcome(**{**vars(found), "resumed": False})

    def _job(self, cell: Cell, model: bytes) -> Job:
        return Job(
            nonce=new_nonce(),
            runtime=cell.runtime,
            delegate=cell.delegate,
            threads=self.settings.threads,
            warmup=self.settings.warmup,
            device_kind=self.properties.kind,
            abi=self.properties.abi,
            model=ref(Path(cell.file.path).name, model),
            inputs=self.inputs.refs,
            dim=self.bundle.manifest.output.dim,
            embeddings=EMBEDDINGS,
            result=RESULT,
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

    def _crashed(self, argv: Sequence[str], ended: Finished) -> CommandError:
        said = (ended.stderr or ended.stdout).strip().splitlines()
        return CommandError(
            "the runner ended without a result",
            device=self.workspace.device.name,
            command=argv,
            exit_code=ended.exit_code,
            got=ascii(said[-1])[:300] if said else None,
            fix="above 128 an exit code is a signal: 137 is memory running out, 139 a crash of the runtime",
        )

    def _refused(self, cell: Cell, result: DeviceResult) -> Outcome:
        failure = result.failure
        assert failure is not None  # noqa: S101  (parse_result saw to it)
        if failure.kind in ("no-runtime", "no-delegate"):
            self.say(f"{self.workspace.device.name}: {cell.name}: not run: {failure.message}")
            return Outcome(cell, "not run", failure.message, result)
        self.say(f"{self.workspace.device.name}: {cell.name}: failed: {failure.message}")
        return Outcome(cell, "failed", f"{failure.kind}: {failure.message}", result)


def _stored(folder: Path, cell: Cell, inputs: Inputs) -> Outcome | None:
    """A cell that was finished before; None where it was not, or its files are not whole."""
    try:
        job = Job.model_validate_json((folder / JOB).read_bytes())
        result = parse_result((folder / RESULT).read_bytes(), job, device="stored")
        vectors = parse_embeddings((folder / EMBEDDINGS).read_bytes(), result, device="stored")
        conditions = json.loads((folder / "conditions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, DeviceError):
        return None
    before, after = conditions["temperature_c"]
    return Outcome(
        cell=cell,
        status="ok",
        result=result,
        golden=vectors[: len(inputs.golden)],
        queries=vectors[len(inputs.golden) :],
        temperature_c=(before, after),
        battery_percent=conditions["battery_percent"],
        resumed=True,
    )


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()
