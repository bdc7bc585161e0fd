"""The terminal tables of the commands. The table of a run's report is made in report/build.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table


def matches_table(query: Path, matches: Any) -> Table:
    """The top matches of one query picture."""
    table = Table("score", "class", "path", title=escape(str(query)), title_justify="left")
    for match in matches:
        table.add_row(f"{match.similarity:.3f}", escape(match.class_name), escape(match.path))
    return table


def bundle_table(bundle: Any, rows: Any, latency_ms: Any) -> Table:
    """The files of a bundle and those left out, against torch, with milliseconds per image by runtime, this machine.

    Args:
        rows: from :func:`exporters.summary.file_rows`.
        latency_ms: from :func:`exporters.latency.latency`; empty where nothing was timed.
    """
    columns = ["file", "size", "ops", "max abs", "min cosine", "R@1 difference", "verdict"]
    if latency_ms:
        columns.insert(3, "ms per image")
    caption = "against the torch model; max abs: of one component of an embedding; min cosine: of the worst picture"
    if latency_ms:
        caption += "; ms: one picture, one thread; Core ML is timed on a Mac only"
    table = Table(title=escape(str(bundle.path)), title_justify="left", caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "file")  # a path is copied from here
    for row in rows:
        delta = "" if row.r_at_1_delta is None else "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row.r_at_1_delta)
        cells = [
            row.path or row.name,
            "" if row.size_bytes is None else f"{row.size_bytes:,} B",
            "" if row.num_ops is None else f"{row.num_ops:,}",
            "" if row.max_abs is None else f"{row.max_abs:.1e}",
            "" if row.min_cosine is None else f"{row.min_cosine:.5f}",
            delta,
            row.verdict + (f": {row.reason}" if row.reason else ""),
        ]
        if latency_ms:
            timed = latency_ms.get(row.path, {})
            cells.insert(3, "\n".join(f"{name} {milliseconds:.3g}" for name, milliseconds in timed.items()))
        table.add_row(*(escape(cell) for cell in cells))
    return table


def checks_table(bundle: Path, checks: Any) -> Table:
    """What verifying a bundle found."""
    table = Table("check", "file", "result", "detail", title=escape(str(bundle)), title_justify="left")
    for check in checks:
        result = "FAILED" if not check.passed else "passed" if check.measured else "not measured"
        table.add_row(check.name, check.file or "", result, escape(check.detail))
    return table


def dataset_table(name: str, content: dict[str, Any]) -> Table:
    """Images and classes of each split, from :func:`hetero.data.describe.describe`."""
    table = Table("split", "images", "classes", title=escape(name), title_justify="left")
    for split, counts in content["splits"].items():
        table.add_row(split, f"{counts['images']:,}", f"{counts['classes']:,}")
    table.add_row("all", f"{content['images']:,}", f"{content['classes']:,}")
    return table
