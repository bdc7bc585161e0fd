"""The one error tree: every message says what went wrong, what was got, what was expected, and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HeteroError(Exception):
    """Base of everything hetero raises on purpose.

    ``str(error)`` is one line: ``what; got …; expected …; fix: …`` (absent parts are left out).
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        self.what, self.got, self.expected, self.fix = what, got, expected, fix
        parts = [what]
        if got is not None:
            parts.append(f"got {got}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if fix is not None:
            parts.append(f"fix: {fix}")
        super().__init__("; ".join(parts))


class ConfigError(HeteroError):
    """A run config, option or architecture description that cannot be used."""


class DataError(HeteroError):
    """A dataset, split or label that cannot be used."""


class ImageError(DataError):
    """One image file or array that cannot be read or is refused."""


class SpaceMismatchError(HeteroError):
    """Vectors, models or files of different embedding spaces were about to be searched together."""


class CheckpointError(HeteroError):
    """A checkpoint or run directory that is missing, damaged or of another version."""


class BundleError(HeteroError):
    """A bundle or gallery directory that is damaged, incomplete, unsafe or of another version."""


class SignatureError(BundleError):
    """A bundle without the signature that was asked for, or with one of another key or another content."""


class ExportError(HeteroError):
    """A model that cannot be exported, or an exported file that failed its checks."""


class RuntimeFailedError(HeteroError):
    """A runtime that refused a model file, crashed on it or did not answer in time."""


class RetrievalError(HeteroError):
    """A retrieval protocol that cannot be scored with the vectors and labels given."""


class TrainingError(HeteroError):
    """Training that cannot go on, e.g. because the loss is not a number."""


class StorageError(HeteroError):
    """A file system that refused a write; what was saved before is untouched."""


class MissingExtraError(HeteroError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed",
            fix=f"pip install 'hetero[{extra}]'",
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Render the registry names closest to a miss: ``"'sgd' (known: adamw, sgd)"``."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    listed = ", ".join(names)
    return f"one of {listed}" + (f" (nearest: {', '.join(close)})" if close else "")
