"""The ``hetero`` command. Each command composes the rooms; results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 a check failed, 2 bad usage or input, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hetero import cli_device, cli_export, cli_summary, cli_templates
from hetero.console import (
    CheckFailedError,
    Command,
    Json,
    list_skipped,
    print_json,
    reporting_errors,
    require,
    stderr,
    stdout,
)
from hetero.errors import ConfigError
from hetero.tables import dataset_table, matches_table

app = typer.Typer(
    help="Visual search across devices: one large gallery model, small query models, one embedding space.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Set = Annotated[list[str] | None, typer.Option("--set", help="Override a config key: key.path=value.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: torch's choice).")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out and list them.")]


def command(function: Command) -> Command:
    """Register a command."""
    app.command()(reporting_errors(function))
    return function


def main() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGTERM, _terminated)
    app()


def _terminated(number: int, frame: object) -> None:
    """Leave by an exception, so that temporary files and workers go as they do after an interruption."""
    raise SystemExit(128 + number)


@command
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/demo"),
    set_: Set = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Train, export, verify, search and report on the embedded glyph images, in minutes.

    Example: hetero demo --out runs/demo
    """
    from importlib.resources import files

    import exporters
    from exporters.queries import query_vectors
    from hetero.config import parse_config
    from hetero.data.open import open_dataset
    from hetero.logs import stderr_progress
    from hetero.retrieval.gallery import open_gallery
    from hetero.workflows.evaluate import evaluate_run
    from hetero.workflows.index import index_pictures
    from hetero.workflows.pictures import save_pictures
    from hetero.workflows.query import find_matches, save_sheet
    from hetero.workflows.source import open_source
    from hetero.workflows.train import train_run

    say = stderr().print
    text = files("hetero").joinpath("demo.yaml").read_text(encoding="utf-8")
    config = parse_config(text, set_ or [], source="the demo config")
    student = next((s.name for s in config.students if s.role == "compatible"), None)
    if student is None:
        raise ConfigError("the demo needs a compatible student", fix="leave the students as they are")
    say("preparing the glyph images")
    dataset = open_dataset(config.data)
    trained = train_run(config, out, progress=stderr_progress(), threads=threads)
    report = evaluate_run(out, say=say)
    manifest = save_pictures(dataset, out / "pictures", split=config.evaluation.split)
    pictures = sorted(manifest.parent.glob("*.png"))
    say(f"exporting {student}")
    bundle = exporters.export(trained.students[student], out / f"{student}.hetero", golden_images=pictures[::97][:8])
    verified = exporters.verify(bundle.path, expected_space=trained.space_id)
    index_pictures(trained.gallery, open_source(manifest), out / "gallery-index")
    gallery = open_gallery(out / "gallery-index")
    query = pictures[0]
    queries = query_vectors(bundle.path, [query], skip_bad=False)
    [matches] = find_matches(queries, gallery, 6)
    save_sheet(query, matches[1:], out / "query.png")  # the first match is the query's own picture
    _write_report(report, out)
    if json:
        print_json(report.model_dump(mode="json", by_alias=True))
    else:
        _print_report(report)
        lines = [out / "report.html", bundle.path, out / "gallery-index", out / "query.png"]
        stdout().print("report, bundle, gallery, query picture: " + ", ".join(map(str, lines)), soft_wrap=True)
    if not verified.passed:
        raise CheckFailedError(f"{bundle.path} does not verify")
    require(report)
    if not json:
        stdout().print(f"all {len(report.checks)} checks passed")


@command
def train(
    config: Annotated[Path, typer.Argument(help="Run config, YAML.")],
    out: Annotated[Path | None, typer.Option(help="Run directory (default: runs/NAME).")] = None,
    set_: Set = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Train the gallery model and all students; the same command continues an interrupted run.

    Example: hetero train examples/glyphs.yaml --set gallery.train.epochs=4
    """
    from hetero.config import load_config
    from hetero.logs import stderr_progress
    from hetero.workflows.train import train_run

    loaded = load_config(config, set_ or [])
    trained = train_run(loaded, out or Path("runs") / loaded.name, progress=stderr_progress(), threads=threads)
    if json:
        print_json(
            {
                "run": str(trained.run),
                "space_id": trained.space_id,
                "gallery": str(trained.gallery),
                "students": {name: str(path) for name, path in trained.students.items()},
                "stopped": trained.stopped,
            }
        )
    else:
        stdout().print(f"trained into {trained.run}, space {trained.space_id}; next: hetero compat {trained.run}")
    if trained.stopped:
        lines = "; ".join(f"{name}: {reason}" for name, reason in trained.stopped.items())
        raise CheckFailedError(f"students that diverged were stopped, the others are trained: {lines}")


@command
def compat(
    run: Annotated[Path, typer.Argument(help="A finished run directory.")],
    split: Annotated[str | None, typer.Option(help="Classes to search (default: the config's).")] = None,
    bundle: Annotated[
        list[str] | None, typer.Option(help="STUDENT=BUNDLE: embed its queries with onnxruntime.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where report.json goes (default: the run).")] = None,
    set_: Set = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Measure the four retrieval cells and the compatibility rule; exit code 1 where a check fails.

    Example: hetero compat runs/demo --json
    """
    from exporters.queries import dataset_embedder
    from hetero.workflows.evaluate import evaluate_run

    _set_threads(threads)
    bundles = map(_named_bundle, bundle or [])
    embedders = {name: dataset_embedder(path, threads=threads or 2) for name, path in bundles}
    changed = bool(split or bundle or set_)
    kept = out or (None if changed else run)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    report = evaluate_run(
        run, split=split, overrides=set_ or [], embedders=embedders, scores_to=kept, say=stderr().print
    )
    if kept is not None:
        _write_report(report, kept)
    else:
        stderr().print("other than the run's own evaluation: no report written; --out FOLDER writes one")
    if json:
        print_json(report.model_dump(mode="json", by_alias=True))
    else:
        _print_report(report)
    require(report)


command(cli_templates.templates)
command(cli_summary.summary)


@command
def index(
    model: Annotated[Path, typer.Argument(help="The gallery model's checkpoint, e.g. runs/NAME/gallery.")],
    source: Annotated[Path, typer.Argument(help="Folder of images, .csv manifest, .npz or .yaml config.")],
    out: Annotated[Path, typer.Option(help="Gallery directory to write.")] = Path("gallery"),
    split: Annotated[str | None, typer.Option(help="Only this split's images.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Embed images with the gallery model and write a gallery to search.

    Example: hetero index runs/demo/gallery runs/demo/pictures/manifest.csv --out runs/demo/gallery-index
    """
    from hetero.workflows.index import index_pictures
    from hetero.workflows.source import open_source

    dataset = open_source(source, skip_bad=skip_bad)
    record, skipped = index_pictures(model, dataset, out, split=split, device=device, skip_bad=skip_bad)
    if json:
        print_json({"gallery": str(out), "skipped": list(skipped), **record.model_dump(mode="json")})
    else:
        stdout().print(f"{record.count} vectors of space {record.space_id} in {out}")
        list_skipped(skipped)


@command
def query(
    gallery: Annotated[Path, typer.Argument(help="Gallery directory.")],
    images: Annotated[list[Path], typer.Argument(help="Image files to search with.")],
    model: Annotated[Path, typer.Option(help="Query model: a checkpoint or a .hetero bundle.")],
    top: Annotated[int, typer.Option(min=1, help="Matches per image.")] = 5,
    sheet: Annotated[Path | None, typer.Option(help="Picture of the first image beside its matches.")] = None,
    skip_bad: SkipBad = False,
    json: Json = False,
) -> None:
    """Print the top matches of image files and save a picture of them.

    Example: hetero query runs/demo/gallery-index runs/demo/pictures/000056.png --model runs/demo/small.hetero
    """
    from hetero.retrieval.gallery import open_gallery
    from hetero.workflows.query import embed_with_checkpoint, find_matches, save_sheet

    opened = open_gallery(gallery)
    if _is_bundle(model):
        from exporters.queries import query_vectors

        queries = query_vectors(model, images, skip_bad=skip_bad)
    else:
        queries = embed_with_checkpoint(model, images, skip_bad=skip_bad)
    found = find_matches(queries, opened, top) if queries.paths else []
    sheet = sheet or Path("query.png")
    if found:
        save_sheet(queries.paths[0], found[0], sheet)
    if json:
        results = [
            {"query": str(path), "matches": [vars(match) for match in matches]}
            for path, matches in zip(queries.paths, found, strict=True)
        ]
        shown = str(sheet) if found else None
        print_json({"space_id": queries.space_id, "results": results, "skipped": list(queries.skipped), "sheet": shown})
        return
    for path, matches in zip(queries.paths, found, strict=True):
        stdout().print(matches_table(path, matches))
    if found:
        stdout().print(f"picture: {sheet}")
    list_skipped(queries.skipped)


device = typer.Typer(help="Run bundles on phones and emulated devices.", no_args_is_help=True)
emulator = typer.Typer(help="An emulated arm64 Linux device, reached over real adb.", no_args_is_help=True)
app.add_typer(device, name="device")
device.add_typer(emulator, name="emulator")
device.command()(reporting_errors(cli_device.run))
for _emulating in (cli_device.build, cli_device.start, cli_device.status, cli_device.stop):
    emulator.command()(reporting_errors(_emulating))

for _exporting in (cli_export.export, cli_export.verify, cli_export.sign):
    command(_exporting)


@command
def report(
    run: Annotated[Path, typer.Argument(help="Run directory with a report.json, or a .hetero bundle.")],
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables as Markdown, of a bundle the model card.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the HTML page of a run's report.json, or of a bundle beside it, and print its table.

    Example: hetero report runs/demo
    """
    if _is_bundle(run):
        cli_export.report_bundle(run, markdown=markdown, json=json)
        return
    from hetero.report.build import load_report
    from hetero.report.markdown import render_markdown

    loaded = load_report(run)
    _write_report(loaded, run if run.is_dir() else run.parent)
    if json:
        print_json(loaded.model_dump(mode="json", by_alias=True))
    elif markdown:
        sys.stdout.write(render_markdown(loaded))
    else:
        _print_report(loaded)
        stdout().print(f"page: {(run if run.is_dir() else run.parent) / 'report.html'}")


@command
def data(
    source: Annotated[Path, typer.Argument(help="Folder of images, .csv, .npz or .yaml run config.")],
    split: Annotated[str | None, typer.Option(help="Split for --sheet and --save-images.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Save sample images of random classes as a PNG.")] = None,
    save_images: Annotated[Path | None, typer.Option(help="Write the images as PNG files with a manifest.csv.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    skip_bad: SkipBad = False,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Describe a set of images: classes, splits, sizes, roles, groups; with --skip-bad, unreadable files.

    Example: hetero data examples/glyphs.yaml --sheet sheet.png --split test
    """
    from hetero.data.describe import contact_sheet, describe
    from hetero.workflows.pictures import save_pictures
    from hetero.workflows.source import open_source

    dataset = open_source(source, set_ or [], skip_bad=skip_bad)
    content = describe(dataset)
    if sheet is not None:
        classes = contact_sheet(dataset, split or next(iter(dataset.splits), None), sheet, seed)
        content["sheet"] = {"path": str(sheet), "classes": classes}
    if save_images is not None:
        content["manifest"] = str(save_pictures(dataset, save_images, split=split))
    if json:
        print_json(content)
        return
    stdout().print(dataset_table(dataset.name, content))
    for key in ("pixels", "roles", "groups", "manifest"):
        if content.get(key):
            stdout().print(f"{key}: {content[key]}", markup=False)
    if sheet is not None:
        stdout().print(f"sheet: {sheet}, a row each of {', '.join(content['sheet']['classes'])}", markup=False)
    list_skipped(content["skipped"])


def _is_bundle(path: Path) -> bool:
    return (path / "manifest.json").exists() or path.suffix == ".hetero"


def _named_bundle(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator:
        raise ConfigError("--bundle has no '='", got=repr(text), expected="--bundle STUDENT=PATH.hetero")
    return name, Path(path)


def _write_report(report: Any, folder: Path) -> None:
    from hetero.report.build import write_report

    write_report(report, folder)


def _print_report(report: Any) -> None:
    from hetero.report.build import render_terminal

    stdout().print(render_terminal(report))


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
