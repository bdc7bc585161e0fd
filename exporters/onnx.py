"""Write a graph as one ONNX file, passed by onnx's checker."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from exporters.graph import Graph, GraphNetwork
from exporters.manifest import MAX_FILE_BYTES
from exporters.onnx_file import onnx_metadata
from exporters.quiet import quiet
from hetero.errors import ExportError, MissingExtraError

_SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter keeps in it which modules asked for a node
OPSET = 18  # what torch's exporter writes without converting versions; every onnxruntime since 1.14 runs it


class CameraNetwork(nn.Module):
    """``image`` uint8 ``[b, h, w, c]`` in, unit-length float32 ``[b, dim]`` out; ``dtype`` in between."""

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = GraphNetwork(graph).to(dtype)
        self.dtype = dtype

    def forward(self, image: UInt8[Tensor, "b h w c"]) -> Float[Tensor, "b dim"]:
        """Embed preprocessed pixels."""
        embedding: Tensor = self.network(image.permute(0, 3, 1, 2).to(self.dtype))
        return embedding


def to_onnx(
    graph: Graph, metadata: dict[str, str], *, dtype: torch.dtype = torch.float32
) -> tuple[bytes, dict[str, int]]:
    """The graph as one ONNX file with a free batch (its bytes), and how often each operator occurs in it.

    Its nodes are named ``OPERATION/OPERATOR`` after the operations of the graph.

    Args:
        metadata: strings kept in the file.
        dtype: of weights and arithmetic, float32 or float16; the normalisation is float32 always.

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
    channels, height, width = graph.shape
    # Two pictures: an example of one would let the exporter take the batch for a constant.
    example = torch.zeros(2, height, width, channels, dtype=torch.uint8)
    with quiet() as captured:
        try:
            program = torch.onnx.export(
                CameraNetwork(graph, dtype).eval(),
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
    _name_nodes(proto)
    _strip(proto)
    onnx.helper.set_model_props(proto, metadata)
    return checked(proto)


def checked(proto: Any) -> tuple[bytes, dict[str, int]]:
    """The model's bytes and operators, once it has passed onnx's checker.

    Raises:
        ExportError, BundleError: as :func:`to_onnx`.
    """
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
    onnx_metadata(data, where="the exported model")
    return data, dict(sorted(Counter(node.op_type for node in proto.graph.node).items()))


def _name_nodes(proto: Any) -> None:
    """Name each node after the operation that asked for it, by which quantisation finds it again."""
    seen: Counter[str] = Counter()
    for node in proto.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "")
        found = re.search(r"network\.steps\.(\w+)", scopes)
        name = f"{found.group(1) if found else 'image'}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}.{seen[name]}"


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


def _reason(error: BaseException, output: str) -> str:
    """The innermost message: torch wraps the cause in a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in (str(error) or output).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
