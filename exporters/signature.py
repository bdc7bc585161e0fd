"""How a model file must take pictures and give embeddings, and whether a runtime sees it so."""

from __future__ import annotations

from typing import Any

from exporters.manifest import FileInput, FileOutput, InputSpec, OutputSpec
from hetero.errors import BundleError

Signature = dict[str, tuple[Any, ...]]
_ONNX_TYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}


def signature_of(source: FileInput, result: FileOutput, picture: InputSpec, output: OutputSpec) -> Signature:
    """Type and shape of the one input and the one output; the batch is ``None`` where it is free.

    Where the output is integers, its scale and zero point, too.
    """
    batch = None if source.batch == "free" else 1
    height, width, channels = picture.shape
    shape = [height, width, channels] if source.layout == "NHWC" else [channels, height, width]
    steps = () if result.scale is None else (result.scale, result.zero_point)
    return {"input": (source.dtype, [batch, *shape]), "output": (result.dtype, [batch, output.dim], *steps)}


def require_signature(found: dict[str, Any], expected: Signature, *, where: str) -> None:
    """Compare what a runtime says of a file, from :meth:`exporters.workers.RuntimeWorker.open`.

    Raises:
        BundleError: another type or shape; ``where`` names the file.
    """
    seen = {
        side: (
            _ONNX_TYPES.get(found[side]["dtype"], found[side]["dtype"]),
            [side_length if isinstance(side_length, int) else None for side_length in found[side]["shape"]],
            *(found[side].get(name) for name in ("scale", "zero_point")[: len(expected[side]) - 2]),
        )
        for side in expected
    }
    if seen != expected:
        raise BundleError(
            f"{where} takes or gives something else than declared",
            got=ascii(seen),
            expected=expected,
            fix="export the bundle again",
        )
