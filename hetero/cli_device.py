"""The commands about devices: run a bundle on them, and the emulated one. ``hetero/cli.py`` registers them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero.console import CheckFailedError, Json, print_json, stderr, stdout
from hetero.errors import MissingExtraError

Name = Annotated[str, typer.Option(help="Which machine, where several run beside each other.")]


def run(
    bundle: Annotated[Path, typer.Option(help="A .hetero bundle.")],
    gallery: Annotated[Path, typer.Option(help="Gallery directory, from hetero index.")],
    data: Annotated[Path, typer.Option(help="Query pictures: run config, folder, .csv, .npz.")],
    device: Annotated[
        list[str] | None,
        typer.Option("--device", "-s", help="Serial, HOST:PORT, emulator, local or all; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of results (default: runs/device-BUNDLE-DEVICES).")] = None,
    format_: Annotated[list[str] | None, typer.Option("--format", help="Only onnx or tflite; repeatable.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="Only these, e.g. fp32, int8; repeatable.")] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="Only onnxruntime, ai-edge-litert, tflite-runtime; repeatable.")
    ] = None,
    delegate: Annotated[
        list[str] | None, typer.Option(help="auto, none, xnnpack, nnapi, qnn, gpu; repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Whose pictures search (default: the one not trained on).")] = None,
    queries: Annotated[int, typer.Option(min=0, help="How many are drawn; 0: all.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    paragon: Annotated[
        Path | None, typer.Option(help="Gallery directory with the queries' own gallery-model vectors.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of the runtime on the device.")] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one cell may take.")] = 1800,
    runner: Annotated[Path | None, typer.Option(help="Program for a phone without Python; see docs/phones.md.")] = None,
    runner_kind: Annotated[
        str, typer.Option(help="job: it follows docs/device-protocol.md; tflite-benchmark: latency only.")
    ] = "job",
    page: Annotated[bool, typer.Option(help="Also write page.html.")] = True,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a key of a run config's data.")] = None,
    json: Json = False,
) -> None:
    """Run a bundle on phones or an emulated device and judge what it embeds; exit code 1 where a cell fails.

    Without --device: ANDROID_SERIAL, or the one that is connected. The same command continues an interrupted check.

    Example: hetero device run --bundle small.hetero --gallery shop-gallery --data shop.yaml --device emulator
    """
    from device_tests.cells import Settings, choose_cells
    from device_tests.check import run_check
    from device_tests.choose import devices_of
    from device_tests.native import read_runner
    from device_tests.queries import load_queries
    from device_tests.report import render_matrix, write_result
    from exporters.bundle import open_bundle
    from hetero.retrieval.gallery import open_gallery

    opened_gallery = open_gallery(gallery)
    opened = open_bundle(bundle, expected_space=opened_gallery.record.space_id)
    cells = choose_cells(
        opened, formats=format_ or (), precisions=precision or (), runtimes=runtime or (), delegates=delegate or ()
    )
    if page:
        _require_page()
    chosen = load_queries(
        data,
        opened_gallery,
        opened.manifest.preprocess,
        split=split,
        overrides=set_ or (),
        count=queries,
        seed=seed,
        paragon=paragon,
    )
    say = partial(stderr().print, markup=False)
    devices = devices_of(device or [], say=say)
    folder = out or Path("runs") / _folder_name(opened.path.resolve().stem, list(devices))
    checked = run_check(
        opened,
        opened_gallery,
        chosen,
        devices,
        folder,
        cells=cells,
        settings=Settings(threads=threads, timeout_s=timeout),
        runner=read_runner(runner, runner_kind),
        say=say,
    )
    report = checked.report
    written = [write_result(report, folder)]
    if page:
        from device_tests.page import write_page

        names = {name for cell in report.cells if cell.measured for flip in cell.measured.flips for name in flip.names}
        written.append(write_page(report, chosen.pictures(names), folder / "page.html"))
    if json:
        print_json(report.model_dump(mode="json"))
    else:
        stdout().print(render_matrix(report))
        stdout().print(f"results: {', '.join(map(str, written))}", markup=False, soft_wrap=True)
    if report.verdict == "failed":
        bad = [f"{cell.name}: {'; '.join(cell.reasons)}" for cell in report.cells if cell.status == "failed"]
        raise CheckFailedError(" | ".join(bad) or "a device ran nothing")


def build(json: Json = False) -> None:
    """Build the emulated arm64 device from Debian packages, where there is no build of today's packages.

    Example: hetero device emulator build
    """
    from device_tests import emulated

    made = emulated.build(say=partial(stderr().print, markup=False))
    if json:
        print_json({"key": made.key, "path": str(made.path), "manifest": made.manifest})
    else:
        stdout().print(f"build {made.key} in {made.path}", markup=False, soft_wrap=True)


def start(name: Name = "emulator", json: Json = False) -> None:
    """Start the emulated device, and wait until it answers over adb.

    Example: hetero device emulator start
    """
    from device_tests import emulated

    _tell(emulated.start(name, say=partial(stderr().print, markup=False)), name, json)


def status(name: Name = "emulator", json: Json = False) -> None:
    """Say whether the emulated device runs, and where; exit code 1 where it does not.

    Example: hetero device emulator status
    """
    from device_tests import emulated

    machine = emulated.status(name)
    _tell(machine, name, json)
    if machine is None:
        if not json:
            stdout().print(f"{name} does not run; hetero device emulator start starts it")
        raise typer.Exit(1)


def stop(name: Name = "emulator", json: Json = False) -> None:
    """End the emulated device.

    Example: hetero device emulator stop
    """
    from device_tests import emulated

    ended = emulated.stop(name)
    if json:
        print_json({"name": name, "ended": ended})
    else:
        stdout().print(f"{name} {'ended' if ended else 'did not run'}")


def _tell(machine: Any, name: str, json: bool) -> None:
    if json:
        content = None if machine is None else {**vars(machine), "serial": machine.serial}
        print_json({"name": name, "running": machine is not None, "machine": content})
    elif machine is not None:
        text = f"{name} runs as process {machine.pid}, for adb {machine.serial}, build {machine.build}"
        stdout().print(text, markup=False, soft_wrap=True)


def _folder_name(bundle: str, devices: list[str]) -> str:
    """Of the results of these devices: another check's are not replaced."""
    return "-".join(["device", bundle, *(re.sub(r"[^A-Za-z0-9.]+", "_", name) for name in sorted(devices))])[:150]


def _require_page() -> None:
    from importlib.util import find_spec

    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError("writing a page", package, "report")
