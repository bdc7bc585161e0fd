"""The check as tests, one for each device, file and runtime: see :mod:`device_tests.plugin`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from device_tests.schema import CellRecord


def test_device_retrieves_from_gallery(cell_record: CellRecord, record_property: Callable[[str, object], None]) -> None:
    """What the device embeds finds what the host's run of the same file finds; numbers go to the JUnit file."""
    measured, reasons = cell_record.measured, "; ".join(cell_record.reasons)
    record_property("runtime_version", cell_record.runtime_version)
    if measured is not None:
        record_property("r_at_1", measured.host.r_at_1.device)
        record_property("r_at_1_host", measured.host.r_at_1.other)
        record_property("min_cosine", measured.min_cosine)
        record_property("same_top", measured.same_top)
    if cell_record.status == "not run":
        pytest.skip(reasons)
    if cell_record.status == "failed":
        pytest.fail(reasons, pytrace=False)
