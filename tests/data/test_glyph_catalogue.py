from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest
from fontTools.pens.recordingPen import DecomposingRecordingPen
from fontTools.ttLib import TTFont
from PIL import ImageFont

from hetero.data.glyph_catalogue import FACES, Glyph, choose_glyphs, font_path, mask_of, merge_coinciding
from hetero.errors import DataError, MissingExtraError


@pytest.fixture(scope="module")
def chosen() -> tuple[Glyph, ...]:
    return choose_glyphs(1400)


@pytest.fixture(scope="module")
def fonts() -> dict[str, TTFont]:
    return {face: TTFont(font_path(face)) for face in FACES}


def drawn_outline(font: TTFont, character: str) -> str:
    """Outline as drawing commands, moved to the origin: found by fontTools' pens, not by the code under test."""
    return named_outline(font, font.getBestCmap()[ord(character)])


def named_outline(font: TTFont, name: str) -> str:
    glyphs = font.getGlyphSet()
    pen = DecomposingRecordingPen(glyphs)
    glyphs[name].draw(pen)
    points = [point for _, arguments in pen.value for point in arguments if point is not None]
    if not points:
        return ""
    left, bottom = min(x for x, _ in points), min(y for _, y in points)
    moved = [
        (
            command,
            [None if point is None else (round(point[0] - left), round(point[1] - bottom)) for point in arguments],
        )
        for command, arguments in pen.value
    ]
    return hashlib.sha256(repr(moved).encode()).hexdigest()


def test_every_face_has_the_character_as_ink_and_not_as_missing_box(
    chosen: tuple[Glyph, ...], fonts: dict[str, TTFont]
) -> None:
    missing = {face: named_outline(font, ".notdef") for face, font in fonts.items()}
    for glyph in chosen:
        assert len(glyph.faces) >= 4
        for face in glyph.faces:
            outline = drawn_outline(fonts[face], glyph.character)
            assert outline
            assert outline != missing[face], (glyph.name, face)


def test_outlines_of_two_classes_never_coincide_in_any_face(
    chosen: tuple[Glyph, ...], fonts: dict[str, TTFont]
) -> None:
    for face, font in fonts.items():
        owner: dict[str, str] = {}
        for glyph in chosen:
            if face in glyph.faces:
                outline = drawn_outline(font, glyph.character)
                assert owner.setdefault(outline, glyph.character) == glyph.character, (face, owner[outline], glyph.name)


def test_look_alikes_of_three_alphabets_are_one_class(chosen: tuple[Glyph, ...]) -> None:
    (latin_a,) = [glyph for glyph in chosen if "A" in glyph.members]
    assert {"A", "Α", "А"} <= set(latin_a.members)  # Latin, Greek, Cyrillic
    assert latin_a.character == "A"
    assert latin_a.name == "U+0041 LATIN CAPITAL LETTER A"
    characters = [glyph.character for glyph in chosen]
    assert not {"Α", "А"} & set(characters)
    for smaller, larger in ("cC", "oO", "sS", "vV", "zZ"):
        assert (smaller in characters) + (larger in characters) == 1, (smaller, larger)


def test_no_placeholder_font_and_no_private_encoding() -> None:
    assert not any("LastResort" in face for face in FACES)
    assert not {"cmsy10", "cmex10", "cmmi10"} & set(FACES)
    for face in FACES:
        assert font_path(face).is_file()


def test_best_covered_characters_come_first(chosen: tuple[Glyph, ...]) -> None:
    few = choose_glyphs(50)
    assert few == chosen[:50]
    assert min(len(glyph.faces) for glyph in few) >= 16


def test_more_classes_than_the_fonts_hold_is_refused() -> None:
    with pytest.raises(DataError, match=r"num_classes 100000; expected at most \d{4}; fix: lower"):
        choose_glyphs(100_000)


def test_coinciding_in_any_face_joins_transitively() -> None:
    faces = [{1: b"x", 2: b"x", 3: b"y", 9: b"z"}, {2: b"p", 3: b"p", 4: b"q"}, {8: b"q", 9: b"q"}]
    assert merge_coinciding(faces) == [[1, 2, 3], [4], [8, 9]]
    assert merge_coinciding(reversed(faces)) == [[1, 2, 3], [4], [8, 9]]


def test_mask_is_cropped_to_the_ink() -> None:
    font = ImageFont.truetype(str(font_path("DejaVuSans")), 40)
    mask = np.asarray(mask_of(font, "L"))
    for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
        assert edge.any()
    assert mask_of(font, " ").size == (1, 1)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"'glyphs' needs .* 'matplotlib'.*pip install 'hetero\[train\]'"):
        font_path("DejaVuSans")
