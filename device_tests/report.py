"""Views of a device check: ``result.json``, which is the truth, and the terminal's matrix."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from device_tests.schema import CellRecord, DeviceRecord, DeviceReport
from device_tests.words import EMULATED, KINDS, SIGNS, delegate_words
from hetero import atomic
from hetero.errors import CheckpointError
from hetero.report import words
from hetero.validation import validation_lines

RESULT = "result.json"
_TOLD_FLIPS = 10


def write_result(report: DeviceReport, out: Path) -> Path:
    """Write ``result.json`` in one step."""
    atomic.write_text(out / RESULT, report.model_dump_json(indent=2) + "\n")
    return out / RESULT


def read_result(path: Path) -> DeviceReport:
    """The report in ``path``, a ``result.json`` or the folder of one.

    Raises:
        CheckpointError: there is none, or it does not fit the schema.
    """
    path = path / RESULT if path.is_dir() else path
    try:
        return DeviceReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", got=error.strerror, fix="name a device check's folder") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} does not fit its schema", got=validation_lines(error)[:400]) from error


def render_matrix(report: DeviceReport) -> Group:
    """The matrix, and under it what failed, which first matches changed and what is still on a device."""
    lines = [f"{report.queries} queries of {report.data} against {report.gallery_size:,} gallery pictures"]
    if report.queries_in_gallery:
        lines[0] += f"; {report.queries_in_gallery} of them are gallery pictures, which never find themselves"
    else:
        lines[0] += (
            "; none is a gallery picture by its name: if one is in the gallery, it finds itself, and R@1 is too high"
        )
    for device in report.devices:
        lines += _device_lines(device)
    for cell in report.cells:
        lines += _cell_lines(cell)
    return Group(_matrix(report), Text("\n".join(lines)))


def _matrix(report: DeviceReport) -> Table:
    table = Table(title=escape(report.bundle), title_justify="left", caption_justify="left")
    table.caption = (
        "R@1 on the device, under it the gallery model's own (paragon); difference: from the same file's R@1 on the "
        "host, 95 % interval; same: queries with the host's first match, under it the smallest cosine to its embedding"
    )
    table.add_column("device", overflow="fold")
    for column in ("file, runtime", "delegate", "R@1, paragon", "difference", "same, cosine", "verdict"):
        table.add_column(column, no_wrap=True)
    for cell in report.cells:
        measured = cell.measured
        numbers = ["", "", ""]
        if measured is not None:
            one = measured.host.r_at_1
            paragon = "" if measured.paragon is None else f"\n{words.share(measured.paragon.r_at_1.other)}"
            low, high = one.difference.low, one.difference.high
            numbers = [
                words.share(one.device) + paragon,
                f"{words.signed(one.difference.value)}\n[{words.signed(low)}, {words.signed(high)}]",
                f"{measured.same_top:.1%}\n{measured.min_cosine:.6f}",
            ]
        version = f" {cell.runtime_version}" if cell.runtime_version else ""
        file = f"{cell.format} {cell.precision}\n{cell.runtime}{version}"
        row = [
            cell.device,
            file,
            delegate_words(cell.delegate).replace(" took ", "\n"),
            *numbers,
        ]
        table.add_row(*map(escape, row), f"{SIGNS[cell.status]} {cell.status}")
    return table


def _device_lines(device: DeviceRecord) -> list[str]:
    lines = [f"{device.name}: {KINDS[device.kind]}, {device.model}, {device.system}, {device.abi}"]
    if device.kind is None:
        lines = []  # its error is every cell's reason
    if device.kind == "linux-arm64-emulated":
        lines.append(f"{device.name}: {EMULATED}")
    lines += [f"{device.name}: still on the device: {left}" for left in device.leftovers]
    return lines


def _cell_lines(cell: CellRecord) -> list[str]:
    name = f"{cell.device}, {cell.format} {cell.precision}, {cell.runtime}"
    lines = [f"{name}: {cell.status}: {reason}" for reason in cell.reasons]
    measured = cell.measured
    if measured is None or not measured.flips:
        return lines
    lines.append(
        f"{name}: {len(measured.flips)} of {measured.queries} queries have another first match: {measured.lost} right "
        f"ones lost, {measured.won} won (McNemar p {measured.mcnemar_p:.2g})"
    )
    for flip in measured.flips[:_TOLD_FLIPS]:
        sides = ((flip.host, flip.host_right), (flip.device, flip.device_right))
        host, found = (f"{name} ({'right' if right else 'wrong'})" for name, right in sides)
        lines.append(f"  {flip.query}: host {host}, device {found}, cosine {flip.cosine:.4f}")
    if len(measured.flips) > _TOLD_FLIPS:
        lines.append(f"  and {len(measured.flips) - _TOLD_FLIPS} more in {RESULT}")
    return lines
