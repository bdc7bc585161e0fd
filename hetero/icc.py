"""Colour of matrix/curve ICC profiles (Display-P3, Adobe RGB, ...) to sRGB in integer arithmetic.

The arithmetic is written out in docs/preprocess-spec.md, "Colour profile"; ports follow that page.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

# s15Fixed16 colorants of the common sRGB profiles (adapted to D50); rows X Y Z, columns red green blue.
_SRGB_COLORANTS = np.array([[28578, 25241, 9376], [14581, 46981, 3972], [912, 6362, 46799]], np.int64)
# 2^20 times the inverse of that matrix (in units of 1.0), each entry rounded to nearest.
_XYZ_TO_SRGB = np.array([[3286355, -1695959, -514466], [-1026333, 2009365, 35080], [75480, -240109, 1473653]], np.int64)
_COLORANT_TOLERANCE = 131  # 0.002: the colorants of sRGB profiles in the wild differ by less
_CURVE_TOLERANCE = 1  # 8-bit levels: sRGB curves stored as tables differ by at most one
_MAX_TAGS = 256  # real profiles have about 20; a damaged count must not cost time
_PARAMETERS = {
    0: 1,
    1: 3,
    2: 4,
    3: 5,
    4: 7,
}  # parametric curve type -> number of parameters (ICC.1:2022, 10.18)


@dataclass(frozen=True)
class MatrixProfile:
    """A profile that is three curves and a matrix.

    Attributes:
        curves: ``int64 [3, 256]``: 8-bit red, green, blue to linear light 0..65535.
        matrix: ``int64 [3, 3]``: linear light of the profile to linear light of sRGB, times 65536.
    """

    curves: np.ndarray
    matrix: np.ndarray


@lru_cache(maxsize=32)
def read_profile(profile: bytes) -> MatrixProfile | None:
    """The conversion to sRGB that an embedded profile asks for, or None where it asks for none.

    None: the profile is sRGB within tolerance, or no RGB matrix/curve profile (CMYK, grey, table-based), or
    cannot be read; the picture's numbers are then taken as sRGB.
    """
    try:
        colorants, curves = _parse(profile)
    except (struct.error, _UnusableProfileError):
        return None
    if _is_srgb(colorants, curves):
        return None
    matrix = (_XYZ_TO_SRGB @ colorants + (1 << 19)) >> 20
    for array in (curves, matrix):
        array.setflags(write=False)
    return MatrixProfile(curves=curves, matrix=matrix)


def to_srgb(pixels: np.ndarray, profile: MatrixProfile) -> np.ndarray:
    """Pixels ``uint8 [h, w, 3]`` in the profile's colours to ``uint8 [h, w, 3]`` in sRGB."""
    linear = np.stack([profile.curves[channel][pixels[..., channel]] for channel in range(3)], axis=-1)
    mixed = (linear @ profile.matrix.T + (1 << 15)) >> 16
    return srgb_encoding()[np.clip(mixed, 0, 65535)]


@cache
def srgb_encoding() -> np.ndarray:
    """``uint8 [65536]``: linear light 0..65535 to sRGB levels, rounded to nearest (IEC 61966-2-1)."""
    light = np.arange(65536) / 65535.0
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.power(light, 1.0 / 2.4) - 0.055)
    table = np.floor(255.0 * encoded + 0.5).astype(np.uint8)
    table.setflags(write=False)
    return table


class _UnusableProfileError(ValueError):
    """The profile is no RGB matrix/curve profile that can be read."""


def _parse(profile: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Colorants ``int64 [3, 3]`` (s15Fixed16, columns red green blue) and curves ``int64 [3, 256]``."""
    if profile[16:24] != b"RGB XYZ " or profile[36:40] != b"acsp":
        raise _UnusableProfileError("not an RGB profile over XYZ")
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > _MAX_TAGS:
        raise _UnusableProfileError("too many tags")
    tags: dict[bytes, bytes] = {}
    for index in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        tags.setdefault(name, profile[offset : offset + size])
    columns = [_colorant(tags, name) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    curves = [_curve(tags.get(name, b"")) for name in (b"rTRC", b"gTRC", b"bTRC")]
    return np.array(columns, np.int64).T.copy(), np.array(curves, np.int64)


def _colorant(tags: dict[bytes, bytes], name: bytes) -> tuple[int, ...]:
    tag = tags.get(name, b"")
    if tag[:4] != b"XYZ ":
        raise _UnusableProfileError("no colorant")
    return struct.unpack_from(">3i", tag, 8)


def _curve(tag: bytes) -> list[int]:
    """The 256 values of a ``curv`` or ``para`` element, 0..65535."""
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        if kind not in _PARAMETERS:
            raise _UnusableProfileError("unknown parametric curve")
        raw = struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)
        return _sample(_parametric(kind, [value / 65536 for value in raw]))
    if tag[:4] != b"curv":
        raise _UnusableProfileError("no curve")
    (count,) = struct.unpack_from(">I", tag, 8)
    if count == 0:
        return [level * 257 for level in range(256)]
    if count == 1:
        (gamma,) = struct.unpack_from(">H", tag, 12)
        return _sample(_parametric(0, [gamma / 256]))
    table = struct.unpack_from(f">{count}H", tag, 12)
    return [_interpolate(table, level) for level in range(256)]


def _interpolate(table: tuple[int, ...], level: int) -> int:
    low, part = divmod(level * (len(table) - 1), 255)
    high = min(low + 1, len(table) - 1)
    return (table[low] * (255 - part) + table[high] * part + 127) // 255


def _parametric(kind: int, parameters: list[float]) -> Callable[[float], float]:
    """ICC.1:2022, 10.18: Y = (aX+b)^g + e where X reaches the threshold, cX + f below it."""
    g, a, b, c, d, e, f = _expand(kind, parameters)
    if g <= 0:
        raise _UnusableProfileError("gamma is not positive")

    def curve(x: float) -> float:
        return math.pow(max(a * x + b, 0.0), g) + e if x >= d else c * x + f

    return curve


def _expand(kind: int, parameters: list[float]) -> tuple[float, ...]:
    """The seven parameters g a b c d e f of type 4 that equal a curve of type 0 to 4."""
    if kind == 0:
        return (parameters[0], 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    if kind in (1, 2):
        g, a, b = parameters[:3]
        if a == 0:
            raise _UnusableProfileError("no threshold")
        offset = parameters[3] if kind == 2 else 0.0
        return (g, a, b, 0.0, -b / a, offset, offset)
    return (*parameters, 0.0, 0.0) if kind == 3 else tuple(parameters)


def _sample(curve: Callable[[float], float]) -> list[int]:
    try:
        values = [curve(level / 255) for level in range(256)]
    except OverflowError:
        raise _UnusableProfileError("curve overflows") from None
    return [math.floor(65535 * min(max(value, 0.0), 1.0) + 0.5) for value in values]


def _is_srgb(colorants: np.ndarray, curves: np.ndarray) -> bool:
    levels = srgb_encoding()[curves].astype(np.int64)
    return bool(
        np.abs(colorants - _SRGB_COLORANTS).max() <= _COLORANT_TOLERANCE
        and np.abs(levels - np.arange(256)).max() <= _CURVE_TOLERANCE
    )
