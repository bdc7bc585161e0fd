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


def bundle_table(bundle: Any) -> Table:
    """The exported files of a bundle, how far each is from torch, and the runtimes that compute it rightly."""
    columns = ("file", "size", "max abs", "min cosine", "right in")
    table = Table(*columns, title=escape(str(bundle.path)), title_justify="left")
    for file in bundle.manifest.files:
        right = ", ".join(f"{result.name} {result.version}" for result in file.runtimes if result.right)
        size, worst = f"{file.size_bytes:,} B", f"{file.measured('max_abs'):.1e}"
        table.add_row(file.path, size, worst, f"{file.measured('min_cosine'):.7f}", right)
    return table


def checks_table(bundle: Path, checks: Any) -> Table:
    """What verifying a bundle found."""
    table = Table("check", "file", "result", "detail", title=escape(str(bundle)), title_justify="left")
    for check in checks:
        table.add_row(check.name, check.file or "", "passed" if check.passed else "FAILED", escape(check.detail))
    return table


def dataset_table(name: str, content: dict[str, Any]) -> Table:
    """Images and classes of each split, from :func:`hetero.data.describe.describe`."""
    table = Table("split", "images", "classes", title=escape(name), title_justify="left")
    for split, counts in content["splits"].items():
        table.add_row(split, f"{counts['images']:,}", f"{counts['classes']:,}")
    table.add_row("all", f"{content['images']:,}", f"{content['classes']:,}")
    return table
