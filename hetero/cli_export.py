"""The commands about bundles: export, verify, sign. ``hetero/cli.py`` registers them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hetero.console import CheckFailedError, Json, print_json, stderr, stdout
from hetero.errors import ConfigError
from hetero.tables import bundle_table, checks_table

if TYPE_CHECKING:
    from exporters.proof import Proof


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A student's checkpoint, e.g. runs/NAME/students/STUDENT.")],
    out: Annotated[Path | None, typer.Option(help="Bundle to write (default: STUDENT.hetero).")] = None,
    format_: Annotated[list[str] | None, typer.Option("--format", help="onnx, tflite, coreml; repeatable.")] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16, dynamic, int8, int8io, int8w, palette6, or a recipe's name.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Pictures to calibrate on and to search: run config, folder, .csv, .npz.")
    ] = None,
    gallery_model: Annotated[Path | None, typer.Option(help="The gallery model's checkpoint.")] = None,
    split: Annotated[str | None, typer.Option(help="Whose pictures are searched (default: the test's).")] = None,
    calibration: Annotated[int, typer.Option(help="Training pictures for int8; every eighth is held back.")] = 512,
    retrieval: Annotated[bool, typer.Option(help="Search the gallery with each file.")] = True,
    allow: Annotated[
        list[str] | None, typer.Option(help="Rung that files may fail: tensor, cosine, retrieval, flips, thresholds.")
    ] = None,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="Leave a failing file out instead of stopping.")
    ] = False,
    golden: Annotated[list[Path] | None, typer.Option(help="Image file kept as golden input; repeatable.")] = None,
    licence: Annotated[str, typer.Option(help="SPDX expression for the weights.")] = "NOASSERTION",
    page: Annotated[Path | None, typer.Option(help="Also write the bundle's page, one HTML file, here.")] = None,
    json: Json = False,
) -> None:
    """Export a student to files that phones run, each measured against torch, in one verified bundle.

    In a run directory, every file also searches the gallery of the run's data; elsewhere where --data and
    --gallery-model name one.

    Example: hetero export runs/demo/students/small --format onnx --format tflite --out small.hetero
    """
    import exporters
    from exporters.latency import latency
    from exporters.page import require_page, write_page
    from exporters.recipes import chosen
    from exporters.summary import file_rows

    exporting, out = exporters.export, out or Path(f"{checkpoint.name}.hetero")  # says so where there is no torch
    from exporters.pipeline import require_options

    require_options(out, licence, allow or [])
    if page is not None:
        require_page(page, out)
    formats, precisions = format_ or ["onnx"], precision or ["fp32"]
    calibrated = any(recipe.calibrated for recipe in chosen(formats, precisions))
    proof = _proof(checkpoint, data, gallery_model, split, calibration if calibrated else 0, retrieval)
    bundle = exporting(
        checkpoint,
        out,
        golden_images=golden or None,
        formats=formats,
        precisions=precisions,
        calibration=proof.calibration if proof else None,
        retrieval=proof.retrieval if proof else None,
        allow=allow or [],
        leave_out=leave_out,
        licence=licence,
        say=stderr().print,
    )
    if page is not None:
        write_page(bundle, page)
    latency_ms = latency(bundle)
    if json:
        manifest = bundle.manifest.model_dump(mode="json")
        print_json({"bundle": str(bundle.path), "manifest": manifest, "latency_ms": latency_ms})
    else:
        stdout().print(bundle_table(bundle, file_rows(bundle.manifest), latency_ms))


def report_bundle(path: Path, *, markdown: bool, json: bool) -> None:
    """Write the page of a bundle beside it and print its table, or its model card."""
    from exporters.bundle import open_bundle
    from exporters.card import model_card
    from exporters.page import page_path, write_page
    from exporters.summary import file_rows

    bundle = open_bundle(path)
    page = write_page(bundle, page_path(bundle.path))
    if json:
        manifest = bundle.manifest.model_dump(mode="json")
        print_json({"bundle": str(bundle.path), "page": str(page), "manifest": manifest})
    elif markdown:
        sys.stdout.write(model_card(bundle.manifest))
    else:
        stdout().print(bundle_table(bundle, file_rows(bundle.manifest), {}))
        stdout().print(f"page: {page}", markup=False, soft_wrap=True)


def _proof(
    checkpoint: Path, data: Path | None, gallery_model: Path | None, split: str | None, calibration: int, search: bool
) -> Proof | None:
    """What the export is proved with; None where there is nothing to measure with, or nothing is to be."""
    in_run = (checkpoint.resolve().parent.parent / "run.json").exists()
    if data is None and not in_run and (gallery_model is not None or split is not None):
        raise ConfigError("--gallery-model and --split need pictures", fix="name them with --data")
    wanted, search = search, search and (gallery_model is not None or in_run)
    if split is not None and not search:
        raise ConfigError(
            "--split says what is searched, and nothing is", fix="name a --gallery-model, or leave it out"
        )
    if wanted and not search:
        stderr().print("no gallery model is named: whether the files find what the torch model finds is not measured")
    if not (search or calibration) or (data is None and not in_run):
        return None
    from exporters.proof import proof_of

    return proof_of(
        checkpoint,
        data=data,
        gallery_model=gallery_model,
        split=split,
        calibration_pictures=calibration,
        search=search,
        say=stderr().print,
    )


def verify(
    bundle: Annotated[Path, typer.Argument(help="A .hetero bundle.")],
    space: Annotated[str | None, typer.Option(help="Space id that it must be in.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Gallery whose space it must be in.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="PEM file of the key that must have signed it.")] = None,
    signature: Annotated[Path | None, typer.Option(help="Its signature (default: BUNDLE.sig beside it).")] = None,
    json: Json = False,
) -> None:
    """Check a bundle again: hashes, signature, golden preprocessing and embeddings, space; exit code 1 on a failure.

    Example: hetero verify small.hetero --gallery runs/demo/gallery-index
    """
    import exporters
    from hetero.retrieval.gallery import open_gallery

    if space is not None and gallery is not None:
        raise ConfigError("--space and --gallery both name a space", fix="give one of them")
    expected = open_gallery(gallery).record.space_id if gallery is not None else space
    report = exporters.verify(bundle, expected_space=expected, public_key=public_key, signature=signature)
    if json:
        print_json(report.to_json())
    else:
        stdout().print(checks_table(bundle, report.checks))
        stdout().print(report.summary(), markup=False, soft_wrap=True)
    if not report.passed:
        raise CheckFailedError(f"{bundle} does not verify: {report.summary()}")


def sign(
    bundle: Annotated[Path, typer.Argument(help="A .hetero bundle.")],
    key: Annotated[Path, typer.Option(help="Private key that signs, PEM: P-256, P-384 or P-521.")],
    password_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the key's password.")
    ] = None,
    signature: Annotated[Path | None, typer.Option(help="Where to write (default: BUNDLE.sig beside it).")] = None,
    json: Json = False,
) -> None:
    """Sign a bundle, so that hetero verify --public-key tells a forged one.

    Example: hetero sign small.hetero --key private.pem
    """
    import exporters

    password = None if password_env is None else os.environ.get(password_env)
    if password_env is not None and password is None:
        raise ConfigError(f"the environment variable {password_env!r} is not set", fix="set it to the key's password")
    written = exporters.sign(bundle, key, password=password, signature=signature)
    if json:
        print_json({"bundle": str(bundle), "signature": str(written)})
    else:
        stdout().print(f"signature: {written}", markup=False, soft_wrap=True)
