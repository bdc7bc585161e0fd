"""Which characters of matplotlib's fonts become classes of the embedded dataset, and which faces have them.

Characters whose outlines coincide in any face (Latin A, Greek Alpha, Cyrillic A) are one class. What is
nearly the same once size and position are taken away (c and C, o and ∘) would be classes nobody can tell apart,
so of such characters only the one found in most faces stays.
"""

from __future__ import annotations

import hashlib
import logging
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hetero.errors import DataError, MissingExtraError

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    "serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    "stix": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    "cm": ("cmr10", "cmss10", "cmtt10", "cmti10", "cmb10"),
}
"""The faces used. LastResort has placeholders only; cmsy, cmex and cmmi put other signs on ASCII codes."""

FACES = tuple(face for faces in FAMILIES.values() for face in faces)
_ASCII_FACES = frozenset(FAMILIES["cm"])  # Computer Modern follows ASCII for letters and digits only
_MIN_FACES = 4
_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lo", "Nd", "Nl", "No", "Sc", "Sm", "So"})  # no marks, spaces, modifiers
_UNSUITABLE = ((0x2500, 0x259F), (0x2800, 0x28FF), (0xE000, 0xF8FF))
"""Box drawing and blocks (they fill or leave the box), Braille (dots in a grid), private use."""
_MAX_DECOMPOSED = 2  # a letter with two accents is mush at 28 pixels
_COMPARED_FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
_TOO_SIMILAR = 0.94
"""Cosine of blurred, size-normalised pictures from which two characters count as one shape. At 0.97 pairs
such as Á and Ā stay, hard to tell apart at 28 pixels; a lower bound leaves fewer characters that many faces
have (2,991 in all at 0.97, 2,259 at 0.94, 1,582 at 0.90)."""
_COMPARE_SIDE, _COMPARE_BOX, _COMPARE_EM = 24, 20, 48  # pixels


@dataclass(frozen=True)
class Glyph:
    """One class: the character drawn, all characters with the same outline, the faces that have the first."""

    character: str
    members: str
    faces: tuple[str, ...]

    @property
    def name(self) -> str:
        """For example ``U+0041 LATIN CAPITAL LETTER A``."""
        return f"U+{ord(self.character):04X} {unicodedata.name(self.character, 'UNNAMED')}"


def font_path(face: str) -> Path:
    """File of a face among the fonts that matplotlib carries.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise MissingExtraError("the embedded dataset 'glyphs'", "matplotlib", "train") from error
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


def choose_glyphs(num_classes: int) -> tuple[Glyph, ...]:
    """The ``num_classes`` best covered classes, those in most families and faces first.

    Raises:
        DataError: the fonts hold fewer distinct shapes.
        MissingExtraError: matplotlib is not installed.
    """
    chosen = _distinct_glyphs()[:num_classes]
    if len(chosen) < num_classes:
        raise DataError(
            "the fonts do not hold that many distinct characters",
            got=f"data.num_classes {num_classes}",
            expected=f"at most {len(chosen)}",
            fix="lower data.num_classes",
        )
    return chosen


@cache  # the fonts do not change while the process runs
def _distinct_glyphs() -> tuple[Glyph, ...]:
    outlines = {face: _outlines(face) for face in FACES}
    faces_of: dict[int, tuple[str, ...]] = {}
    for code in sorted(set().union(*outlines.values())):
        faces_of[code] = tuple(face for face in FACES if code in outlines[face])
    classes = merge_coinciding(outlines.values())
    glyphs = []
    for members in classes:
        first = min(members, key=lambda code: (-len(faces_of[code]), code))
        if len(faces_of[first]) >= _MIN_FACES:
            glyphs.append(Glyph(chr(first), "".join(map(chr, members)), faces_of[first]))
    glyphs.sort(key=lambda glyph: (-_families(glyph), -len(glyph.faces), ord(glyph.character)))
    return _without_similar(glyphs)


def merge_coinciding(outlines: Iterable[Mapping[int, bytes]]) -> list[list[int]]:
    """Sets of characters connected by an equal outline in some face: sorted lists, ordered by their first.

    Args:
        outlines: for each face, character code to a key of its outline.
    """
    parent: dict[int, int] = {}

    def root(code: int) -> int:
        while parent[code] != code:
            parent[code] = parent[parent[code]]
            code = parent[code]
        return code

    for face in outlines:
        first: dict[bytes, int] = {}
        for code, key in face.items():
            parent.setdefault(code, code)
            a, b = root(first.setdefault(key, code)), root(code)
            parent[max(a, b)] = min(a, b)
    sets: dict[int, list[int]] = {}
    for code in sorted(parent):
        sets.setdefault(root(code), []).append(code)
    return list(sets.values())


def _outlines(face: str) -> dict[int, bytes]:
    """Usable characters of a face, with a key of the outline that ignores where in its cell it stands."""
    from fontTools.ttLib import TTFont

    # it warns of the creation date of the Computer Modern files; without a handler that would go to stderr
    logging.getLogger("fontTools").addHandler(logging.NullHandler())
    with TTFont(font_path(face), lazy=True) as font:
        table = font["glyf"]
        missing = _outline_key(table, ".notdef")
        outlines: dict[int, bytes] = {}
        for code, glyph_name in sorted(font.getBestCmap().items()):
            if _suitable(code, face):
                key = _outline_key(table, glyph_name)
                if key is not None and key != missing:
                    outlines[code] = key
        return outlines


def _outline_key(table: Any, glyph_name: str) -> bytes | None:
    coordinates, ends, flags = table[glyph_name].getCoordinates(table)
    if len(coordinates) == 0:
        return None
    points = np.rint(np.asarray(coordinates.array).reshape(-1, 2)).astype(np.int32)
    points -= points.min(axis=0)
    content = points.tobytes() + np.array(ends, np.int32).tobytes() + bytes(flag & 1 for flag in flags)
    return hashlib.sha256(content).digest()


def _suitable(code: int, face: str) -> bool:
    character = chr(code)
    if face in _ASCII_FACES:
        return character.isascii() and character.isalnum()
    return (
        unicodedata.category(character) in _CATEGORIES
        and not any(first <= code <= last for first, last in _UNSUITABLE)
        and len(unicodedata.normalize("NFD", character)) <= _MAX_DECOMPOSED
    )


def _families(glyph: Glyph) -> int:
    return sum(any(face in glyph.faces for face in faces) for faces in FAMILIES.values())


def _without_similar(glyphs: Sequence[Glyph]) -> tuple[Glyph, ...]:
    """Go through the glyphs in order and take each that is not too similar to one taken before."""
    similar = np.zeros((len(glyphs), len(glyphs)), bool)
    for face in _COMPARED_FACES:
        rows = [i for i, glyph in enumerate(glyphs) if face in glyph.faces]
        pictures = _normalised_pictures(face, [glyphs[i].character for i in rows])
        products = pictures @ pictures.T  # whole numbers below 2**53: the same on every machine, in any order
        norms = np.sqrt(np.diagonal(products))
        similar[np.ix_(rows, rows)] |= products >= _TOO_SIMILAR * norms[:, None] * norms[None, :]
    blocked = np.zeros(len(glyphs), bool)
    chosen: list[Glyph] = []
    for i, glyph in enumerate(glyphs):
        if not blocked[i]:
            chosen.append(glyph)
            blocked |= similar[i]
    return tuple(chosen)


def _normalised_pictures(face: str, characters: Sequence[str]) -> np.ndarray:
    """Blurred pictures, whole numbers in ``float64 [n, side · side]``, each scaled to one box and centred."""
    pictures = np.zeros((len(characters), _COMPARE_SIDE, _COMPARE_SIDE), np.float64)
    font = ImageFont.truetype(str(font_path(face)), _COMPARE_EM, layout_engine=ImageFont.Layout.BASIC)
    for picture, character in zip(pictures, characters, strict=True):
        mask = mask_of(font, character)
        scale = _COMPARE_BOX / max(mask.size)
        width, height = (max(1, round(side * scale)) for side in mask.size)
        small = mask.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
        left, top = (_COMPARE_SIDE - width) // 2, (_COMPARE_SIDE - height) // 2
        picture[top : top + height, left : left + width] = np.asarray(small)
    blurred: np.ndarray = pictures
    for axis in (1, 2):  # [1 2 1] along each axis: a difference of one pixel in a stroke is no difference
        blurred = np.roll(blurred, 1, axis) + 2 * blurred + np.roll(blurred, -1, axis)
    return np.reshape(blurred, (len(characters), -1))


def mask_of(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """The ink of one character, mode ``L``, cropped to its bounding box; at least 1×1."""
    left, top, right, bottom = (math.floor(edge) for edge in font.getbbox(character))
    canvas = Image.new("L", (max(1, right - left + 2), max(1, bottom - top + 2)))  # a margin: the box is rounded
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), character, fill=255, font=font)
    return canvas.crop(canvas.getbbox() or (0, 0, 1, 1))
