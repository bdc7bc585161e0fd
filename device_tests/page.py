"""A device check's page: one HTML file, from its report and its pictures, that loads nothing and runs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from device_tests.schema import CellRecord, CellStatus, DeviceRecord, DeviceReport, Flip, Verdict
from device_tests.words import EMULATED, KINDS, SIGNS, delegate_words
from hetero import atomic
from hetero.report import words
from hetero.report.page import render
from hetero.report.query_sheet import thumbnail_base64

if TYPE_CHECKING:
    from hetero.report.canvas import Plot

DRAWN = 60
"""Flips of a cell that are drawn: more than anyone looks at, and a page that still opens at once."""
_RAN = ("passed", "latency only")
_LEADS: Mapping[Verdict, CellStatus] = {"passed": "passed", "failed": "failed", "not judged": "latency only"}
_ENDS: Mapping[CellStatus, tuple[bool, str]] = {
    "passed": (False, "passed"),
    "failed": (False, "failed"),
    "latency only": (True, "timed only"),
    "not run": (True, "not run"),
}
"""What is said of cells of a status, and whether *was* comes before it."""
_PIXELS_BELOW_PX = 49  # drawn at twice its size or more, a picture is to show the pixels that the model saw


@dataclass(frozen=True)
class Picture:
    """A thumbnail, embedded once however often it is shown. ``pixels``: it is so small that it is shown enlarged."""

    number: int
    png_base64: str
    width: int
    height: int
    pixels: bool


@dataclass(frozen=True)
class Flipped:
    """The queries of one cell whose first match is another than the host's.

    Attributes:
        lost, won: only the host's match is right; only the device's is.
        same: both matches are right or both wrong.
        hidden: how many more there are, of either sort, that are not drawn.
    """

    cell: CellRecord
    lost: tuple[Flip, ...]
    won: tuple[Flip, ...]
    same: tuple[Flip, ...]
    hidden: int

    @property
    def drawn(self) -> tuple[Flip, ...]:
        """All that is drawn."""
        return self.lost + self.won + self.same


def write_page(report: DeviceReport, pictures: Mapping[str, np.ndarray], path: Path | str) -> Path:
    """Write the page of a check in one step; returns its path.

    Args:
        pictures: as of :func:`build_page`.

    Raises:
        MissingExtraError: jinja2, or matplotlib where there is a latency to draw, is not installed.
        RetrievalError: a picture of another layout.
        StorageError: the file system refused; an older page is untouched.
    """
    path = Path(path)
    atomic.write_text(path, build_page(report, pictures))
    return path


def build_page(report: DeviceReport, pictures: Mapping[str, np.ndarray]) -> str:
    """The page as HTML; every text of the report is escaped. Equal reports and pictures give equal pages.

    Args:
        pictures: by the names that the flips have for queries and gallery pictures, ``uint8 [h, w]`` or
            ``[h, w, 1 or 3]``; a picture that is missing is shown by its name.

    Raises:
        MissingExtraError: jinja2, or matplotlib where there is a latency to draw, is not installed.
        RetrievalError: a picture of another layout.
    """
    measured = [cell for cell in report.cells if cell.measured is not None]
    flipped = [_flipped(cell) for cell in measured if cell.measured is not None and cell.measured.flips]
    timed = _timed(report)
    return render(
        "device_tests",
        "page.html.j2",
        report=report,
        title=PurePath(report.bundle).name or report.bundle,
        verdict=verdict_sentence(report),
        counts=Counter(cell.status for cell in report.cells),
        groups=_by_device(report),
        measured=measured,
        timed=timed,
        latency=_latency_plot(timed),
        flipped=flipped,
        pictures=_pictures(flipped, pictures),
        words=words,
        signs=SIGNS,
        kinds=KINDS,
        emulated=EMULATED,
        cosine=cosine_words,
        delegate=delegate_words,
        drawn=DRAWN,
    )


def verdict_sentence(report: DeviceReport) -> str:
    """The verdict, how many cells of how many devices it is of, and what became of the others.

    ``Failed: 1 of 6 cells on 2 devices failed, 4 passed and 1 was not run.``
    """
    if not report.cells:
        return "Not judged: there was no cell to run."
    counts = Counter(cell.status for cell in report.cells)
    where = f"{_count(len(report.cells), 'cell')} on {_count(len(report.devices), 'device')}"
    lead = _LEADS[report.verdict]
    others: list[str] = [_told(status, str(counts[status])) for status in _ENDS if status != lead and counts[status]]
    if report.verdict == "failed" and not counts["failed"]:
        ran = {cell.device for cell in report.cells if cell.status in _RAN}
        idle = len({device.name for device in report.devices} - ran)
        return f"Failed: none of {where} failed, but {_count(idle, 'device')} ran nothing: {_and(others)}."
    unused = sum(device.error is not None for device in report.devices)
    lost = f" {_count(unused, 'device')} could not be used." if unused else ""
    first = _told(lead, str(counts[lead]), f" of {where}")
    return f"{report.verdict.capitalize()}: {_and([first, *others])}.{lost}"


def cosine_words(value: float) -> str:
    """``0.99987``."""
    return f"{value:.5f}".replace("-", words.MINUS)


def _told(status: CellStatus, number: str, where: str = "") -> str:
    was, end = _ENDS[status]
    verb = "" if not was else " was" if number == "1" else " were"
    return f"{number}{where}{verb} {end}"


def _and(parts: Sequence[str]) -> str:
    return " and ".join([*([", ".join(parts[:-1])] if parts[:-1] else []), parts[-1]])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _by_device(report: DeviceReport) -> list[tuple[str, DeviceRecord | None, tuple[CellRecord, ...]]]:
    """The cells of each device, in the order in which they come."""
    known = {device.name: device for device in report.devices}
    names = dict.fromkeys(cell.device for cell in report.cells)
    return [(name, known.get(name), tuple(one for one in report.cells if one.device == name)) for name in names]


def _flipped(cell: CellRecord) -> Flipped:
    """The first to be drawn are the matches that were lost, the last those that changed nothing."""
    flips = () if cell.measured is None else cell.measured.flips
    lost = [flip for flip in flips if flip.host_right and not flip.device_right]
    won = [flip for flip in flips if flip.device_right and not flip.host_right]
    same = [flip for flip in flips if flip.host_right == flip.device_right]
    lost_drawn = lost[:DRAWN]
    won_drawn = won[: DRAWN - len(lost_drawn)]
    same_drawn = same[: DRAWN - len(lost_drawn) - len(won_drawn)]
    hidden = len(flips) - len(lost_drawn) - len(won_drawn) - len(same_drawn)
    return Flipped(cell, tuple(lost_drawn), tuple(won_drawn), tuple(same_drawn), hidden)


def _pictures(flipped: Iterable[Flipped], pictures: Mapping[str, np.ndarray]) -> dict[str, Picture]:
    """Thumbnails of what is drawn, by name, where there is a picture."""
    found: dict[str, Picture] = {}
    for name in (name for one in flipped for flip in one.drawn for name in flip.names):
        if name in pictures and name not in found:
            image = pictures[name]
            height, width = image.shape[:2]
            small = max(height, width) < _PIXELS_BELOW_PX
            found[name] = Picture(len(found), thumbnail_base64(image), width, height, small)
    return found


def _timed(report: DeviceReport) -> Sequence[CellRecord]:
    """Only of phones is a latency shown: an emulator's would be taken for one."""
    return [cell for cell in report.cells if cell.latency_ms is not None and cell.latency_ms.quoted]


def _latency_plot(timed: Iterable[CellRecord]) -> Plot | None:
    """None where no quantiles are known: a benchmark tool gives only a mean."""
    from device_tests.latency_plot import Timing, plot_latency

    found = []
    for cell in timed:
        one = cell.latency_ms
        if one is not None and one.median is not None and one.p90 is not None and one.p99 is not None:
            found.append(Timing(cell.name, one.each, one.median, one.p90, one.p99))
    return plot_latency(found) if found else None
