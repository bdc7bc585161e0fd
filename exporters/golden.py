"""Golden pictures of a bundle: what goes in, what preprocessing makes of it, what the torch model makes of that."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from exporters.manifest import Golden, entry_of
from exporters.npy import npy_bytes
from exporters.parity import reference_embeddings, synthetic_images
from hetero.errors import ConfigError, ExportError
from hetero.preprocess import PreprocessSpec, load_image

if TYPE_CHECKING:
    from torch import nn

MAX_GOLDEN_IMAGES = 64  # golden vectors are a check, not a data set; they travel with the bundle
_SAME = 1e-5  # of a component: what fp32 files may differ by
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")  # other endings might be no safe path of a bundle


def make_golden(
    network: nn.Module,
    preprocess: PreprocessSpec,
    images: np.ndarray | Sequence[np.ndarray | Path] | None,
    *,
    source: str = "given by the caller",
) -> tuple[Golden, np.ndarray, dict[str, bytes]]:
    """Golden pictures as PNG, what preprocessing makes of them, and the torch model's embeddings of that.

    Args:
        images: with None, seeded synthetic ones.
        source: where the pictures come from, for the manifest.

    Raises:
        ConfigError: not 2 to 64 pictures, or all the same: nothing could be told apart by them.
        ImageError: a file is no picture.
        ExportError: the network gives one embedding for all of them, or a zero one.
    """
    if images is None:
        images, source = synthetic_images(preprocess), "synthetic, exporters.parity.synthetic_images seed 0"
    if not 2 <= len(images) <= MAX_GOLDEN_IMAGES:
        raise ConfigError("wrong number of golden images", got=len(images), expected=f"2 to {MAX_GOLDEN_IMAGES}")
    pictures = dict(_picture(index, image) for index, image in enumerate(images))
    pixels = np.stack([load_image(data, preprocess) for data in pictures.values()])
    if (pixels == pixels[0]).all():
        raise ConfigError("the golden images are all the same", fix="take pictures that differ")
    vectors = reference_embeddings(network, pixels, preprocess)
    _require_alive(vectors)
    arrays = {"golden/pixels.npy": npy_bytes(pixels), "golden/embeddings.npy": npy_bytes(vectors)}
    golden = Golden(
        source=source,
        images=tuple(entry_of(path, data) for path, data in pictures.items()),
        pixels=entry_of("golden/pixels.npy", arrays["golden/pixels.npy"]),
        embeddings=entry_of("golden/embeddings.npy", arrays["golden/embeddings.npy"]),
    )
    return golden, pixels, pictures | arrays


def _require_alive(vectors: np.ndarray) -> None:
    """Refuse a network with which nothing can be searched: any file would reproduce it, a dead one, too."""
    dead = np.flatnonzero(~vectors.any(axis=1))
    if len(dead):
        raise ExportError(
            "the network gives a zero embedding, which has no direction to search by",
            got=f"for golden image {dead[0]}, and {len(dead) - 1} more",
            expected="embeddings that are not zero",
            fix="look for a ReLU or a layer of zeros at the end",
        )
    if np.abs(vectors - vectors[0]).max() < _SAME:
        raise ExportError(
            "the network gives the same embedding for every golden image",
            got=f"{len(vectors)} images within {_SAME:g}",
            expected="embeddings that tell pictures apart",
            fix="export a trained network; look for layers of zeros or for an input that is not used",
        )


def _picture(index: int, image: np.ndarray | Path) -> tuple[str, bytes]:
    """The name and bytes of a golden picture: a file as it is (after a trial decoding), an array as PNG."""
    if isinstance(image, Path):
        load_image(image, PreprocessSpec(height=1, width=1, channels=1))  # refuses what is no picture, naming the file
        suffix = image.suffix.lower()
        return f"golden/image-{index:02d}{suffix if _SUFFIX.fullmatch(suffix) else ''}", image.read_bytes()
    return f"golden/image-{index:02d}.png", _png(image)


def _png(image: np.ndarray) -> bytes:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ConfigError(
            "a golden image has an unsupported layout",
            got=f"{image.dtype} {list(image.shape)}",
            expected="uint8 [h, w], [h, w, 1] or [h, w, 3]",
        )
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG")
    return stream.getvalue()
