"""``python -m benchmarks``: every benchmark, as a ratio against a peer or bound in the same run."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hetero import atomic

BENCHMARKS = (
    "bench_preprocess",
    "bench_search",
    "bench_losses",
    "bench_training",
    "bench_joint",
    "bench_peak",
    "bench_export",
    "bench_device",
    "bench_demo",
)


def main() -> None:
    """Run all benchmarks, or those named, print the table and write the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=BENCHMARKS, help=", ".join(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    arguments = parser.parse_args()
    results: list[dict[str, object]] = []
    for name in arguments.names:
        results += importlib.import_module(f"benchmarks.{name}").run()
    atomic.write_json(arguments.out, results)
    table = Table("benchmark", "ratio", "against", "goal", "met")
    for result in results:
        table.add_row(str(result["name"]), f"{result['ratio']:.3g}", str(result["against"]), *_goal(result))
    Console(width=140).print(table)
    print(json.dumps({"written": str(arguments.out), "benchmarks": len(results)}))


def _goal(result: dict[str, object]) -> tuple[str, str]:
    """The goal and whether it is met; a benchmark without one reports a number alone."""
    if result["goal"] is None:
        return "none", ""
    ratio, goal = float(str(result["ratio"])), float(str(result["goal"]))
    higher = result["better"] == "higher"
    return f"{'≥' if higher else '≤'} {goal:g}", "yes" if (ratio >= goal if higher else ratio <= goal) else "NO"


if __name__ == "__main__":
    main()
