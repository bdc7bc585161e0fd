"""One call from a trained network to a bundle: trace, write each file, climb the parity ladder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
from torch import nn

import hetero
from exporters.bundle import Bundle, checked_destination, write_bundle
from exporters.fold import fold
from exporters.golden import make_golden, npy_bytes
from exporters.graph import Graph
from exporters.ladder import measure
from exporters.manifest import (
    FileGolden,
    FileInput,
    InputSpec,
    Manifest,
    Model,
    ModelFile,
    OutputSpec,
    Provenance,
    Tool,
    entry_of,
)
from exporters.parity import probe_pixels, reference_embeddings
from exporters.recipes import Recipe, chosen
from exporters.runtimes import PREPROCESS_KEY, SPACE_KEY, open_bytes
from exporters.signature import signature_of
from exporters.source import read_source, require_exportable
from exporters.trace import trace
from exporters.workers import start
from hetero.errors import ConfigError
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.verification import Threshold
from hetero.space import EmbeddingSpace

_TOOLS = {"onnx": ("torch", "onnx", "onnxscript"), "tflite": ("torch", "tensorflow")}
_TOOLS |= {"coreml": ("torch", "coremltools", "sklearn")}


def export(
    model: str | Path | nn.Module,
    out: str | Path,
    *,
    preprocess: PreprocessSpec | None = None,
    space: EmbeddingSpace | None = None,
    golden_images: np.ndarray | Sequence[np.ndarray | Path] | None = None,
    thresholds: Sequence[Threshold] | None = None,
    formats: Sequence[str] = ("onnx",),
    precisions: Sequence[str] = ("fp32",),
    licence: str = "NOASSERTION",
    say: Callable[[str], object] = lambda line: None,
) -> Bundle:
    """Export a student into a bundle, each file measured against torch in every installed runtime of its format.

    Args:
        model: a checkpoint directory, or a network that takes colour-normalised float32 ``[b, c, h, w]`` and
            returns ``[b, dim]``. A network is left as it was, its training mode included.
        out: ``NAME.hetero``, written in one step; an older bundle there is replaced.
        preprocess, space: of a network; a checkpoint has its own.
        golden_images: ``uint8 [n, h, w]`` or ``[n, h, w, c]``, or a sequence of single pictures of any size or
            of paths of image files, which are kept as they are; with None, seeded synthetic pictures (the manifest
            says which).
        thresholds: from :func:`hetero.retrieval.verification.calibrate`; with None, the checkpoint's.
        formats, precisions: every combination that :data:`exporters.recipes.RECIPES` has is exported.
        licence: SPDX expression for the weights; ``NOASSERTION`` says that nothing was stated.
        say: called with a line of progress for each file.

    Raises:
        ConfigError: an option that cannot be used. CheckpointError: the checkpoint cannot be read.
        ExportError: the network does not export, or an exported file does not reproduce it; nothing is written.
        MissingExtraError: a format's converter or runtime is not installed.
        StorageError: the disk refused; an older bundle is untouched.
    """
    out = checked_destination(out)
    if not licence:
        raise ConfigError("the licence is empty", fix="state an SPDX expression, or leave the argument out")
    recipes = chosen(formats, precisions)
    source = read_source(model, preprocess, space)
    spec = source.preprocess
    require_exportable(source.network, spec, source.space.dim)
    graph = fold(trace(source.network, spec))
    golden, golden_pixels, contents = make_golden(source.network, spec, golden_images)
    pixels = np.concatenate([golden_pixels, probe_pixels((spec.height, spec.width, spec.channels))])
    reference = reference_embeddings(source.network, pixels, spec)
    metadata = {SPACE_KEY: source.space.id, PREPROCESS_KEY: spec.fingerprint()}
    picture = InputSpec(height=spec.height, width=spec.width, channels=spec.channels)
    output = OutputSpec(dim=source.space.dim)
    files: list[ModelFile] = []
    used = tuple(dict.fromkeys(recipe.format for recipe in recipes))
    with start(used) as workers:
        for recipe in recipes:
            say(f"{recipe.format} {recipe.precision}: converting")
            data, ops, opset, source_input = _convert(recipe, graph, metadata)
            expected = signature_of(source_input, picture, output)
            if recipe.format == "onnx":
                open_bytes(data, picture, output, where="the exported model")  # names and types, too
            measured = measure(data, recipe, expected, pixels, reference, len(golden_pixels), workers)
            golden_path = f"golden/{recipe.format}.{recipe.precision}.npy"
            own = npy_bytes(measured.vectors[: len(golden_pixels)])
            file = ModelFile(
                **entry_of(recipe.path, data).model_dump(),
                format=recipe.format,
                precision=recipe.precision,
                recipe=recipe.name,
                opset=opset,
                ops=ops,
                input=source_input,
                ladder=measured.ladder,
                runtimes=measured.runtimes,
                golden=FileGolden(**entry_of(golden_path, own).model_dump(), max_abs=recipe.golden_max_abs),
            )
            files.append(file)
            contents |= {recipe.path: data, golden_path: own}
            say(
                f"{recipe.format} {recipe.precision}: {file.size_bytes:,} bytes, max abs {file.measured('max_abs'):.1e}"
            )
    manifest = Manifest(
        name=out.stem,
        licence=licence,
        space=source.space,
        model=Model(weights_sha256=source.weights_sha256, arch=source.arch),
        input=picture,
        output=output,
        preprocess=spec,
        files=tuple(files),
        thresholds=source.thresholds if thresholds is None else tuple(thresholds),
        golden=golden,
        provenance=Provenance(
            created_by="exporters.export", hetero_version=hetero.__version__, tools=_tools(used, list(files))
        ),
    )
    return write_bundle(out, manifest, contents)


def _convert(
    recipe: Recipe, graph: Graph, metadata: dict[str, str]
) -> tuple[bytes, dict[str, int], int | None, FileInput]:
    """The file's bytes, its operators, its opset, and how it takes pictures."""
    if recipe.format == "onnx":
        from exporters.onnx import OPSET, to_onnx

        return *to_onnx(graph, metadata), OPSET, FileInput(dtype="uint8", layout="NHWC", batch="free")
    if recipe.format == "coreml":
        from exporters.coreml import to_coreml

        data, ops = to_coreml(graph, recipe.precision, metadata)
        return data, ops, None, FileInput(dtype="image", layout="NHWC", batch="one")
    from exporters.tflite import to_tflite

    data, ops = to_tflite(graph, recipe.precision, metadata)
    return data, ops, None, FileInput(dtype="float32", layout="NHWC", batch="one")


def _tools(formats: Sequence[str], files: Sequence[ModelFile]) -> tuple[Tool, ...]:
    """Name and version of what made and what ran the files."""
    names = [name for format in formats for name in _TOOLS[format]]
    found = {"python": platform.python_version(), **{name: import_module(name).__version__ for name in names}}
    found |= {result.name: result.version for file in files for result in file.runtimes}
    return tuple(Tool(name=name, version=str(number)) for name, number in found.items())
