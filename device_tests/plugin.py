"""pytest plugin: ``pytest --pyargs device_tests.bundle_test --hetero-bundle … --hetero-gallery … --hetero-data …``.

It gives every test the fixtures ``bundle``, ``gallery``, ``device`` (one for each connected device, or each
``--hetero-device``) and ``device_embeddings``, and reports through pytest's own JUnit file. Nothing of hetero is
imported before an option asks for it: the plugin is loaded in every pytest of the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from device_tests.check import Checked
    from device_tests.device import Device
    from exporters import Bundle
    from hetero.retrieval.gallery import Gallery


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line's options."""
    group = parser.getgroup("hetero", "hetero: bundles on devices")
    group.addoption("--hetero-bundle", type=Path, help="A .hetero bundle.")
    group.addoption("--hetero-gallery", type=Path, help="Gallery directory, from hetero index.")
    group.addoption("--hetero-data", type=Path, help="Query pictures: run config, folder, .csv, .npz.")
    group.addoption(
        "--hetero-device",
        action="append",
        default=[],
        help="Serial, HOST:PORT, emulator or local; repeatable (default: ANDROID_SERIAL, else all connected).",
    )
    group.addoption("--hetero-split", help="Whose pictures search.")
    group.addoption("--hetero-queries", type=int, default=200, help="How many are drawn; 0: all.")
    group.addoption("--hetero-paragon", type=Path, help="Gallery directory with the queries' gallery-model vectors.")
    group.addoption("--hetero-runner", type=Path, help="Program for a phone without Python; see docs/phones.md.")
    group.addoption("--hetero-runner-kind", default="job", help="job or tflite-benchmark.")
    group.addoption("--hetero-out", type=Path, help="Folder of results, which a later call continues.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each device, and for each cell where the test asks for one."""
    if "device" not in metafunc.fixturenames and "cell" not in metafunc.fixturenames:
        return
    config = metafunc.config
    if config.getoption("--hetero-bundle") is None:
        return  # the fixtures say what is missing
    names = _device_names(config)
    if "cell" not in metafunc.fixturenames:
        metafunc.parametrize("device", names, indirect=True, scope="session")
        return
    from device_tests.cells import choose_cells

    cells = choose_cells(_bundle(config))
    pairs = [(name, cell) for name in names for cell in cells]
    ids = [f"{name}-{cell.file.format}-{cell.file.precision}-{cell.runtime}" for name, cell in pairs]
    if "device" in metafunc.fixturenames:
        metafunc.parametrize(("device", "cell"), pairs, indirect=True, ids=ids, scope="session")
    else:
        metafunc.parametrize("cell", [cell for _, cell in pairs], indirect=True, ids=ids, scope="session")


@pytest.fixture(scope="session")
def bundle(pytestconfig: pytest.Config) -> Bundle:
    """The bundle of ``--hetero-bundle``, verified, and in the gallery's space."""
    return _bundle(pytestconfig)


@pytest.fixture(scope="session")
def gallery(pytestconfig: pytest.Config) -> Gallery:
    """The gallery of ``--hetero-gallery``."""
    return _gallery(pytestconfig)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    """A connected device: push, pull and run on it as you like; files are yours to remove."""
    _required(request.config, "bundle")
    opened: Device = _opener(request.config, request.param)()
    return opened


@pytest.fixture(scope="session")
def cell(request: pytest.FixtureRequest) -> Any:
    """A :class:`~device_tests.cells.Cell`: one file of the bundle in one runtime."""
    return request.param


@pytest.fixture(scope="session")
def hetero_reports(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``reports(name)``: the check of all cells on the device of this name, made once."""
    found: dict[str, Any] = {}
    out = pytestconfig.getoption("--hetero-out") or tmp_path_factory.mktemp("hetero-device")

    def report(name: str) -> Checked:
        if name not in found:
            found[name] = _check(pytestconfig, name, out)
        return found[name]

    return report


@pytest.fixture
def cell_record(device: Device, cell: Any, hetero_reports: Callable[..., Any]) -> Any:
    """The :class:`~device_tests.schema.CellRecord` of this cell on this device: verdict, numbers, reasons."""
    report = hetero_reports(device.name).report
    wanted = (cell.file.path, cell.runtime, cell.delegate)
    for record in report.cells:
        if (record.path, record.runtime, record.delegate_asked) == wanted:
            return record
    raise LookupError(f"no cell {cell.name}")


@pytest.fixture
def device_embeddings(device: Device, cell: Any, hetero_reports: Callable[..., Any]) -> Any:
    """What the device embedded in this cell, ``float32 [queries, dim]``; skips the test where it was not run."""
    found = hetero_reports(device.name).embeddings.get((device.name, cell.name))
    if found is None:
        pytest.skip(f"{cell.name} was not run on {device.name}")
    return found


def _check(config: pytest.Config, name: str, out: Path) -> Checked:
    from device_tests.cells import choose_cells
    from device_tests.check import run_check
    from device_tests.native import read_runner
    from device_tests.queries import load_queries
    from device_tests.report import write_result

    opened, where = _bundle(config), _gallery(config)
    queries = load_queries(
        _required(config, "data"),
        where,
        opened.manifest.preprocess,
        split=config.getoption("--hetero-split"),
        count=config.getoption("--hetero-queries"),
        paragon=config.getoption("--hetero-paragon"),
    )
    runner = read_runner(config.getoption("--hetero-runner"), config.getoption("--hetero-runner-kind"))
    devices = {name: _opener(config, name)}
    checked = run_check(opened, where, queries, devices, out, cells=choose_cells(opened), runner=runner)
    write_result(checked.report, out / name.replace("/", "_").replace(":", "_"))
    return checked


def _bundle(config: pytest.Config) -> Bundle:
    from exporters import open_bundle

    return open_bundle(_required(config, "bundle"), expected_space=_gallery(config).record.space_id)


def _gallery(config: pytest.Config) -> Gallery:
    from hetero.retrieval.gallery import open_gallery

    return open_gallery(_required(config, "gallery"))


def _required(config: pytest.Config, name: str) -> Path:
    value: Path | None = config.getoption(f"--hetero-{name}")
    if value is None:
        raise pytest.UsageError(f"this test needs --hetero-{name}")
    return value


def _device_names(config: pytest.Config) -> list[str]:
    asked = config.getoption("--hetero-device")
    from device_tests.choose import devices_of

    return list(devices_of(asked or ([] if os.environ.get("ANDROID_SERIAL") else ["all"])))


def _opener(config: pytest.Config, name: str) -> Callable[[], Any]:
    from device_tests.choose import devices_of

    return devices_of([name])[name]
