"""How much each layer of a quantised file loses by itself, as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hetero.report.canvas import COLOURS, INK, MUTED, TEXT, Plot, linear_ticks, new_figure, plain, style, to_svg

SHOWN = 20
_ROW_IN = 0.215


class Layer(NamedTuple):
    """``loss`` is 1 less the mean cosine with this layer alone quantised; ``in_float``: it was left unquantised."""

    name: str
    loss: float
    in_float: bool


def plot_layers(layers: Sequence[Layer], *, what: str) -> Plot:
    """The worst layers as horizontal bars, the worst on top; those kept in float are hatched and say so.

    Args:
        layers: the worst first, at least one.
        what: they belong to, for the alternative text.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    shown = layers[:SHOWN]
    figure = new_figure(_ROW_IN * len(shown) + 0.6)
    axes = figure.subplots()
    style(axes, grid="x")
    most = max(max(layer.loss for layer in shown), 1e-9)
    axes.set_xlim(0, 1.16 * most)  # room for the numbers
    axes.set_ylim(len(shown) - 0.4, -0.6)
    for place, layer in enumerate(shown):
        if layer.in_float:
            axes.barh(place, layer.loss, height=0.66, facecolor="white", edgecolor=MUTED, hatch="////", linewidth=0.8)
        else:
            axes.barh(place, layer.loss, height=0.66, color=COLOURS["heterogeneous"], linewidth=0)
        text = f"{layer.loss:.2g}" + (", kept in float" if layer.in_float else "")
        axes.annotate(
            text, (layer.loss, place), (4, 0), textcoords="offset points", va="center", fontsize=8.0, color=INK
        )
    axes.set_yticks(range(len(shown)), [plain(layer.name, 44) for layer in shown])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=8.5)
    axes.xaxis.set_major_locator(linear_ticks(5))
    axes.set_xlabel("1 − mean cosine to the float embedding, this layer alone quantised", **TEXT)
    count = f"The worst {len(shown)} of {len(layers)} layers" if len(layers) > len(shown) else "All layers that lose"
    kept = [layer.name for layer in shown if layer.in_float]
    alt = f"Bars of {len(shown)} layers of {what}: " + ", ".join(
        f"{layer.name} {layer.loss:.2g}" + (" (kept in float)" if layer.in_float else "") for layer in shown
    )
    return Plot(
        to_svg(figure),
        alt + ".",
        f"{count}. Each is quantised alone, all else stays in float; the bar is what the embedding's mean cosine then "
        "loses. Losses of several layers do not simply add up."
        + (" Hatched: kept in float in the file, so that it loses this no more." if kept else ""),
    )
