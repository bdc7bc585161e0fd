from __future__ import annotations

import numpy as np
import pytest

import hetero.data.glyph_render as render_module
from hetero.data.glyph_catalogue import Glyph
from hetero.data.glyph_render import change_strokes, render_class

GLYPH = Glyph("R", "R", ("DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono"))


def test_same_arguments_same_bytes_other_seed_others() -> None:
    first = render_class(GLYPH, renderings=5, size=28, seed=0)
    assert first.shape == (5, 28, 28)
    assert first.dtype == np.uint8
    assert np.array_equal(render_class(GLYPH, renderings=5, size=28, seed=0), first)
    assert (render_class(GLYPH, renderings=5, size=28, seed=1) != first).any(axis=(1, 2)).all()


def test_pictures_of_a_class_all_differ() -> None:
    pictures = render_class(GLYPH, renderings=12, size=28, seed=0)
    assert len({picture.tobytes() for picture in pictures}) == 12


def test_every_face_is_used_before_one_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def spy(face: str, character: str, size: int, rng: np.random.Generator) -> np.ndarray:
        used.append(face)
        return np.zeros((size, size), np.uint8)

    monkeypatch.setattr(render_module, "_render", spy)
    render_class(GLYPH, renderings=7, size=28, seed=0)
    assert set(used[:3]) == set(used[3:6]) == set(GLYPH.faces)
    assert len(used) == 7


def test_ink_stays_inside_the_picture() -> None:
    pictures = render_class(GLYPH, renderings=40, size=28, seed=3).astype(int)
    border = np.concatenate([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]], axis=1)
    assert (border > 100).mean() < 0.01


@pytest.mark.parametrize("character", ["·", "∕", "─"])
def test_dots_and_bars_fill_the_box_as_well(character: str) -> None:
    glyph = Glyph(character, character, ("DejaVuSans",))
    for picture in render_class(glyph, renderings=6, size=28, seed=0):
        rows, columns = np.nonzero(picture > 90)
        assert max(np.ptp(rows), np.ptp(columns)) >= 10


def test_strokes_grow_and_shrink_by_one_pixel_a_step() -> None:
    line = np.zeros((60, 60), np.uint8)
    line[22:29, 9:49] = 255
    for step, height in ((-1, 5), (0, 7), (1, 9), (2, 11)):
        changed = change_strokes(line, step) > 0
        assert changed.any(axis=1).sum() == height
        assert changed.any(axis=0).sum() == 40 + height - 7


def test_hairlines_do_not_vanish_and_heavy_ink_does_not_grow() -> None:
    hairline = np.zeros((30, 30), np.uint8)
    hairline[15, 1:29] = 255
    assert np.array_equal(change_strokes(hairline, -1), hairline)
    heavy = np.zeros((30, 30), np.uint8)
    heavy[5:20, 5:20] = 255
    assert np.array_equal(change_strokes(heavy, 2), heavy)
