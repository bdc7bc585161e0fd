"""The embedding space as a thing with an identity: what may be searched with what.

Specified in docs/space-spec.md. A space is made by one model (the *origin*, normally the gallery model): its id is a
hash of that model's weights, its preprocessing, the dimension and the normalisation. A student trained into the space
carries the same id; nothing is searched across two ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hetero.errors import SpaceMismatchError

SPACE_SCHEMA = 1
_ID_PREFIX = "hs1-"
_ID_HEX_DIGITS = 24  # 96 bits: no accidental collision among any number of spaces anyone will make


class Compatibility(BaseModel):
    """One measured fact: a query model retrieves from this space's galleries.

    ``satisfied`` is the compatibility rule M(φ_q, φ_g) > M(φ_q, φ_q) with the 95 % interval of the difference above 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    query_weights_sha256: str
    metric: str
    heterogeneous: float
    homogeneous: float
    satisfied: bool
    data: str


class EmbeddingSpace(BaseModel):
    """Identity of an embedding space, its measure of similarity and where it comes from.

    Attributes:
        id: ``hs1-`` and 24 hex digits, see :func:`space_id`.
        dim: length of a vector.
        metric: ``cosine``: the dot product of L2-normalised vectors.
        origin_weights_sha256: :func:`weights_digest` of the model that defines the space.
        preprocess_fingerprint: fingerprint of that model's ``PreprocessSpec``.
        lineage: ids of earlier spaces this one was trained to stay compatible with, oldest first.
        compatible: what was measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=rf"^{_ID_PREFIX}[0-9a-f]{{{_ID_HEX_DIGITS}}}$")
    dim: int = Field(gt=0)
    metric: Literal["cosine"] = "cosine"
    normalised: Literal[True] = True
    origin_weights_sha256: str
    preprocess_fingerprint: str
    lineage: tuple[str, ...] = ()
    compatible: tuple[Compatibility, ...] = ()


def weights_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (hex) over named arrays: for each name in sorted order its name, dtype, shape and C-order bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")  # ascontiguousarray would turn a scalar into shape (1,)
        header = json.dumps([name, array.dtype.str, list(array.shape)], separators=(",", ":"))
        digest.update(header.encode("utf-8") + b"\n")
        digest.update(array.tobytes())
    return digest.hexdigest()


def space_id(*, weights_sha256: str, preprocess_fingerprint: str, dim: int, normalised: bool = True) -> str:
    """The id of the space that a model with these weights, preprocessing, dimension and normalisation defines."""
    identity = {
        "schema": SPACE_SCHEMA,
        "weights_sha256": weights_sha256,
        "preprocess": preprocess_fingerprint,
        "dim": dim,
        "normalised": normalised,
    }
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return _ID_PREFIX + hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:_ID_HEX_DIGITS]


def define_space(*, weights_sha256: str, preprocess_fingerprint: str, dim: int) -> EmbeddingSpace:
    """The space whose origin is the model with these weights and this preprocessing."""
    identity = space_id(weights_sha256=weights_sha256, preprocess_fingerprint=preprocess_fingerprint, dim=dim)
    return EmbeddingSpace(
        id=identity, dim=dim, origin_weights_sha256=weights_sha256, preprocess_fingerprint=preprocess_fingerprint
    )


def require_same_space(query_space: str, gallery_space: str, *, query: str, gallery: str) -> None:
    """Refuse to search a gallery with vectors of another space, even where the dimensions agree.

    Args:
        query_space, gallery_space: space ids.
        query, gallery: what they belong to, for the message ("student 'tiny'", a path, ...).

    Raises:
        SpaceMismatchError: naming both ids.
    """
    if query_space != gallery_space:
        raise SpaceMismatchError(
            f"{query} and {gallery} are in different embedding spaces, so their similarities mean nothing",
            got=f"query space {query_space}",
            expected=f"gallery space {gallery_space}",
            fix="use a query model trained into the gallery's space, or index the gallery again with this model",
        )
