"""Draw one character many times: in other faces, with affine changes, other strokes, contrast and noise."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageFont

from hetero.data.glyph_catalogue import Glyph, font_path, mask_of

_OVERSAMPLING = 3  # drawn at three times the size and averaged: smooth edges, and strokes change by thirds of a pixel
_BOX = 0.66  # longer side of the upright glyph, share of the picture's side: turned and enlarged it still fits
_MEASURING_EM = 64  # pixels
_LARGEST_EM = 512  # pixels; reached by dots and bars only

ROTATION_DEG = 16.0
SHEAR = 0.24
LOG_SCALE = 0.18
TRANSLATION = 0.09
"""Uniform in ± these: degrees, tangent, natural logarithm of the scale of each axis, share of the side."""
_STROKES = (-1, 0, 0, 1, 1, 2)
"""Steps by which strokes grow or shrink, each a third of a pixel on both sides of the stroke."""
_LEAST_LEFT = 0.6  # share of the ink that thinning must leave: hairlines would vanish altogether
_MOST_INK = 0.18  # share of the picture covered from which growing would fill the holes of a bold face
_CONTRAST = (150, 255)  # grey level of the brightest ink: hairlines must not drown in noise
_NOISE = 36  # largest amplitude of the triangular noise, grey levels


def render_class(glyph: Glyph, *, renderings: int, size: int, seed: int) -> np.ndarray:
    """``uint8 [renderings, size, size]``, bright ink on black; depends on the arguments alone.

    Every face that has the character is used before one is used again.
    """
    rng = np.random.default_rng([seed, ord(glyph.character)])
    faces: list[str] = []
    while len(faces) < renderings:
        faces += [glyph.faces[i] for i in rng.permutation(len(glyph.faces))]
    return np.stack([_render(face, glyph.character, size, rng) for face in faces[:renderings]])


def _render(face: str, character: str, size: int, rng: np.random.Generator) -> np.ndarray:
    side = size * _OVERSAMPLING
    mask = _mask(face, character, round(_BOX * side))
    picture = mask.transform(
        (side, side), Image.Transform.AFFINE, _inverse_affine(mask.size, side, rng), Image.Resampling.BILINEAR
    )
    drawn = change_strokes(np.asarray(picture), _STROKES[int(rng.integers(len(_STROKES)))])
    fine = drawn.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING)
    ink = fine.sum(axis=(1, 3), dtype=np.int32) // _OVERSAMPLING**2
    contrast = int(rng.integers(_CONTRAST[0], _CONTRAST[1] + 1))
    amplitude = int(rng.integers(0, _NOISE + 1))
    # whole numbers, because a normal distribution goes through logarithms that may differ between machines
    noise = rng.integers(0, amplitude + 1, (2, size, size), dtype=np.int32)
    return np.clip(ink * contrast // max(1, int(ink.max())) + noise[0] - noise[1], 0, 255).astype(np.uint8)


def _inverse_affine(mask: tuple[int, int], side: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Coefficients (a, b, c, d, e, f): Pillow looks ``(a x + b y + c, d x + e y + f)`` up in the mask."""
    angle, shear, log_x, log_y, right, down = (
        rng.uniform(-1, 1, 6)
        * (math.radians(ROTATION_DEG), SHEAR, LOG_SCALE, LOG_SCALE, TRANSLATION * side, TRANSLATION * side)
    ).tolist()
    cos, sin, x, y = math.cos(angle), math.sin(angle), math.exp(log_x), math.exp(log_y)
    a, b, d, e = cos * x, (cos * shear - sin) * y, sin * x, (sin * shear + cos) * y
    centre_x, centre_y = side / 2 + right, side / 2 + down
    return (
        a, b, mask[0] / 2 - a * centre_x - b * centre_y,
        d, e, mask[1] / 2 - d * centre_x - e * centre_y,
    )  # fmt: skip


def change_strokes(picture: np.ndarray, step: int) -> np.ndarray:
    """Grow bright strokes by ``step`` pixels to all sides, or shrink them, as far as that stays legible.

    Args:
        picture: ``uint8 [h, w]``.
        step: -1 shrinks, unless a large part of the ink would go; a positive step stops before holes fill.
    """
    if step < 0:
        thin = 255 - _grown(255 - picture)
        return thin if _ink(thin) > _LEAST_LEFT * _ink(picture) else picture
    for _ in range(step):
        if _ink(picture) < _MOST_INK * picture.size * 255:
            picture = _grown(picture)
    return picture


def _grown(picture: np.ndarray) -> np.ndarray:
    """The largest value in each 3×3 neighbourhood."""
    wide = picture.copy()
    np.maximum(wide[:, 1:], picture[:, :-1], out=wide[:, 1:])
    np.maximum(wide[:, :-1], picture[:, 1:], out=wide[:, :-1])
    grown = wide.copy()
    np.maximum(grown[1:], wide[:-1], out=grown[1:])
    np.maximum(grown[:-1], wide[1:], out=grown[:-1])
    return grown


def _ink(picture: np.ndarray) -> int:
    return int(picture.sum(dtype=np.int64))


@lru_cache(maxsize=64)
def _mask(face: str, character: str, box: int) -> Image.Image:
    """The upright glyph, its longer side ``box`` pixels to within one."""
    measured = mask_of(_font(face, _MEASURING_EM), character)
    em = min(_LARGEST_EM, max(1, round(_MEASURING_EM * box / max(measured.size))))
    mask = mask_of(_font(face, em), character)
    scale = box / max(mask.size)
    if abs(scale * max(mask.size) - max(mask.size)) <= 1:
        return mask
    width, height = (max(1, round(length * scale)) for length in mask.size)
    return mask.resize((width, height), Image.Resampling.BICUBIC)


@lru_cache(maxsize=512)
def _font(face: str, em: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_path(face)), em, layout_engine=ImageFont.Layout.BASIC)
