"""Trace a network into a :class:`~exporters.graph.Graph`, or say which module does what no format can express."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporters.aten import Draft, UnsupportedError, translate
from exporters.graph import IMAGE, Graph, Operation
from exporters.quiet import quiet
from exporters.source import evaluation_mode
from hetero.errors import ExportError
from hetero.preprocess import PreprocessSpec

_NOTHING_COMPUTED = {torch.ops.aten.sym_size.int, torch.ops.aten._assert_tensor_metadata.default}


def trace(network: nn.Module, preprocess: PreprocessSpec) -> Graph:
    """The graph of a network with colour normalisation before it and unit length behind it.

    Args:
        network: takes colour-normalised float32 ``[b, c, h, w]`` and returns ``[b, dim]``; traced in evaluation mode,
            then as it was.

    Raises:
        ExportError: an operation outside :data:`exporters.graph.OPERATIONS`, naming the module, the operation and
            what to use instead; a forward() that depends on the pictures' values or mixes them.
    """
    size = (preprocess.channels, preprocess.height, preprocess.width)
    nodes, constants, result = _capture(network, size)
    operations = [Operation("colour", "affine", (IMAGE,), {}, colour_weights(preprocess), "", size)]
    names: dict[Any, str] = {}  # of a node's result
    for node in nodes:
        if node.op == "placeholder":
            if node not in constants:
                names[node] = "colour"
            continue
        if node.op == "output" or node.target in _NOTHING_COMPUTED or node in constants:
            continue
        draft, shape = _translate(node, constants)
        if draft.kind is None:
            names[node] = names[draft.inputs[0]]
            continue
        name = _name(node, draft.kind, operations)
        operations.append(
            Operation(
                name,
                draft.kind,
                tuple(names[source] for source in draft.inputs),
                draft.options,
                {name: tensor.detach() for name, tensor in draft.weights.items() if tensor is not None},
                _module(node),
                shape,
            )
        )
        names[node] = name
    last = names.get(result)
    by_name = {operation.name: operation for operation in operations}
    if last is None or len(by_name[last].shape) != 1:
        raise ExportError(
            "the network's output is no embedding",
            got=f"{list(by_name[last].shape)} a picture" if last else "a constant",
            expected="one vector a picture",
            fix="flatten or average the last feature map in forward()",
        )
    operations.append(Operation("embedding", "unit_length", (last,), {}, {}, "", by_name[last].shape))
    return Graph(size, _used(operations))


def colour_weights(preprocess: PreprocessSpec) -> dict[str, Tensor]:
    """``scale`` and ``shift``, float32 ``[c]``, that normalise the colours of a picture in 0..255."""
    mean = torch.tensor(preprocess.mean, dtype=torch.float64)
    std = torch.tensor(preprocess.std, dtype=torch.float64)
    return {"scale": (1 / (255 * std)).float(), "shift": (-mean / std).float()}


def _name(node: Any, kind: str, operations: list[Operation]) -> str:
    """After the module and what it does; numbered where a module does it again."""
    base = re.sub(r"\W", "_", f"{_module(node)}_{kind}".lstrip("_"))
    taken = {operation.name for operation in operations} | {"embedding"}
    names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _used(operations: list[Operation]) -> tuple[Operation, ...]:
    """Only what the last operation needs."""
    needed, kept = {operations[-1].name}, []
    for operation in reversed(operations):
        if operation.name in needed:
            needed.update(operation.inputs)
            kept.append(operation)
    return tuple(reversed(kept))


def _capture(network: nn.Module, size: tuple[int, int, int]) -> tuple[list[Any], dict[Any, Tensor], Any]:
    """The nodes of the network's functional ATen graph, the tensors that some stand for, and the result's node."""
    # Not a batch of 1 or 2: a network that keeps such a number for itself must not pass unnoticed.
    example = torch.zeros(3, *size)
    with tracing(network):
        program = torch.export.export(
            network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        ).run_decompositions({})  # functional: nothing happens in place any more
        nodes = list(program.graph.nodes)
        constants = _constants(program, nodes)
    require_unchanging(program)
    [name] = program.graph_signature.user_outputs
    return nodes, constants, next((node for node in nodes if node.name == name), None)


@contextlib.contextmanager
def tracing(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and silence, for ``torch.export``; whatever it raises becomes one error.

    Raises:
        ExportError: torch cannot trace the network.
    """
    with evaluation_mode(network), torch.no_grad(), quiet():
        try:
            yield
        except Exception as error:  # torch.export raises whatever its parts raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ExportError(
                "torch cannot trace this network",
                got=f"{type(error).__name__}: {lines[0] if lines else 'no message'}",
                fix="remove control flow that depends on the pictures' values or number from forward()",
            ) from error


def require_unchanging(program: Any) -> None:
    """Refuse a ``torch.export`` program that changes its own buffers.

    Raises:
        ExportError: with their names.
    """
    changed = sorted(program.graph_signature.buffers_to_mutate.values())
    if changed:
        raise ExportError(
            "the network changes its own buffers when it embeds",
            got=", ".join(changed),
            fix="change them in training mode only",
        )


def _constants(program: Any, nodes: list[Any]) -> dict[Any, Tensor]:
    """Weights, buffers, and what is computed from them alone."""
    signature, state = program.graph_signature, {**program.state_dict, **program.constants}
    sources = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    sources |= signature.inputs_to_lifted_tensor_constants
    constants = {node: state[sources[node.name]] for node in nodes if node.op == "placeholder" and node.name in sources}
    for node in nodes:
        fixed = all(value in constants for value in node.all_input_nodes)
        if node.op == "call_function" and fixed and not _is_random(node):
            arguments = torch.fx.node.map_arg(node.args, constants.__getitem__)
            constants[node] = node.target(*arguments, **torch.fx.node.map_arg(node.kwargs, constants.__getitem__))
    return constants


def _is_random(node: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _translate(node: Any, constants: dict[Any, Tensor]) -> tuple[Draft, tuple[int, ...]]:
    try:
        return translate(node, constants)
    except UnsupportedError as error:
        got, instead = error.args
        line = _line(node)
        got = f"{got} in {line}" if line else got
        where = f"module {_module(node)!r} ({_module_type(node)})" if _module(node) else "the network's own forward()"
        raise ExportError(
            f"{where} cannot be exported", got=got, fix=f"use {instead}, or export to TFLite alone with litert_torch="
        ) from None


def _line(node: Any) -> str:
    """The line of source that asked for this node, outside torch itself: ``net.py:12: x = x.expand(4)``."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in \w+\n\s+(.+)', node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame[0]]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}: {own[-1][2].strip()}" if own else ""


def _module(node: Any) -> str:
    """The dotted path of the innermost module that asked for this node."""
    stack = [path for path, kind in (node.meta.get("nn_module_stack") or {}).values() if path != kind]
    return stack[-1] if stack else ""


def _module_type(node: Any) -> str:
    stack = [kind for path, kind in (node.meta.get("nn_module_stack") or {}).values() if path != kind]
    return str(getattr(stack[-1], "__qualname__", stack[-1])).rpartition(".")[2] if stack else ""
