"""The terminal tables: what a manifest says, untrusted brackets included, is printed as it is."""

from __future__ import annotations

import io
from types import SimpleNamespace

from rich.console import Console

from hetero.tables import bundle_table

FILE = SimpleNamespace(
    name="onnx int8",
    path="onnx/model.int8.onnx",
    size_bytes=12345,
    num_ops=1048,
    max_abs=0.00601,
    min_cosine=0.999941,
    r_at_1_delta=(-0.0312, -0.0625, 0.0),
    verdict="allowed",
    reason="[red]flips: lost 0.03[/red]",
)
LEFT_OUT = SimpleNamespace(
    **{**vars(FILE), "name": "tflite int8", "path": None, "size_bytes": None, "num_ops": None, "max_abs": None},
)
LEFT_OUT.verdict, LEFT_OUT.reason, LEFT_OUT.min_cosine, LEFT_OUT.r_at_1_delta = "left out", "crashed", None, None


def printed(latency_ms: dict[str, dict[str, float]]) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(bundle_table(SimpleNamespace(path="[bold]a.hetero"), [FILE, LEFT_OUT], latency_ms))
    return console.file.getvalue()


def test_the_bundle_table_has_every_number_and_blocked_files() -> None:
    lines = printed({FILE.path: {"onnxruntime": 0.1234, "tensorflow": 12.345}}).splitlines()
    assert lines[0].strip() == "[bold]a.hetero"
    [row] = [line for line in lines if FILE.path in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        *("onnx/model.int8.onnx", "12,345 B", "1,048", "onnxruntime 0.123", "6.0e-03", "0.99994"),
        *("-0.0312 [-0.0625, +0.0000]", "allowed: [red]flips: lost 0.03[/red]"),
    ]
    assert any("tensorflow 12.3" in line for line in lines)
    [row] = [line for line in lines if "tflite int8" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["tflite int8", *[""] * 6, "left out: crashed"]


def test_without_timing_there_is_no_column_for_it() -> None:
    assert "ms per image" not in printed({})
    assert "ms per image" in printed({FILE.path: {"onnxruntime": 0.1}})
