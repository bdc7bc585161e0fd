"""TFLite files by litert-torch, of networks with operations that no :class:`~exporters.graph.Graph` has.

litert-torch wants versions of its own, so it lives in another environment: the network goes there as an archive of
``torch.export.save``, and the files come back.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.graph import OPERATIONS
from exporters.recipes import Recipe
from exporters.tflite import annotated, packed, parsed, tensorflow
from exporters.trace import colour_weights, require_unchanging, tracing
from hetero.errors import ConfigError, ExportError
from hetero.preprocess import PreprocessSpec

PRECISIONS = ("fp32", "fp16", "dynamic")
TIMEOUT_S = 1800.0  # a network of a few million weights takes ten seconds, most of them imports
_SCRIPT = Path(__file__).with_name("litert_convert.py")
_ENVIRONMENT = "make an environment with pip install 'hetero[litert-torch]' and pass the path of its Python"


@dataclass(frozen=True)
class LitertFiles:
    """One network's TFLite files by precision, and the versions of what made them.

    ``shape`` is the picture's, ``(channels, height, width)``.
    """

    files: Mapping[str, bytes]
    tools: Mapping[str, str]
    shape: tuple[int, int, int]

    def to_tflite(self, precision: str, metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
        """As :func:`exporters.tflite.to_tflite` makes them: the file, and how often each operator occurs in it."""
        return annotated(self.files[precision], self.shape, metadata)


def require_litert_makes(recipes: Sequence[Recipe]) -> None:
    """Refuse recipes whose files are not made this way.

    Raises:
        ConfigError: another format than TFLite, or a calibrated precision.
    """
    for recipe in recipes:
        if recipe.format != "tflite" or recipe.precision not in PRECISIONS:
            raise ConfigError(
                "litert-torch cannot be asked for this file",
                got=f"{recipe.format} {recipe.precision}",
                expected=", ".join(f"tflite {precision}" for precision in PRECISIONS),
                fix='pass formats=("tflite",) and these precisions, or leave litert_torch= out',
            )


def litert_files(
    python: str | Path, network: nn.Module, preprocess: PreprocessSpec, precisions: Sequence[str]
) -> LitertFiles:
    """Have litert-torch convert a network, with colour normalisation before it and unit length behind it.

    The files take float32 ``[1, h, w, c]`` in 0..255, ``image``, and give float32 ``[1, dim]``, ``embedding``.

    Args:
        python: the interpreter of an environment with litert-torch; run in a process of its own.
        network: takes colour-normalised float32 ``[b, c, h, w]`` and returns ``[b, dim]``; left as it was.
        precisions: of :data:`PRECISIONS`.

    Raises:
        ConfigError: the Python cannot be started, has no litert-torch, or its torch does not read what ours writes.
        ExportError: the network cannot be traced or converted, or that took more than :data:`TIMEOUT_S`.
        MissingExtraError: TensorFlow, which writes metadata into the files, is not installed.
    """
    tensorflow()
    with tempfile.TemporaryDirectory(prefix="hetero-litert-") as name:
        folder = Path(name)
        archive = folder / "network.pt2"
        _save(network, preprocess, archive)
        tools = _run(str(python), archive, folder, precisions)
        files = {precision: _named(_read(folder / f"{precision}.tflite")) for precision in precisions}
    return LitertFiles(files, tools, (preprocess.channels, preprocess.height, preprocess.width))


class _Camera(nn.Module):
    """``image`` float32 ``[1, h, w, c]`` in 0..255 in, unit-length float32 ``[1, dim]`` out."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, preprocess: PreprocessSpec) -> None:
        super().__init__()
        self.network = network
        for name, vector in colour_weights(preprocess).items():
            self.register_buffer(name, vector)

    def forward(self, image: Tensor) -> Tensor:
        x = OPERATIONS["affine"](image.permute(0, 3, 1, 2), scale=self.scale, shift=self.shift)
        return OPERATIONS["unit_length"](self.network(x))


def _save(network: nn.Module, preprocess: PreprocessSpec, archive: Path) -> None:
    camera = _Camera(network, preprocess)
    example = torch.zeros(1, preprocess.height, preprocess.width, preprocess.channels)
    with tracing(camera):
        # Functional: a change of a buffer is an output of its own, which can be refused.
        program = torch.export.export(camera, (example,), strict=False).run_decompositions({})
        torch.export.save(program, archive)
    require_unchanging(program)


def _run(python: str, archive: Path, folder: Path, precisions: Sequence[str]) -> dict[str, str]:
    """Run the script; the versions of what made the files."""
    # -I: neither this project's folders nor PYTHONPATH are that environment's business.
    command = [python, "-I", str(_SCRIPT), str(archive), str(folder), *precisions]
    with tempfile.TemporaryFile() as log:
        try:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=TIMEOUT_S, check=False
            ).returncode
        except subprocess.TimeoutExpired as error:  # it was killed
            raise ExportError(
                "litert-torch did not convert this network in time",
                expected=f"{TIMEOUT_S:g} s at most",
                fix="try the network in that environment by hand, to see what takes so long",
            ) from error
        except OSError as error:
            raise ConfigError(
                "litert_torch= names no Python that can be started",
                got=f"{python}: {error.strerror}",
                expected="the path of a Python interpreter whose environment has litert-torch",
                fix=_ENVIRONMENT,
            ) from error
        try:
            answer: dict[str, Any] = json.loads((folder / "answer.json").read_bytes())
        except (OSError, ValueError) as error:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ExportError(
                "the Python that litert_torch= names ended without an answer",
                got=ascii(f"{python}: {how}; {lines[-1].strip() if lines else 'nothing printed'}")[:500],
                expected="a Python interpreter whose environment has litert-torch",
                fix=_ENVIRONMENT,
            ) from error
    if "failed" in answer:
        raise _failure(python, answer)
    tools: dict[str, str] = answer["tools"]
    return tools


def _failure(python: str, answer: Mapping[str, str]) -> ConfigError | ExportError:
    """What the script says of itself, as an error."""
    got = ascii(answer["error"])[:500]
    if answer["failed"] == "import":
        return ConfigError(
            "the Python that litert_torch= names cannot import litert-torch",
            got=f"{python}: {got}",
            expected="an environment with litert-torch",
            fix=_ENVIRONMENT,
        )
    if answer["failed"] == "load":
        return ConfigError(
            "litert-torch's torch cannot read the network that ours has saved",
            got=f"{python}: {got}",
            expected=f"torch {torch.__version__}, or another that reads its archives",
            fix="install that version of torch into litert-torch's environment",
        )
    return ExportError(
        "litert-torch cannot convert this network",
        got=got,
        fix="replace what it names in forward(), or try a newer litert-torch",
    )


def _read(path: Path) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    if data[4:8] != b"TFL3":
        raise ExportError("litert-torch gave no TFLite file", got=ascii(data[:8]), fix=_ENVIRONMENT)
    return data


def _named(data: bytes) -> bytes:
    """The file with short names: the converter's list every Python class on the way to an operation."""
    model = parsed(data)
    for graph in model.subgraphs:
        for number, tensor in enumerate(graph.tensors):
            tensor.name = f"t{number}".encode()
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].name, graph.tensors[graph.outputs[0]].name = b"image", b"embedding"
    for signature in model.signatureDefs or []:
        signature.inputs[0].name, signature.outputs[0].name = b"image", b"embedding"
    return packed(model)
