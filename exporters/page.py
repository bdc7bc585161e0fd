"""A bundle's page: one HTML file, from its manifest alone, that loads nothing and runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporters.bundle import Bundle
from exporters.manifest import BOUNDED_ABOVE, LayerError, Manifest, Rung, Similarities
from exporters.summary import NUMBERS, SIGNS, FileRow, file_rows, reference_only
from hetero import atomic
from hetero.errors import ConfigError, MissingExtraError
from hetero.report import words
from hetero.report.page import render

if TYPE_CHECKING:
    from hetero.report.canvas import Plot

_TIE = "\N{NO-BREAK SPACE}"  # a number stays on the line of its bracket
_UNITS = (("MiB", 1 << 20), ("KiB", 1 << 10))


def write_page(bundle: Bundle, path: Path | str) -> Path:
    """Write the page of a bundle in one step; returns its path.

    Raises:
        ConfigError: the path lies in the bundle, which nothing unlisted may.
        MissingExtraError: jinja2 or matplotlib is not installed.
        StorageError: the file system refused; an older page is untouched.
    """
    path = Path(path)
    require_page(path, bundle.path)
    atomic.write_text(path, build_page(bundle.manifest))
    return path


def require_page(path: Path, bundle: Path) -> None:
    """Refuse, before any work is done, a page that could not be written afterwards.

    Raises:
        ConfigError: the path lies in the bundle, which nothing unlisted may, or is a directory.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    if path.resolve().is_relative_to(bundle.resolve()):
        raise ConfigError(
            "a bundle's page cannot lie in the bundle, where nothing unlisted may",
            got=str(path),
            fix=f"write it beside, e.g. to {page_path(bundle)}",
        )
    if path.is_dir():
        raise ConfigError(
            "the page is to be a file", got=f"{path}, a directory", fix=f"name a file, e.g. {path / 'page.html'}"
        )
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError("writing a page", package, "report")


def page_path(bundle: Path) -> Path:
    """Where a bundle's page goes by default: beside it."""
    bundle = bundle if bundle.suffix else bundle.resolve()  # a dot has no name to go by
    return bundle.with_name(f"{bundle.name}.html")


def build_page(manifest: Manifest) -> str:
    """The page as HTML; every text of the manifest is escaped. Equal manifests give equal pages.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    rows = file_rows(manifest)
    return render(
        "exporters",
        "page.html.j2",
        manifest=manifest,
        rows=rows,
        words=words,
        signs=SIGNS,
        size=size_words,
        rung_lines=rung_lines,
        worst=_worst(rows),
        smallest=min((row for row in rows if row.size_bytes is not None), key=lambda row: row.size_bytes or 0),
        layers=_layer_groups(manifest),
        reference_only=reference_only(manifest),
        similarities=_similarity_plot(manifest),
    )


def size_words(size_bytes: int) -> str:
    """``1.4 MiB``."""
    for unit, factor in _UNITS:
        if size_bytes >= factor:
            return (
                f"{size_bytes / factor:.3g} {unit}"
                if size_bytes < 999 * factor
                else f"{size_bytes / factor:,.0f} {unit}"
            )
    return f"{size_bytes} B"


def rung_lines(rung: Rung) -> list[str]:
    """What a rung measured, a line for each number: ``lost 0.0031 (≤ 0.02)``."""
    lines = []
    for name, text in NUMBERS.items():
        if name not in rung.measured:
            continue
        line = f"{text} {number_words(name, rung.measured[name])}"
        low, high = (rung.measured.get(name.replace("_delta", end)) for end in ("_low", "_high"))
        if name.endswith("_delta") and low is not None and high is not None:
            line += f" [{words.signed(low)},{_TIE}{words.signed(high)}]"
        if name in rung.limits:
            limit = f"{rung.limits[name]:g}".replace("-", words.MINUS)
            line += f" ({'≤' if name in BOUNDED_ABOVE else '≥'}{_TIE}{limit})"
        lines.append(line)
    return lines


def number_words(name: str, value: float) -> str:
    """A number of the ladder as the page writes it."""
    if name == "max_abs":
        return f"{value:.1e}"
    if name.endswith("cosine"):
        return f"{value:.5f}"
    if name.endswith("_delta"):
        return words.signed(value)
    return f"{value:.2f}" if name.endswith("_ratio") else words.share(value)


def _worst(rows: tuple[FileRow, ...]) -> FileRow | None:
    """The file of the bundle that loses most R@1."""
    searched = [row for row in rows if row.path is not None and row.r_at_1_delta is not None]
    return min(searched, key=lambda row: (row.r_at_1_delta or (0.0,))[0], default=None)


def _layer_groups(manifest: Manifest) -> list[dict[str, Any]]:
    """Files with the same layers' errors and the same layers in float, told once, with their plot."""
    groups: dict[tuple[tuple[LayerError, ...], tuple[str, ...], int, bool], list[str]] = {}
    for file in manifest.files:
        group = file.layers, file.kept_float, file.attempts, False
        groups.setdefault(group, []).append(f"{file.format} {file.precision}")
    for entry in manifest.blocked:
        group = entry.layers, entry.kept_float, entry.attempts, True
        groups.setdefault(group, []).append(f"{entry.format} {entry.precision} (left out)")
    told = []
    for (layers, kept, attempts, left_out), names in groups.items():
        if not layers:
            continue
        from hetero.report.layers_plot import Layer, plot_layers

        bars = [Layer(one.name, min(max(1 - one.mean_cosine, 0.0), 2.0), one.name in kept) for one in layers]
        names_text = " and ".join(names)
        plot = plot_layers(bars, what=names_text)
        group_told = {"layers": layers, "kept": kept, "attempts": attempts, "left_out": left_out}
        told.append({**group_told, "names": names_text, "plot": plot})
    return told


def _similarity_plot(manifest: Manifest) -> Plot | None:
    if manifest.retrieval is None:
        return None
    from hetero.report.histograms import Mark, Panel, draw_panels

    torch = manifest.retrieval.torch_similarities
    marks = tuple(Mark(one.similarity, one.far, one.true_accept_rate.value) for one in manifest.thresholds)
    found: list[tuple[str, Similarities, tuple[Sequence[int], Sequence[int]] | None]]
    found = [("torch model", torch, None)]
    for file in manifest.files:
        if file.similarities is not None:
            found.append((f"{file.format} {file.precision}", file.similarities, (torch.matching, torch.non_matching)))
    panels = [
        Panel(
            title=name,
            name=name,
            edges=np.linspace(-1, 1, len(one.matching) + 1).tolist(),
            matching=one.matching,
            non_matching=one.non_matching,
            marks=marks,
            reference=None if reference is None or len(reference[0]) != len(one.matching) else reference,
        )
        for name, one, reference in found
    ]
    return draw_panels(panels, note=" Dashed outlines: the torch model, where a file's curves should lie.")
