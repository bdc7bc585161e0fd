"""Export to ONNX: one self-contained file, checked by onnx and against the torch model, put into a bundle."""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import hetero
from exporters.bundle import Bundle, checked_destination, write_bundle
from exporters.graph import EmbeddingGraph, evaluation_mode, require_exportable
from exporters.manifest import (
    MAX_FILE_BYTES,
    Golden,
    InputSpec,
    Manifest,
    Model,
    ModelFile,
    OutputSpec,
    Provenance,
    Tool,
    entry_of,
)
from exporters.parity import (
    FP32_MAX_ABS,
    probe_pixels,
    reference_embeddings,
    require_parity,
    synthetic_images,
)
from exporters.runtimes import (
    PREPROCESS_KEY,
    SPACE_KEY,
    open_bytes,
    refuse_external_data,
    runtime_version,
)
from hetero.errors import ConfigError, ExportError, MissingExtraError, nearest
from hetero.preprocess import PreprocessSpec, load_image
from hetero.retrieval.verification import Threshold
from hetero.space import EmbeddingSpace, weights_digest

OPSET = 18  # what torch's exporter writes without converting versions; every onnxruntime since 1.14 runs it
FORMATS = ("onnx",)
MAX_GOLDEN_IMAGES = 64  # golden vectors are a check, not a data set; they travel with the bundle
_MODEL_PATH = "onnx/model.fp32.onnx"
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")  # other endings might be no safe path of a bundle


def export(
    model: str | Path | nn.Module,
    out: str | Path,
    *,
    preprocess: PreprocessSpec | None = None,
    space: EmbeddingSpace | None = None,
    golden_images: np.ndarray | Sequence[np.ndarray | Path] | None = None,
    thresholds: Sequence[Threshold] | None = None,
    formats: Sequence[str] = FORMATS,
    licence: str = "NOASSERTION",
    tolerance: float = FP32_MAX_ABS,
) -> Bundle:
    """Export a student into a bundle, with parity measured on golden and synthetic pictures.

    Args:
        model: a checkpoint directory, or a network that takes colour-normalised float32 ``[b, c, h, w]`` and
            returns ``[b, dim]``. A network is left as it was, its training mode included.
        out: ``NAME.hetero``, written in one step; an older bundle there is replaced.
        preprocess, space: of a network; a checkpoint has its own.
        golden_images: ``uint8 [n, h, w]`` or ``[n, h, w, c]``, or a sequence of single pictures of any size or
            of paths of image files, which are kept as they are; with None, seeded synthetic pictures (the manifest
            says which).
        thresholds: from :func:`hetero.retrieval.verification.calibrate`; with None, the checkpoint's.
        formats: only ``onnx`` so far, in fp32.
        licence: SPDX expression for the weights; ``NOASSERTION`` says that nothing was stated.
        tolerance: largest accepted difference of an embedding's component, see
            :data:`exporters.parity.FP32_MAX_ABS`.

    Raises:
        ConfigError: an option that cannot be used. CheckpointError: the checkpoint cannot be read.
        ExportError: the network does not export, or the exported file does not reproduce it.
        StorageError: the disk refused; an older bundle is untouched.
    """
    out = checked_destination(out)
    if not licence:
        raise ConfigError("the licence is empty", fix="state an SPDX expression, or leave the argument out")
    for name in formats:
        if name not in FORMATS:
            raise ConfigError("unknown export format", got=repr(name), expected=nearest(name, FORMATS))
    if not formats:
        raise ConfigError("no export format is named", expected=nearest("", FORMATS))
    if not tolerance > 0:
        raise ConfigError("the tolerance is not positive", got=tolerance, fix="leave it out")
    network, preprocess, space, arch, card_thresholds = _source(model, preprocess, space)
    input_spec = InputSpec(height=preprocess.height, width=preprocess.width, channels=preprocess.channels)
    output_spec = OutputSpec(dim=space.dim)
    require_exportable(network, preprocess, space.dim)

    golden, golden_pixels, contents = _golden(network, preprocess, golden_images)
    data, ops = to_onnx(network, preprocess, space)
    session = open_bytes(data, input_spec, output_spec, where="the exported model")
    pixels = np.concatenate([golden_pixels, probe_pixels(input_spec.shape)])
    reference = reference_embeddings(network, pixels, preprocess)
    # A batch of 5 leaves a shorter last one, so that the free batch dimension is exercised at two sizes.
    parity = require_parity(reference, session.embed(pixels, batch_size=5), tolerance=tolerance)

    runtime = runtime_version()
    file = ModelFile(
        **entry_of(_MODEL_PATH, data).model_dump(),
        format="onnx",
        precision="fp32",
        recipe="torch.onnx.export(dynamo=True), dynamic batch",
        opset=OPSET,
        ops=ops,
        parity=parity,
        retrieval=None,
        runtimes=(runtime,),
    )
    manifest = Manifest(
        name=out.stem,
        licence=licence,
        space=space,
        model=Model(weights_sha256=_weights_sha256(network), arch=arch),
        input=input_spec,
        output=output_spec,
        preprocess=preprocess,
        files=(file,),
        thresholds=card_thresholds if thresholds is None else tuple(thresholds),
        golden=golden,
        provenance=Provenance(
            created_by="exporters.export", hetero_version=hetero.__version__, tools=(*_tools(), runtime)
        ),
    )
    return write_bundle(out, manifest, {**contents, _MODEL_PATH: data})


def to_onnx(network: nn.Module, preprocess: PreprocessSpec, space: EmbeddingSpace) -> tuple[bytes, dict[str, int]]:
    """The network as one ONNX file (its bytes) and how often each operator occurs in it.

    Raises:
        ExportError: torch cannot export it, or the result fails onnx's checker or is not opset 18.
        BundleError: the result needs other files.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it and says so only deep inside)
    except ImportError as error:
        raise MissingExtraError("exporting to ONNX", error.name or "onnx", "onnx") from error
    graph = EmbeddingGraph(network, preprocess)
    # Two pictures: an example of one would let the exporter take the batch for a constant.
    example = torch.zeros(2, preprocess.height, preprocess.width, preprocess.channels, dtype=torch.uint8)
    with evaluation_mode(graph), _quiet() as captured:
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                external_data=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["embedding"],
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
            raise ExportError(
                "torch cannot export this network to ONNX",
                got=_reason(error, captured.getvalue()),
                fix="remove data-dependent control flow and operators that ONNX lacks from forward()",
            ) from error
    if program is None:
        raise ExportError("torch's exporter returned nothing", got=captured.getvalue()[-200:] or None)
    proto = program.model_proto
    _strip(proto)
    metadata = {SPACE_KEY: space.id, PREPROCESS_KEY: preprocess.fingerprint()}
    onnx.helper.set_model_props(proto, metadata)
    return _checked(proto)


def _checked(proto: Any) -> tuple[bytes, dict[str, int]]:
    import onnx

    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets != {"": OPSET}:
        raise ExportError(
            "the exported model uses other operator sets than declared",
            got=opsets,
            expected={"": OPSET},
            fix="use the torch version of constraints.txt, and only standard operators in the network",
        )
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError("the exported model fails onnx's checker", got=_reason(error, "")) from error
    data = proto.SerializeToString(deterministic=True)
    if len(data) > MAX_FILE_BYTES:
        raise ExportError(
            "the network is too large for one ONNX file",
            got=f"{len(data)} bytes",
            expected=f"{MAX_FILE_BYTES}",
        )
    refuse_external_data(data, where="the exported model")
    return data, dict(sorted(Counter(node.op_type for node in proto.graph.node).items()))


def _strip(proto: Any) -> None:
    """Drop the exporter's notes: stack traces with paths of this machine, several times the graph's size."""
    graph = proto.graph
    for item in (
        proto,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        item.doc_string = ""
        del item.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Catch what the exporter prints, warns and logs; stdout belongs to ``--json``."""
    captured = io.StringIO()
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with (
        contextlib.redirect_stdout(captured),
        contextlib.redirect_stderr(captured),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield captured
        finally:
            logger.setLevel(level)


def _reason(error: BaseException, output: str) -> str:
    """The innermost message: torch wraps the cause in a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in (str(error) or output).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _source(
    model: str | Path | nn.Module, preprocess: PreprocessSpec | None, space: EmbeddingSpace | None
) -> tuple[nn.Module, PreprocessSpec, EmbeddingSpace, dict[str, Any] | None, tuple[Threshold, ...]]:
    if isinstance(model, nn.Module):
        if preprocess is None or space is None:
            raise ConfigError(
                "a bare network does not say how its pictures are prepared and which space it embeds into",
                expected="preprocess= and space=",
                fix="pass both, or export a checkpoint, which has them",
            )
        return model, preprocess, space, None, ()
    if preprocess is not None or space is not None:
        raise ConfigError(
            "a checkpoint has its own preprocess and space",
            got=f"{'preprocess' if preprocess is not None else 'space'}= besides the checkpoint {model}",
            fix="leave both out",
        )
    from hetero.models.checkpoint import load_model

    loaded = load_model(model)
    arch = loaded.arch.model_dump(mode="json")
    thresholds = tuple(Threshold.from_json(record) for record in loaded.card.thresholds)
    return loaded.network, loaded.preprocess, loaded.space, arch, thresholds


def _golden(
    network: nn.Module, preprocess: PreprocessSpec, images: np.ndarray | Sequence[np.ndarray | Path] | None
) -> tuple[Golden, np.ndarray, dict[str, bytes]]:
    """Golden pictures as PNG, what preprocessing makes of them, and the torch model's embeddings of that."""
    source = "given by the caller" if images is not None else "synthetic, exporters.parity.synthetic_images seed 0"
    images = synthetic_images(preprocess) if images is None else images
    if not 1 <= len(images) <= MAX_GOLDEN_IMAGES:
        raise ConfigError("wrong number of golden images", got=len(images), expected=f"1 to {MAX_GOLDEN_IMAGES}")
    pictures = dict(_picture(index, image) for index, image in enumerate(images))
    pixels = np.stack([load_image(data, preprocess) for data in pictures.values()])
    arrays = {
        "golden/pixels.npy": _save(pixels),
        "golden/embeddings.npy": _save(reference_embeddings(network, pixels, preprocess)),
    }
    golden = Golden(
        source=source,
        images=tuple(entry_of(path, data) for path, data in pictures.items()),
        pixels=entry_of("golden/pixels.npy", arrays["golden/pixels.npy"]),
        embeddings=entry_of("golden/embeddings.npy", arrays["golden/embeddings.npy"]),
    )
    return golden, pixels, pictures | arrays


def _picture(index: int, image: np.ndarray | Path) -> tuple[str, bytes]:
    """The name and bytes of a golden picture: a file as it is (after a trial decoding), an array as PNG."""
    if isinstance(image, Path):
        load_image(image, PreprocessSpec(height=1, width=1, channels=1))  # refuses what is no picture, naming the file
        suffix = image.suffix.lower()
        return f"golden/image-{index:02d}{suffix if _SUFFIX.fullmatch(suffix) else ''}", image.read_bytes()
    return f"golden/image-{index:02d}.png", _png(image)


def _png(image: np.ndarray) -> bytes:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ConfigError(
            "a golden image has an unsupported layout",
            got=f"{image.dtype} {list(image.shape)}",
            expected="uint8 [h, w], [h, w, 1] or [h, w, 3]",
        )
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG")
    return stream.getvalue()


def _save(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _weights_sha256(network: nn.Module) -> str:
    return weights_digest({name: tensor.detach().numpy() for name, tensor in network.state_dict().items()})


def _tools() -> tuple[Tool, ...]:
    import onnx

    versions = {"python": platform.python_version(), "torch": torch.__version__, "onnx": onnx.__version__}
    return tuple(Tool(name=name, version=str(version)) for name, version in versions.items())
