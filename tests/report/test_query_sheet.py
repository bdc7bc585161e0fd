"""The picture of a search: the query, its matches in order, their captions within their tiles."""

from __future__ import annotations

import base64
import io
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from hetero.errors import RetrievalError, StorageError
from hetero.report import query_sheet
from hetero.report.query_sheet import TILE_PX, SheetMatch, fit_text, save_query_sheet, thumbnail_base64


def flat(colour: tuple[int, int, int], height: int = 20, width: int = 20) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200), (200, 0, 200), (90, 90, 90)]


def test_the_query_stands_beside_its_matches_in_order(tmp_path: Path) -> None:
    matches = [SheetMatch(flat(colour), f"class {n}", 0.9 - n / 10, f"{n}.png") for n, colour in enumerate(COLOURS)]
    save_query_sheet(flat((10, 20, 30)), matches, tmp_path / "sheet.png", query_name="query.jpg")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert tuple(sheet[50, 50]) == (10, 20, 30)
    centres = []
    for colour in COLOURS:
        rows, columns = np.nonzero((sheet == colour).all(axis=2))
        assert len(rows) == TILE_PX**2 - TILE_PX * 2 + 1 or len(rows) >= (TILE_PX - 2) ** 2
        centres.append((rows.mean(), columns.mean()))
    assert centres == sorted(centres)
    assert centres[4][0] == pytest.approx(centres[0][0])
    assert centres[5][0] > centres[4][0] + TILE_PX
    assert all(column > TILE_PX for _, column in centres)


def test_captions_are_drawn_and_stay_in_their_column(tmp_path: Path) -> None:
    def save(name: str) -> np.ndarray:
        matches = [(flat((255, 255, 255)), name, 0.5, "p" * 300), (flat((255, 255, 255)), "", 0.4, "")]
        save_query_sheet(np.full((8, 8), 255, np.uint8), matches, tmp_path / "s.png")
        return np.asarray(Image.open(tmp_path / "s.png").convert("L")).astype(int)

    short, long = save("cat"), save("a very long class name " * 30)
    caption = slice(14 + TILE_PX + 24, 14 + TILE_PX + 42)
    assert (short[caption] < 200).any()
    assert short.shape == long.shape
    changed = np.flatnonzero((short[caption] != long[caption]).any(axis=0))
    first = 14 + TILE_PX + 14 + 14
    assert first <= changed.min()
    assert changed.max() < first + TILE_PX


@pytest.mark.parametrize("shape", [(30, 10), (10, 30, 1), (10, 30, 3), (400, 300, 3), (1, 500)])
def test_any_size_and_layout_fits_its_tile(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.full(shape, 120, np.uint8)
    save_query_sheet(image, [SheetMatch(image, "x", 1.0, "y")], tmp_path / "s.png")
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    rows, columns = np.nonzero((sheet[:, : TILE_PX + 20] == 120).all(axis=2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(height, width) in (TILE_PX - 1, TILE_PX)
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.05) or 1 in (height, width)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_an_image_of_another_layout_is_refused(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(RetrievalError, match=r"cannot draw an image of this layout; got \w+ \["):
        save_query_sheet(image, [SheetMatch(flat((0, 0, 0)), "x", 1.0, "y")], tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()


def test_no_matches_and_an_unwritable_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match="there is no match to draw"):
        save_query_sheet(flat((0, 0, 0)), [], tmp_path / "s.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        save_query_sheet(flat((0, 0, 0)), [SheetMatch(flat((0, 0, 0)), "x", 1.0, "y")], tmp_path / "file" / "s.png")


def test_fit_text_keeps_both_ends_within_the_width() -> None:
    font = ImageFont.load_default(size=13)
    text = "photos/holiday/2024/beach/IMG_0001.jpg"
    assert fit_text(text, font, 10_000) == text
    fitted = fit_text(text, font, 120)
    assert font.getlength(fitted) <= 120
    assert fitted.startswith("photo")
    assert fitted.endswith("1.jpg")
    assert "…" in fitted
    assert fit_text("two\nlines", font, 500) == "two lines"
    assert fit_text(text, font, 1) == ""


def test_thumbnail_base64_is_a_small_png_of_the_same_shape() -> None:
    data = base64.b64decode(thumbnail_base64(np.zeros((300, 150, 3), np.uint8)))
    assert Image.open(io.BytesIO(data)).size == (48, 96)
    data = base64.b64decode(thumbnail_base64(np.arange(784, dtype=np.uint8).reshape(28, 28)))
    small = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(small)[:, :, 0], np.arange(784, dtype=np.uint8).reshape(28, 28))


def test_the_font_has_accents_and_falls_back_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = query_sheet._font()
    assert isinstance(found, ImageFont.FreeTypeFont)
    assert found.getname()[0] == "DejaVu Sans"
    assert bytes(found.getmask("ä")) != bytes(found.getmask("\ufffe"))
    elsewhere = ModuleSpec("matplotlib", None, origin=str(tmp_path / "__init__.py"))
    for spec in (None, elsewhere):
        monkeypatch.setattr(query_sheet, "find_spec", lambda _, spec=spec: spec)
        monkeypatch.setattr(ImageFont, "truetype", _no_file)
        save_query_sheet(flat((0, 0, 0)), [SheetMatch(flat((1, 1, 1)), "é", 1.0, "y")], tmp_path / "s.png")
        assert (tmp_path / "s.png").exists()


_TRUETYPE = ImageFont.truetype


def _no_file(font: object, size: float = 10, **others: object) -> ImageFont.FreeTypeFont:
    """As on a machine without font files; Pillow's own font is not a file."""
    if isinstance(font, str):
        raise OSError("cannot open resource")
    return _TRUETYPE(font, size, **others)
