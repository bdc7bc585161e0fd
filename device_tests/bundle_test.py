"""The check as tests, one for each device, file and runtime: see :mod:`device_tests.plugin`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from device_tests.check import Checked
from device_tests.device import Device
from device_tests.schema import CellRecord


def test_device_retrieves_from_gallery(cell_record: CellRecord, request: pytest.FixtureRequest) -> None:
    """What the device embeds finds what the host's run of the same file finds; numbers go to the JUnit file."""
    measured, reasons = cell_record.measured, "; ".join(cell_record.reasons)
    numbers: dict[str, object] = {
        "runtime_version": cell_record.runtime_version,
        "delegate": cell_record.delegate_asked,
    }
    if measured is not None:
        numbers["queries"] = measured.queries
        numbers |= {"r_at_1": measured.host.r_at_1.device, "r_at_1_host": measured.host.r_at_1.other}
        numbers |= {"min_cosine": measured.min_cosine, "same_top": measured.same_top}
    request.node.user_properties.extend(numbers.items())
    if cell_record.status in ("not run", "latency only"):
        pytest.skip(reasons)
    if cell_record.status == "failed":
        pytest.fail(reasons, pytrace=False)


def test_device_runs_something(device: Device, hetero_reports: Callable[..., Checked]) -> None:
    """A device on which no file could be run has proved nothing."""
    report = hetero_reports(device.name).report
    if all(cell.status == "not run" for cell in report.cells):
        pytest.fail("; ".join(reason for cell in report.cells for reason in cell.reasons), pytrace=False)
