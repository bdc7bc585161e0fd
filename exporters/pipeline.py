"""One call from a trained network to a bundle: trace, write each file, climb the parity ladder."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
from torch import nn

import hetero
from exporters.bundle import Bundle, checked_destination, write_bundle
from exporters.calibration import read_calibration
from exporters.card import CARD, model_card
from exporters.convert import require_calibration, require_converters
from exporters.finetune import FineTuning
from exporters.fold import fold
from exporters.golden import make_golden
from exporters.graph import Graph
from exporters.litert import LitertFiles, litert_files, require_litert_makes
from exporters.maker import FileMaker, Made
from exporters.manifest import (
    RUNGS,
    Blocked,
    FileGolden,
    InputSpec,
    Manifest,
    Model,
    ModelFile,
    OutputSpec,
    Provenance,
    RetrievalRecord,
    Tool,
    entry_of,
)
from exporters.npy import npy_bytes
from exporters.parity import reference_embeddings
from exporters.recipes import Recipe, chosen, missing
from exporters.retrieval import Judge, RetrievalTest
from exporters.runtimes import open_bytes
from exporters.source import read_source, require_exportable
from exporters.trace import trace
from exporters.workers import start
from hetero.errors import ConfigError, ExportError, nearest
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.verification import Threshold
from hetero.space import EmbeddingSpace

# SPDX 2.3, annex D, without looking the names up.
_SPDX = re.compile(r"\(*[A-Za-z0-9][A-Za-z0-9.:+-]*\)*( (AND|OR|WITH) \(*[A-Za-z0-9][A-Za-z0-9.:+-]*\)*)*")
GOLDEN_PICTURES = 8  # taken from the calibration pictures where none are given
_TOOLS = {
    "onnx": ("torch", "onnx", "onnxscript"),
    "tflite": ("torch", "tensorflow"),
    "coreml": ("torch", "coremltools", "sklearn"),
}


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
    calibration: np.ndarray | Sequence[Path] | None = None,
    retrieval: RetrievalTest | None = None,
    finetuning: FineTuning | None = None,
    allow: Sequence[str] = (),
    leave_out: bool = False,
    litert_torch: str | Path | None = None,
    licence: str = "NOASSERTION",
    say: Callable[[str], object] = lambda line: None,
) -> Bundle:
    """Export a student into a bundle, each file measured against torch in every installed runtime of its format.

    An int8 file that fails is made again with more and more of the layers in float that lose most, down to the fewest
    with which it passes; where none passes and there is ``finetuning``, from a student fine-tuned to rounded numbers.

    Args:
        model: a checkpoint directory, or a network that takes colour-normalised float32 ``[b, c, h, w]`` and
            returns ``[b, dim]``. A network is left as it was, its training mode included.
        out: ``NAME.hetero``, written in one step; an older bundle there is replaced.
        preprocess, space: of a network; a checkpoint has its own. The space is the gallery's that the network searches;
            with None, the network defines one, for galleries that it indexes itself.
        golden_images: ``uint8 [n, h, w]`` or ``[n, h, w, c]``, or a sequence of single pictures of any size or
            of paths of image files, which are kept as they are; with None, some of the calibration pictures, and
            without those seeded synthetic pictures (the manifest says which).
        thresholds: from :func:`hetero.retrieval.verification.calibrate`; with None, the checkpoint's.
        formats, precisions: every combination that :data:`exporters.recipes.RECIPES` has is exported.
        calibration: real pictures of training classes, ``uint8 [n, h, w, c]`` preprocessed or paths; int8 needs them.
        retrieval: what the files must still find in the gallery; without it the upper rungs are "not measured".
        finetuning: training pictures and the gallery model's embeddings of them, for int8 files that calibration and
            mixed precision cannot save.
        allow: rungs of the ladder that files may fail; the manifest says where they did.
        leave_out: a file that fails is left out of the bundle and recorded with its numbers, instead of an error.
        litert_torch: path of a Python interpreter whose environment has litert-torch, which then makes the files
            (TFLite only, not int8): for networks with operations that :data:`exporters.graph.OPERATIONS` lacks.
        licence: SPDX expression for the weights; ``NOASSERTION`` says that nothing was stated.
        say: called with a line of progress for each file.

    Raises:
        ConfigError: an option that cannot be used. CheckpointError: the checkpoint cannot be read.
        ExportError: the network does not export, or an exported file does not reproduce it; nothing is written.
        MissingExtraError: a format's converter or runtime is not installed.
        StorageError: the disk refused; an older bundle is untouched.
    """
    out = require_options(out, licence, allow)
    recipes = chosen(formats, precisions)
    if litert_torch is not None:
        require_litert_makes(recipes)
    used = tuple(dict.fromkeys(recipe.format for recipe in recipes))
    require_converters(used)
    source = read_source(model, preprocess, space)
    spec = source.preprocess
    calibrated = None if calibration is None else read_calibration(calibration, spec)
    for recipe in recipes:
        require_calibration(recipe, calibrated)
    require_exportable(source.network, spec, source.space.dim)
    network: Graph | LitertFiles
    if litert_torch is None:
        network = fold(trace(source.network, spec))
    else:
        say("litert-torch: converting")
        network = litert_files(litert_torch, source.network, spec, [recipe.precision for recipe in recipes])
    golden_source = "given by the caller"
    if golden_images is None and calibrated is not None:
        held = calibrated.held_back
        golden_images = held[np.unique(np.linspace(0, len(held) - 1, GOLDEN_PICTURES).astype(int))]
        golden_source = "calibration pictures that were held back"
    golden, golden_pixels, contents = make_golden(source.network, spec, golden_images, source=golden_source)
    thresholds = source.thresholds if thresholds is None else tuple(thresholds)
    judge = None
    if retrieval is not None:
        say(f"{retrieval.name}: searching with the torch model")
        judge = Judge(retrieval, lambda pixels: reference_embeddings(source.network, pixels, spec), thresholds)
    picture = InputSpec(height=spec.height, width=spec.width, channels=spec.channels)
    if missing(formats, precisions):
        say(f"not made, for there is none: {', '.join(missing(formats, precisions))}")
    files: list[ModelFile] = []
    blocked: list[Blocked] = []
    with start(used) as workers:
        maker = FileMaker(source, network, golden_pixels, calibrated, judge, workers, frozenset(allow), finetuning, say)
        for number, recipe in enumerate(recipes, 1):
            say(f"{recipe.format} {recipe.precision} ({number} of {len(recipes)}): converting")
            made = maker.make(recipe)
            if not made.measured.passed and leave_out:
                blocked.append(_blocked(recipe, made))
                say(f"{recipe.format} {recipe.precision}: left out, {blocked[-1].reason}")
                continue
            file, parts = _filed(recipe, made, maker)
            files.append(file)
            contents |= parts
            say(
                f"{recipe.format} {recipe.precision}: {file.size_bytes:,} bytes, "
                f"max abs {file.measured('max_abs'):.1e}, mean cosine {file.measured('mean_cosine'):.5f}"
            )
    if not files:
        raise ExportError("every file failed", got="; ".join(entry.reason for entry in blocked))
    manifest = Manifest(
        name=out.stem,
        licence=licence,
        space=source.space,
        model=Model(weights_sha256=source.weights_sha256, arch=source.arch),
        input=picture,
        output=OutputSpec(dim=source.space.dim),
        preprocess=spec,
        files=tuple(files),
        thresholds=tuple(thresholds),
        golden=golden,
        calibration=None if calibrated is None else calibrated.record,
        retrieval=None if judge is None else _retrieval(judge),
        blocked=tuple(blocked),
        documents=(),
        provenance=Provenance(
            created_by="exporters.export", hetero_version=hetero.__version__, tools=_tools(used, network, files)
        ),
    )
    card = model_card(manifest).encode("utf-8")  # of the manifest without it: a card cannot hold its own hash
    manifest = manifest.model_copy(update={"documents": (entry_of(CARD, card),)})
    return write_bundle(out, manifest, {**contents, CARD: card})


def require_options(out: str | Path, licence: str, allow: Sequence[str]) -> Path:
    """Look, before any work is done, at what can be wrong whatever is exported; where the bundle is to be written.

    Raises:
        ConfigError: no name of a bundle, a licence that is no SPDX expression, an unknown rung.
    """
    out = checked_destination(out)
    if not _SPDX.fullmatch(licence):
        raise ConfigError(
            "the licence is no SPDX expression",
            got=repr(licence),
            expected="such as Apache-2.0, MIT OR GPL-2.0-only, LicenseRef-Ours",
            fix="state one, or leave it out",
        )
    for name in allow:
        if name not in RUNGS:
            raise ConfigError("unknown rung of the ladder", got=repr(name), expected=nearest(name, RUNGS))
    return out


def _filed(recipe: Recipe, made: Made, maker: FileMaker) -> tuple[ModelFile, dict[str, bytes]]:
    """The manifest's entry of a file, and what goes into the bundle with it."""
    converted = made.converted
    worst = ", ".join(f"{layer.name} {layer.mean_cosine:.5f}" for layer in made.layers[:3])
    cause = f"{made.cause}; the layers that lose most alone: {worst}" if worst else made.cause
    vectors = made.measured.require_passed(recipe, cause)
    if recipe.format == "onnx":  # names and types, too
        open_bytes(converted.data, maker.picture, OutputSpec(dim=maker.source.space.dim), where="the exported model")
    num_golden = maker.probes.num_golden
    golden_path = f"golden/{recipe.format}.{recipe.precision}.npy"
    own = npy_bytes(vectors[:num_golden])
    file = ModelFile(
        **entry_of(recipe.path, converted.data).model_dump(),
        format=recipe.format,
        precision=recipe.precision,
        recipe=recipe.name,
        opset=converted.opset,
        ops=converted.ops,
        content=converted.content,
        kept_float=converted.kept_float,
        fine_tuned=made.fine_tuned,
        attempts=made.attempts,
        layers=made.layers,
        input=converted.input,
        output=converted.output,
        ladder=made.measured.ladder,
        similarities=made.measured.similarities,
        runtimes=made.measured.runtimes,
        golden=FileGolden(**entry_of(golden_path, own).model_dump(), max_abs=recipe.golden_max_abs),
    )
    return file, {recipe.path: converted.data, golden_path: own}


def _blocked(recipe: Recipe, made: Made) -> Blocked:
    return Blocked(
        format=recipe.format,
        precision=recipe.precision,
        recipe=recipe.name,
        reason=f"{made.measured.reason()}: {made.cause}",
        attempts=made.attempts,
        ladder=made.measured.ladder,
        layers=made.layers,
        kept_float=made.converted.kept_float,
    )


def _retrieval(judge: Judge) -> RetrievalRecord:
    protocol, scores = judge.test.protocol, judge.torch.scores
    return RetrievalRecord(
        data=judge.test.name,
        queries=len(scores.queries),
        gallery=len(protocol.gallery_ids),
        torch_r_at_1=float(scores.r_at_1.mean()),
        torch_map_at_r=float(scores.map_at_r.mean()),
        torch_similarities=judge.torch.similarities,
    )


def _tools(formats: Sequence[str], network: Graph | LitertFiles, files: Sequence[ModelFile]) -> tuple[Tool, ...]:
    """Name and version of what made and what ran the files."""
    names = [name for format in formats for name in _TOOLS[format]]
    found = {"python": platform.python_version(), **{name: import_module(name).__version__ for name in names}}
    found |= network.tools if isinstance(network, LitertFiles) else {}
    found |= {result.name: result.version for file in files for result in file.runtimes}
    return tuple(Tool(name=name, version=str(number)) for name, number in found.items())
