"""``metrics.jsonl``: one line every so many steps, cut back to the committed step when a run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hetero import atomic
from hetero.errors import CheckpointError

_KEYS = {"phase", "step", "epoch", "lr", "images_per_s", "loss"}


class Journal:
    """Appends lines; each carries ``phase``, ``step``, ``epoch``, ``lr``, ``images_per_s`` and ``loss``.

    ``loss`` maps a trainee to its ``total`` and unweighted terms, means over the steps since the line before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, phase: str, step: int) -> None:
        """Drop what was logged after a committed step of a phase, and a torn last line.

        Raises:
            CheckpointError: a damaged line before the last; nothing was changed.
        """
        if self.path.exists():
            kept = [line for line in read_journal(self.path) if line["phase"] != phase or line["step"] <= step]
            atomic.write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, line: dict[str, Any]) -> None:
        """Add one line."""
        with atomic.storage_errors(self.path), open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a torn last line, which a kill leaves, is ignored.

    Raises:
        CheckpointError: a damaged line before the last.
    """
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    texts = path.read_bytes().splitlines()
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except ValueError as error:  # not UTF-8, or not JSON
            if number == len(texts):
                break
            raise _damaged(path, number, error) from error
        if not isinstance(line, dict) or not line.keys() >= _KEYS:
            raise _damaged(path, number, f"not a line with {', '.join(sorted(_KEYS))}")
        lines.append(line)
    return lines


def _damaged(path: Path, number: int, reason: object) -> CheckpointError:
    return CheckpointError(
        f"line {number} of {path} is damaged", got=reason, fix="restore the file from a copy, or remove that line"
    )
