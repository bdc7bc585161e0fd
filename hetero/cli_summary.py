"""The command about several seeds of one experiment. ``hetero/cli.py`` registers it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hetero.console import Json, print_json, stdout
from hetero.errors import ConfigError


def summary(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories of one experiment: other seeds, or other students of one gallery model."),
    ],
    compare: Annotated[
        list[str] | None,
        typer.Option(help="FIRST:SECOND, each paragon, STUDENT or STUDENT/CELL (homogeneous, reverse, mapped)."),
    ] = None,
    versus: Annotated[
        list[Path] | None,
        typer.Option(help="A run of another experiment on the same data, whose gallery model is compared (repeat)."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write accuracy against MACs as an SVG file.")] = None,
    json: Json = False,
) -> None:
    """Put the runs of one experiment together: means, spread, and which orderings all of them support.

    Example: hetero summary runs/fleet-0 runs/fleet-1 runs/fleet-2 --compare flagship:paragon
    """
    from rich.markdown import Markdown

    from hetero import atomic
    from hetero.report.summary import plot_summary, summary_markdown
    from hetero.workflows.summary import summarise

    if plot is not None and plot.suffix.lower() != ".svg":
        raise ConfigError("--plot writes an SVG file", got=str(plot), expected="a name that ends in .svg")
    found = summarise(runs, [_compared(pair) for pair in compare or []], versus=versus or [])
    if plot is not None:
        atomic.write_text(plot, plot_summary(found).svg)
    if json:
        print_json(found.to_json())
    elif markdown:
        sys.stdout.write(summary_markdown(found))
    else:
        stdout().print(Markdown(summary_markdown(found)))


def _compared(pair: str) -> tuple[str, str]:
    first, separator, second = pair.partition(":")
    if not separator:
        raise ConfigError("--compare takes two series", got=repr(pair), expected="FIRST:SECOND, such as small:paragon")
    return first, second
