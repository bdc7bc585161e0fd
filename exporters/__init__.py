"""Exporters: a trained model becomes a bundle that any runtime can open, verified before anything in it runs.

``import exporters`` needs numpy, Pillow and pydantic only: torch and the converters load on the first :func:`export`,
onnxruntime on the first embedding. The bundle is specified in docs/bundle-spec.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporters.bundle import Bundle, open_bundle
from exporters.signing import sign, verify_signature

# Eager on purpose: the function `verify` and the module `exporters.verify` share a name. Python binds a module to
# its package when it first loads: loading it here, before the name is bound to the function, keeps the function.
from exporters.verify import VerifyReport, embed_files, embed_pixels, verify

if TYPE_CHECKING:
    from exporters.pipeline import export

__all__ = [
    "Bundle",
    "VerifyReport",
    "embed_files",
    "embed_pixels",
    "export",
    "open_bundle",
    "sign",
    "verify",
    "verify_signature",
]


def __getattr__(name: str) -> Any:
    if name == "export":
        from exporters.pipeline import export

        return export
    raise AttributeError(f"module 'exporters' has no attribute {name!r}")
