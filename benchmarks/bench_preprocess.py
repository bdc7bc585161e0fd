"""Loading a picture for a model against Pillow's own ``open().convert("RGB").resize()`` of the same bytes."""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from hetero.preprocess import PreprocessSpec, load_image

SIDE = 224
GOAL = 1.3
ROUNDS = 9


def run() -> list[dict[str, object]]:
    """``{name, ratio, against, goal, better}`` a case; ratio is the median of hetero's time over Pillow's."""
    spec = PreprocessSpec(height=SIDE, width=SIDE)
    phone, small = photo(4032, 3024), photo(640, 480)
    cases = {
        "12 megapixel JPEG": encode(phone),
        "12 megapixel JPEG, EXIF orientation 6": encode(phone, orientation=6),
        "640x480 JPEG": encode(small),
    }
    return [
        {
            "name": f"load_image, {name}, to {SIDE}",
            "ratio": round(_ratio(lambda d=data: load_image(d, spec), lambda d=data: by_pillow(d)), 3),  # type: ignore[misc]
            "against": 'Pillow open().convert("RGB").resize()',
            "goal": GOAL,
            "better": "lower",
        }
        for name, data in cases.items()
    ]


def by_pillow(data: bytes) -> np.ndarray:
    """What most code does: no orientation, no colour profile. ``uint8 [224, 224, 3]``."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def photo(width: int, height: int) -> Image.Image:
    """Something that compresses like a photograph: smooth shading plus sensor noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 6, (height, width)).astype(np.float32)
    bands = [128 + 100 * np.sin(x / 300 + band) * np.cos(y / 250 - band) + noise for band in range(3)]
    return Image.fromarray(np.clip(np.stack(bands, -1), 0, 255).astype(np.uint8))


def encode(image: Image.Image, orientation: int = 1) -> bytes:
    """The picture as a JPEG of quality 88, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88, exif=exif)
    return stream.getvalue()


def _ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Median over rounds of the quotient of two calls made one right after the other, so both see the same load."""
    ours(), theirs()
    return statistics.median(_seconds(ours) / _seconds(theirs) for _ in range(ROUNDS))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
