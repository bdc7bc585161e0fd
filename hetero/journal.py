"""``metrics.jsonl``: one line every so many steps, cut back to the committed step when a run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hetero import atomic


class Journal:
    """Appends lines; each carries ``phase``, ``step``, ``epoch``, ``lr``, ``images_per_s`` and ``loss``.

    ``loss`` maps a trainee to its ``total`` and unweighted terms, means over the steps since the line before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, phase: str, step: int) -> None:
        """Drop what was logged after a committed step of a phase, and a torn last line."""
        kept = [line for line in read_journal(self.path) if line["phase"] != phase or line["step"] <= step]
        if self.path.exists():
            atomic.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, line: dict[str, Any]) -> None:
        """Add one line."""
        with atomic.storage_errors(self.path), open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn last line, which a kill leaves, is ignored."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
