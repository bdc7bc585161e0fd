"""Imports point one way, and what a phone lab or a manifest reader needs loads without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["hetero", "exporters", "device_tests"]  # each may import those before it
WITH_TORCH = {"models", "losses", "training"}
SOURCES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def imported(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        stack += list(ast.iter_child_nodes(node))
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT)
    above = ORDER[ORDER.index(room.parts[0]) + 1 :]
    lazily_up = room in (Path("hetero/cli.py"), Path("hetero/cli_export.py"), Path("hetero/cli_device.py"))
    for name in imported(path, top_level_only=lazily_up):
        assert name.split(".")[0] not in above, f"{room} imports {name}"


EXPORTERS_WITH_TORCH = (
    *("graph", "aten", "trace", "fold", "source", "onnx", "onnx_int8", "tflite", "tflite_int8", "convert", "pipeline"),
    *("coreml", "mil_reference", "litert"),
    *("quantize", "layers", "diagnose", "proof", "finetune", "maker"),
)
TORCH_FREE = [
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for path in SOURCES
    if not (path.relative_to(ROOT).parts[0] == "hetero" and path.relative_to(ROOT).parts[1] in WITH_TORCH)
    and path.relative_to(ROOT).as_posix() not in {f"exporters/{name}.py" for name in EXPORTERS_WITH_TORCH}
]


def test_everything_else_loads_without_torch_onnx_or_a_plotting_library():
    """One process imports them all, with torch made unimportable."""
    program = f"""
import importlib, sys
for name in ("torch", "jaxtyping", "onnx", "onnxruntime", "faiss"):
    sys.modules[name] = None  # importing it raises ImportError
for name in {TORCH_FREE!r}:
    importlib.import_module(name)
importlib.import_module("hetero.models.arch")
importlib.import_module("hetero.models.cost")
heavy = [name for name in ("matplotlib", "tensorflow") if name in sys.modules]
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_list_of_torch_free_modules_is_not_empty_and_holds_the_rooms_that_must_be():
    for name in ("exporters.bundle", "hetero.retrieval.metrics", "hetero.preprocess", "hetero.cli", "device_tests"):
        assert name in TORCH_FREE


def test_no_print_in_the_libraries_and_no_pickle():
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", path
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
        assert not {"pickle", "joblib", "dill", "cloudpickle"} & imported(path, top_level_only=False), path
