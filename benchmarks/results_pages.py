"""``make results``: the tables of docs/results that ``hetero summary`` makes of the scores kept in docs/results/data.

A table stands between ``<!-- hetero summary ARGUMENTS -->`` and ``<!-- end -->``, and is the output of that command in
the project's root. ``python -m benchmarks.keep_scores`` keeps scores.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from hetero import atomic

ROOT = Path(__file__).parent.parent
TABLE = re.compile(r"(<!-- (hetero summary [^\n]*) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def renewed(page: str, root: Path = ROOT) -> str:
    """The page with every table made again by commands run in ``root``, which write the page's plots, too."""
    return TABLE.sub(lambda table: f"{table[1]}\n{_output(table[2], root)}\n{table[4]}", page)


def _output(command: str, root: Path) -> str:
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), *arguments, "--markdown"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Write every page with tables again."""
    for path in sorted((ROOT / "docs" / "results").glob("*.md")):
        page = path.read_text(encoding="utf-8")
        if TABLE.search(page):
            atomic.write_text(path, renewed(page))
            print(f"{path.relative_to(ROOT)}: {len(TABLE.findall(page))} tables")


if __name__ == "__main__":
    main()
