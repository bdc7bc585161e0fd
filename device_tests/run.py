"""All cells of one device: its folder made and removed around them, those finished before left out."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from device_tests.cells import Cell, Settings, cell_key
from device_tests.device import Device, Properties
from device_tests.errors import DeviceError, DeviceTimeoutError
from device_tests.execute import Executor, Say, make_job, python_runner
from device_tests.folders import cache_folder
from device_tests.native import Runner
from device_tests.outcome import Inputs, Outcome, stored_outcome
from device_tests.workspace import Workspace, sweep
from exporters.bundle import Bundle


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
    runner: Runner | None = None,
    say: Say = lambda line: None,
    stop: threading.Event | None = None,
) -> DeviceRun:
    """Run cells on one device, those that ``store`` has finished excepted, and leave nothing on it.

    Never raises for what a device does: what failed is in the outcomes.

    Args:
        runner: a native program to be run instead of Python with ``run_job.py``.
        stop: once it is set nothing more is run; the device is cleaned up all the same.
    """
    try:
        device = open_device()
        properties = device.properties()
        with _alone(device, properties, settings, say):
            leftovers = sweep(device, say=say)
            runner = runner or python_runner()
            outcomes = _stored(cells, bundle, inputs, settings, properties, runner, store)
            for place, outcome in outcomes.items():
                say(f"{name}: {cells[place].name}: {outcome.reason or 'finished before'}")
            todo = [place for place in range(len(cells)) if place not in outcomes]
            if todo:
                with Workspace(device, say=say) as workspace:
                    wish = stop or threading.Event()
                    executor = Executor(workspace, properties, bundle, inputs, settings, runner, say, wish)
                    for place in todo:
                        folder = store / _key(cells[place], inputs, settings, properties, runner)
                        outcomes[place] = executor.run(cells[place], folder)
                if workspace.leftover is not None:
                    leftovers.append(f"{workspace.folder}: {workspace.leftover}")
    except DeviceError as error:
        say(f"{name}: {error}")
        return DeviceRun(name, None, tuple(Outcome(cell, "failed", str(error)) for cell in cells), str(error))
    return DeviceRun(name, properties, tuple(outcomes[place] for place in range(len(cells))), None, tuple(leftovers))


@contextmanager
def _alone(device: Device, properties: Properties, settings: Settings, say: Say) -> Iterator[None]:
    """Wait until no other check of this user runs on the device: each would slow the other down."""
    if properties.kind == "host":
        yield
        return
    name = hashlib.sha256(properties.identity.encode()).hexdigest()[:16]
    path = cache_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{device.name}: another check runs on this device; waiting for it")
        try:
            lock.acquire(timeout=settings.timeout_s)
        except Timeout:
            raise DeviceTimeoutError(
                "another check runs on this device",
                device=device.name,
                expected=f"its end within {settings.timeout_s:g} s",
                fix="wait for it, or end that process",
            ) from None
    try:
        yield
    finally:
        lock.release()


def _stored(
    cells: Sequence[Cell],
    bundle: Bundle,
    inputs: Inputs,
    settings: Settings,
    properties: Properties,
    runner: Runner,
    store: Path,
) -> dict[int, Outcome]:
    """By their places the cells that need not be run: those that cannot be, and those that were finished before."""
    found = {}
    for place, cell in enumerate(cells):
        reason = cell.impossible(properties)
        expected = make_job(cell, bundle, inputs, settings, properties)
        folder = store / _key(cell, inputs, settings, properties, runner)
        outcome = Outcome(cell, "not run", reason) if reason else stored_outcome(folder, cell, inputs, expected)
        if outcome is not None:
            found[place] = outcome
    return found


def _key(cell: Cell, inputs: Inputs, settings: Settings, properties: Properties, runner: Runner) -> str:
    hashes = [entry.sha256 for entry in inputs.refs]
    return cell_key(cell, settings, properties, hashes, hashlib.sha256(runner.data).hexdigest())
