"""All cells of one device: its folder made and removed around them, those finished before left out."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_tests.cells import Cell, Settings, cell_key
from device_tests.device import Device, Properties
from device_tests.errors import DeviceError
from device_tests.execute import Executor, Say, python_runner
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
        leftovers = sweep(device, say=say)
    except DeviceError as error:
        say(f"{name}: {error}")
        return DeviceRun(name, None, tuple(Outcome(cell, "failed", str(error)) for cell in cells), str(error))
    runner = runner or python_runner()
    digest = hashlib.sha256(runner.data).hexdigest()
    hashes = [entry.sha256 for entry in inputs.refs]
    keys = [cell_key(cell, settings, properties, hashes, digest) for cell in cells]
    outcomes: dict[int, Outcome] = {}
    for place, (cell, key) in enumerate(zip(cells, keys, strict=True)):
        reason = cell.impossible(properties)
        found = Outcome(cell, "not run", reason) if reason else stored_outcome(store / key, cell, inputs)
        if found is not None:
            say(f"{name}: {cell.name}: {reason or 'finished before'}")
            outcomes[place] = found
    todo = [place for place in range(len(cells)) if place not in outcomes]
    if todo:
        with Workspace(device, say=say) as workspace:
            executor = Executor(workspace, properties, bundle, inputs, settings, runner, say, stop or threading.Event())
            for place in todo:
                outcomes[place] = executor.run(cells[place], store / keys[place])
        if workspace.leftover is not None:
            leftovers.append(f"{workspace.folder}: {workspace.leftover}")
    return DeviceRun(name, properties, tuple(outcomes[place] for place in range(len(cells))), None, tuple(leftovers))
