"""The matrix: which file of a bundle is run with which runtime and delegate on which device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from device_tests.device import Properties
from device_tests.job import DELEGATES, RUNTIMES, WARMUP_RUNS, DelegateName, RuntimeName
from exporters.bundle import Bundle
from exporters.manifest import ModelFile
from exporters.recipes import RUNTIMES as FORMAT_RUNTIMES
from hetero.errors import ConfigError, nearest

_NO_WHEEL = "tflite-runtime has no wheel for this device's Python 3.13"
ON_DEVICES = frozenset(RUNTIMES)


@dataclass(frozen=True)
class Cell:
    """One run of a file: ``file`` in ``runtime`` with ``delegate``, on whichever device."""

    file: ModelFile
    runtime: RuntimeName
    delegate: DelegateName

    @property
    def name(self) -> str:
        """``tflite int8, ai-edge-litert, auto``."""
        return f"{self.file.format} {self.file.precision}, {self.runtime}, {self.delegate}"

    def impossible(self, properties: Properties) -> str | None:
        """Why this cell cannot be run on such a device, where that is known without trying."""
        if self.runtime == "tflite-runtime" and properties.kind == "linux-arm64-emulated":
            return _NO_WHEEL
        return None


@dataclass(frozen=True)
class Settings:
    """How every cell is run.

    Attributes:
        threads: of the runtime.
        warmup: pictures embedded before the first that counts.
        timeout_s: of one cell; a device that is silent for longer has hung.
    """

    threads: int = 1
    warmup: int = WARMUP_RUNS
    timeout_s: float = 1800.0


def choose_cells(
    bundle: Bundle,
    *,
    formats: Sequence[str] = (),
    precisions: Sequence[str] = (),
    runtimes: Sequence[str] = (),
    delegates: Sequence[str] = (),
) -> list[Cell]:
    """The cells of a bundle: each file in each runtime of devices that the bundle calls right for it.

    Args:
        formats, precisions, runtimes: only these; none: all. delegates: none: what each runtime takes by itself.

    Raises:
        ConfigError: an unknown name, or nothing is left.
    """
    files = bundle.manifest.files
    for what, asked, known in (
        ("format", formats, [file.format for file in files]),
        ("precision", precisions, [name for file in files for name in (file.precision, file.recipe)]),
        ("runtime", runtimes, RUNTIMES),
        ("delegate", delegates, DELEGATES),
    ):
        for name in asked:
            if name not in known:
                raise ConfigError(f"the bundle has no such {what}", got=repr(name), expected=nearest(name, set(known)))
    cells = [
        Cell(file, cast("RuntimeName", result.name), cast("DelegateName", delegate))
        for file in files
        for result in file.runtimes
        if result.right and result.name in ON_DEVICES
        for delegate in delegates or ("auto",)
        if (not formats or file.format in formats)
        and (not precisions or {file.precision, file.recipe} & set(precisions))
        and (not runtimes or result.name in runtimes)
    ]
    if not cells:
        there = ", ".join(f"{file.format} {file.precision}" for file in files)
        raise ConfigError(
            f"{bundle.path} has no file to run on such a device",
            got=there,
            expected="an ONNX or TFLite file of the formats, precisions and runtimes asked for",
            fix="export one, e.g. with --format tflite, or ask for less",
        )
    return cells


def host_runtimes(cell: Cell, installed: Sequence[str]) -> list[RuntimeName]:
    """The runtimes on this host that may tell what a cell's file gives: the cell's own first."""
    right = [result.name for result in cell.file.runtimes if result.right and result.name in ON_DEVICES]
    order = [cell.runtime, *(name for name in FORMAT_RUNTIMES[cell.file.format] if name in right)]
    return [cast("RuntimeName", name) for name in dict.fromkeys(order) if name in installed]


def cell_key(cell: Cell, settings: Settings, properties: Properties, input_hashes: Sequence[str], runner: str) -> str:
    """The same for the same file, pictures and device; another where anything differs that could change a result."""
    content = {
        "cell": [cell.file.sha256, cell.runtime, cell.delegate],
        "settings": [settings.threads, settings.warmup],
        "device": [properties.kind, properties.abi, properties.model, properties.system, properties.identity],
        "inputs": list(input_hashes),
        "runner": runner,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
