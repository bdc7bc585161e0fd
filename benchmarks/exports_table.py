"""``python -m benchmarks.exports_table NAME.hetero``: the table of docs/results/exports.md, from a manifest."""

from __future__ import annotations

import sys

from exporters.bundle import open_bundle
from exporters.manifest import Manifest, ModelFile

COLUMNS = (
    "File",
    "Recipe",
    "Bytes",
    "Max abs",
    "Cosine, mean (min)",
    "R@1, points (95 %)",
    "mAP@R, points (95 %)",
    "Lost / won, %",
    "True accepts, points",
    "False accepts, ×",
    "Right in",
    "Layers in float",
)


def table(manifest: Manifest) -> str:
    """A Markdown table, a row for each file."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_cells, manifest.files)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(file: ModelFile) -> tuple[str, ...]:
    number = file.measured
    return (
        f"{file.format} {file.precision}",
        file.recipe,
        f"{file.size_bytes:,}",
        f"{number('max_abs'):.1e}",
        f"{number('mean_cosine'):.5f} ({number('min_cosine'):.5f})",
        _points(file, "r_at_1"),
        _points(file, "map_at_r"),
        f"{100 * number('lost'):.2f} / {100 * number('won'):.2f}",
        f"{100 * number('true_accept_delta'):+.2f}",
        f"{number('false_accept_ratio'):.3f}",
        ", ".join(one.name for one in file.runtimes if one.right),
        str(len(file.kept_float)),
    )


def _points(file: ModelFile, metric: str) -> str:
    value, low, high = (100 * file.measured(f"{metric}_{end}") for end in ("delta", "low", "high"))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


if __name__ == "__main__":
    print(table(open_bundle(sys.argv[1]).manifest))
