"""The command about faces: a run's models on IJB-C. ``hetero/cli.py`` registers it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hetero.console import Json, list_skipped, print_json, require, stderr, stdout


def templates(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    path: Annotated[Path, typer.Argument(help="IJB-C: the folder with protocols/ or meta/; see docs/data.md.")],
    layout: Annotated[str | None, typer.Option(help="protocols or meta, where both are there.")] = None,
    protocol: Annotated[str | None, typer.Option(help="1:1, 1:N or both (default: what is there).")] = None,
    far: Annotated[
        list[float] | None, typer.Option(help="False accept rate of 1:1, instead of the preset's; repeatable.")
    ] = None,
    fpir: Annotated[
        list[float] | None, typer.Option(help="False positive identification rate of 1:N; repeatable.")
    ] = None,
    only_supported: Annotated[
        bool, typer.Option("--only-supported", help="Leave out, and name, rates with too few comparisons.")
    ] = False,
    controls: Annotated[bool, typer.Option("--controls", help="Score the controls, too.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out and list them.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write templates.json to.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps (default: the run's).")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads (default: torch's choice).")] = None,
    json: Json = False,
) -> None:
    """Compare and search the face templates of IJB-C with a run's models; exit code 1 where a check fails.

    Example: hetero templates runs/faces IJB-C --protocol 1:1 --far 0.001 --far 0.0001
    """
    from hetero import atomic
    from hetero.report.templates import TEMPLATES_JSON
    from hetero.report.templates_table import render_templates
    from hetero.workflows.templates import evaluate_templates

    report = evaluate_templates(
        run,
        path,
        layout=layout,
        protocol=protocol,
        skip_bad=skip_bad,
        fars=far or (),
        fpirs=fpir or (),
        only_supported=only_supported,
        controls=controls,
        device=device,
        threads=threads,
        say=partial(stderr().print, markup=False),
    )
    if out is not None:
        atomic.write_json(out / TEMPLATES_JSON, report.to_json())
    if json:
        print_json(report.to_json())
    else:
        stdout().print(render_templates(report))
        list_skipped(report.data["skipped"])
    require(report)
