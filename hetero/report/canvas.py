"""What every plot of a report shares: palette, text sizes, axes without clutter, SVG as text.

Colours are Okabe and Ito's (distinct under the common colour-vision deficiencies) and never the only sign:
lines and markers are labelled directly. Matplotlib is used through its objects, so nothing global is touched.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hetero.errors import MissingExtraError
from hetero.report import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN = 9.6  # drawn at page width (about 920 px), so that the text sizes below are those on the page
INK, MUTED, GRID = "#1f2328", "#5c6570", "#dfe3e8"
COLOURS = {"paragon": INK, "heterogeneous": "#0072b2", "homogeneous": "#d55e00", "reverse": "#009e73"}
MARKERS = {"paragon": "D", "heterogeneous": "o", "homogeneous": "s", "reverse": "^"}
CONTROL_COLOUR = "#8a5a83"
LINES = ("#0072b2", "#d55e00", "#009e73", "#aa5c8f", "#8c6d00", "#56b4e9", "#444b54")
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 10.5, "color": INK, "fontweight": "bold"}
TEXT: dict[str, Any] = {"fontsize": 9.0, "color": INK}
NOTE: dict[str, Any] = {"fontsize": 8.0, "color": MUTED}


@dataclass(frozen=True)
class Plot:
    """One picture: ``svg`` (a whole document), ``alt`` (it in words) and ``caption`` (how to read it)."""

    svg: str
    alt: str
    caption: str

    @property
    def data_uri(self) -> str:
        """For the ``src`` of an image: there its ids cannot clash with the page's, nor scripts run."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode("utf-8")).decode("ascii")


def new_figure(height_in: float | int) -> Figure:
    """An empty figure of page width, laid out so that nothing overlaps.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("drawing the report", "matplotlib", "report") from None
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained", facecolor="white")


def plain(text: str, characters: int) -> str:
    """A name for a plot: shortened, its dollar signs not taken for mathematics."""
    return words.shorten(text, characters).replace("$", r"\$")


def to_svg(figure: Figure) -> str:
    """The figure as SVG text: outlines for letters (the same everywhere), no date, no random ids."""
    import matplotlib

    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    fixed: dict[Any, Any] = {"svg.hashsalt": "hetero", "svg.fonttype": "path"}
    with matplotlib.rc_context(fixed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # drawn as a box; the table has the name
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def style(axes: Axes, *, grid: str | None) -> None:
    """Strip the frame and ticks, and draw a faint grid across ``x``, ``y`` or not at all."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=MUTED, pad=4)
    axes.set_axisbelow(True)
    if grid == "x":
        axes.grid(axis="x", color=GRID, linewidth=0.8)
    elif grid == "y":
        axes.grid(axis="y", color=GRID, linewidth=0.8)


def linear_ticks(count: int, *, integer: bool = False) -> Any:
    """A locator of at most ``count`` + 1 round ticks."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=count, integer=integer)


def log_ticks() -> Any:
    """A locator of 1, 2 and 5 in each decade."""
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0), numticks=12)


def spread(values: Sequence[float], gap: float | int, low: float | int, high: float | int) -> list[float]:
    """Heights for labels: near ``values``, neighbours ``gap`` apart, none above ``high``."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    placed = list(values)
    floor = low
    for index in order:
        placed[index] = max(placed[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
