"""Exporters: a trained model becomes a bundle that any runtime can open, verified before anything in it runs.

``import exporters`` needs numpy, Pillow and pydantic only: torch and the converters load on the first :func:`export`,
onnxruntime on the first embedding. The bundle is specified in docs/bundle-spec.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from exporters.bundle import Bundle, open_bundle
from exporters.signing import sign, verify_signature

# Eager on purpose: the function `verify` and the module `exporters.verify` share a name. Python binds a module to
# its package when it first loads: loading it here, before the name is bound to the function, keeps the function.
from exporters.verify import VerifyReport, embed_files, embed_pixels, verify
from hetero.errors import MissingExtraError

if TYPE_CHECKING:
    from exporters.finetune import FineTuning
    from exporters.pipeline import export
    from exporters.retrieval import RetrievalTest

__all__ = [
    "Bundle",
    "FineTuning",
    "RetrievalTest",
    "VerifyReport",
    "embed_files",
    "embed_pixels",
    "export",
    "open_bundle",
    "sign",
    "verify",
    "verify_signature",
]

_WITH_TORCH = {
    "export": "exporters.pipeline",
    "FineTuning": "exporters.finetune",
    "RetrievalTest": "exporters.retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'exporters' has no attribute {name!r}")
    try:
        return getattr(import_module(_WITH_TORCH[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "jaxtyping"):
            raise MissingExtraError("exporting", error.name, "onnx") from error
        raise
