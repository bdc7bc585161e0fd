"""Reading and writing a report, and its page: one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from hetero import atomic
from hetero.errors import BundleError
from hetero.report import words
from hetero.report.fleet import Matrix
from hetero.report.page import render
from hetero.report.plots import (
    PAIRS,
    Plot,
    plot_cells,
    plot_cost,
    plot_curves,
    plot_histograms,
)
from hetero.report.schema import METRICS, REPORT_SCHEMA, Report

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_MAX_REPORT_BYTES = 64 * 2**20  # a report with pictures is about 1 MB; more is not a report


def write_report(report: Report, folder: Path | str) -> tuple[Path, Path]:
    """Write ``report.json``, then its page ``report.html``, each in one step; returns both paths.

    Raises:
        StorageError: the file system refused; what was there before is untouched.
        MissingExtraError: jinja2 or matplotlib is not installed; ``report.json`` is written all the same.
    """
    data_path, page_path = Path(folder) / REPORT_JSON, Path(folder) / REPORT_HTML
    atomic.write_json(data_path, report.model_dump(mode="json", by_alias=True))
    atomic.write_text(page_path, build_html(report))
    return data_path, page_path


def load_report(path: Path | str) -> Report:
    """Read ``report.json``, given its path or its folder's.

    Raises:
        BundleError: missing, not JSON, of another version, or contradicting itself; names file and key.
    """
    path = Path(path)
    if path.is_dir():
        path = path / REPORT_JSON
    document = _read_json(path)
    version = document.get("schema")
    if version != REPORT_SCHEMA or isinstance(version, bool):
        raise BundleError(
            f"{path} is a report of another version",
            got=f"schema {version!r}",
            expected=f"schema {REPORT_SCHEMA}",
            fix="run the command that made it again, or read it with the hetero version that wrote it",
        )
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the report"
        others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BundleError(
            f"{path} breaks the report's rules at {key}{others}",
            got=first["msg"],
            expected="what docs/report-spec.md says",
            fix="run the command that made the report again",
        ) from None


def build_html(report: Report) -> str:
    """The page of a report: self-contained HTML with its plots inside, every text escaped.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    shown = {key: name for key, name in METRICS.items() if _measured(report, key)}
    return render(
        "hetero.report",
        "template.html.j2",
        report=report,
        words=words,
        summary=words.summary(report),
        metrics=shown,
        pairs=PAIRS,
        plots=_plots(report),
        config=json.dumps(report.run.config, indent=2, ensure_ascii=False),
    )


def render_terminal(report: Report) -> Any:
    """The table of cells with the verdict beneath, as something rich can print."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = {key: name for key, name in METRICS.items() if _measured(report, key)}
    data, run = report.run.dataset, report.run
    title = f"{run.name}: {words.searched(data)}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in shown.values():
        table.add_column(name, overflow="fold")

    def add(label: str, metrics: Any, style: str = "") -> None:
        table.add_row(Text(label, style=style), *(Text(_score(metrics, key)) for key in shown))

    add("paragon", report.cells.paragon, "bold")
    for student in report.students:
        table.add_section()
        role = "" if student.role == "compatible" else ", control"
        table.add_row(Text(student.name + role, style="bold"))
        for cell in ("heterogeneous", "homogeneous", "reverse"):
            add(cell, getattr(student.cells, cell))
    table.add_section()
    for label in ("raw_pixels", "chance"):
        baseline = getattr(report.baselines, label)
        if baseline is not None:
            add(label.replace("_", " "), baseline)
    ranks = report.students[0].recall_ranks
    recalls = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", *(f"R@{rank}" for rank in ranks)):
        recalls.add_column(name, overflow="fold")
    for label, found in words.recall_rows(report):
        recalls.add_row(Text(label), *(Text(words.interval(found[rank])) for rank in ranks))
    fleet: list[Any] = []
    if report.matrix is not None:
        fleet = [Text(words.MATRIX_TITLE), _matrix_table(report.matrix), Text(words.minimum(report))]
    costs = [
        f"{student.name}: {words.count(student.macs.query)} MACs, {words.ratio(student.macs.ratio)} fewer; "
        f"{words.count(student.params.query)} parameters, {words.ratio(student.params.ratio)} fewer. "
        f"{words.verdict(student)}"
        for student in report.students
    ]
    gallery_macs, gallery_params = report.macs.gallery, report.students[0].params.gallery
    costs.insert(0, f"gallery model: {words.count(gallery_macs)} MACs, {words.count(gallery_params)} parameters")
    shown_recalls: list[Any] = [Text(words.recall_title(report)), recalls] if ranks else []
    costs += words.controls(report)
    if report.tax is not None:
        costs.append(words.tax(report.tax))
    return Group(table, *shown_recalls, *fleet, Text("\n".join(costs)), Text(""), Text(words.summary(report)))


def _matrix_table(matrix: Matrix) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("query by, gallery by", *matrix.models):
        table.add_column(name, overflow="fold")
    for name, cells in matrix.rows():
        style = [("bold" if cell == matrix.minimum else "") for cell in cells]
        shown = [Text(words.matrix_cell(cell), style=how) for cell, how in zip(cells, style, strict=True)]
        table.add_row(Text(name), *shown)
    return table


def _score(metrics: Any, key: str) -> str:
    score = getattr(metrics, key)
    return "" if score is None else words.interval(score)


def _measured(report: Report, metric: str) -> bool:
    """Whether any row of the table has this metric; the three required ones always."""
    cells = [getattr(student.cells, cell) for student in report.students for cell in PAIRS]
    return any(getattr(one, metric) is not None for one in cells)


def _plots(report: Report) -> dict[str, Plot]:
    wanted: dict[str, tuple[object, Callable[[Report], Plot]]] = {
        "cells": (report.students, plot_cells),
        "cost": (report.students, plot_cost),
        "histograms": (report.histograms, plot_histograms),
        "curves": (report.curves, plot_curves),
    }
    return {name: draw(report) for name, (data, draw) in wanted.items() if data}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_REPORT_BYTES:
            _refuse(path, f"{path.stat().st_size:,} bytes", f"at most {_MAX_REPORT_BYTES:,} bytes")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BundleError(
            f"there is no readable report at {path}",
            got=error.strerror,
            fix="run hetero compat on the run first, or name the folder given to its --out",
        ) from None
    except UnicodeDecodeError:
        _refuse(path, "bytes that are not UTF-8", "a JSON object")
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"text that is not JSON ({error})", "a JSON object")
    if not isinstance(document, dict):
        _refuse(path, f"a JSON {type(document).__name__}", "a JSON object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse(path: Path, got: str, expected: str) -> NoReturn:
    raise BundleError(
        f"{path} is not a report",
        got=got,
        expected=expected,
        fix="run the command that made the report again",
    )
