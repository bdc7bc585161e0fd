"""A picture of one search: the query beside its best matches, each with its class and similarity."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hetero import atomic
from hetero.errors import RetrievalError

TILE_PX = 168
THUMBNAIL_PX = 96
_MARGIN_PX, _LINE_PX, _COLUMNS = 14, 19, 5
_INK, _MUTED, _LINE, _QUERY = (31, 35, 40), (92, 101, 112), (213, 218, 224), (0, 114, 178)
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class SheetMatch(NamedTuple):
    """One match to draw: ``image`` is uint8 ``[h, w]``, ``[h, w, 1]`` or ``[h, w, 3]``."""

    image: np.ndarray
    class_name: str
    similarity: float
    path: str


def save_query_sheet(
    query_image: np.ndarray,
    matches: Sequence[SheetMatch | tuple[np.ndarray, str, float, str]],
    out_png: Path | str,
    *,
    query_name: str = "",
) -> None:
    """Save the query beside its matches, best first, as a PNG file.

    Args:
        query_image: uint8 ``[h, w]``, ``[h, w, 1]`` or ``[h, w, 3]``.
        matches: image, class name, similarity and path of each.
        query_name: what to call the query, e.g. its path.

    Raises:
        RetrievalError: no match to draw, or an image of another layout.
        StorageError: the file system refused.
    """
    if not matches:
        raise RetrievalError("there is no match to draw", fix="ask for at least one match")
    columns = min(_COLUMNS, len(matches))
    rows = -(-len(matches) // columns)
    step_x, step_y = TILE_PX + _MARGIN_PX, TILE_PX + 3 * _LINE_PX + _MARGIN_PX
    size = (_MARGIN_PX + (columns + 1) * step_x + _MARGIN_PX, _MARGIN_PX + rows * step_y)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    _tile(sheet, draw, font, (_MARGIN_PX, _MARGIN_PX), query_image, ["query", query_name], _QUERY)
    divider = _MARGIN_PX + step_x
    draw.line([(divider, _MARGIN_PX), (divider, size[1] - _MARGIN_PX)], fill=_LINE, width=1)
    for index, (image, class_name, similarity, path) in enumerate(matches):
        row, column = divmod(index, columns)
        corner = (divider + _MARGIN_PX + column * step_x, _MARGIN_PX + row * step_y)
        lines = [f"{index + 1}.  {similarity:.3f}", class_name, path]
        _tile(sheet, draw, font, corner, image, lines, _LINE)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    atomic.write_bytes(out_png, stream.getvalue())


def thumbnail_base64(image: np.ndarray, *, max_side_px: int = THUMBNAIL_PX) -> str:
    """An image (uint8 as above) as a base64 PNG for a report, shrunk where larger than ``max_side_px``."""
    picture = _picture(image)
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def fit_text(text: str, font: _Font, width_px: float | int) -> str:
    """``text`` on one line no wider than ``width_px``, an ellipsis for its middle: a path's ends matter."""
    text = " ".join(text.split())
    if font.getlength(text) <= width_px:
        return text
    kept = len(text)
    while kept > 0:
        kept -= 1
        head, tail = text[: (kept + 1) // 2], text[len(text) - kept // 2 :]
        if font.getlength(f"{head}…{tail}") <= width_px:
            return f"{head}…{tail}"
    return ""


def _font() -> _Font:
    """DejaVu Sans where matplotlib or the system has it; Pillow's own font lacks most accented letters."""
    places = ["DejaVuSans.ttf"]
    package = find_spec("matplotlib")  # not imported: only its font file is wanted
    if package is not None and package.origin is not None:
        places.insert(0, str(Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"))
    for place in places:
        try:
            return ImageFont.truetype(place, size=12)
        except OSError:
            continue
    return ImageFont.load_default(size=13)


def _tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: _Font,
    corner: tuple[int, int],
    image: np.ndarray,
    lines: Sequence[str],
    frame: tuple[int, int, int],
) -> None:
    left, top = corner
    picture = _picture(image)
    factor = TILE_PX / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    small = max(picture.size) * 3 <= TILE_PX  # enlarged threefold or more: show the pixels that the model saw
    picture = picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    sheet.paste(picture, (left + (TILE_PX - size[0]) // 2, top + (TILE_PX - size[1]) // 2))
    draw.rectangle((left - 1, top - 1, left + TILE_PX, top + TILE_PX), outline=frame)
    for number, line in enumerate(lines):
        place = (left, top + TILE_PX + 5 + number * _LINE_PX)
        draw.text(place, fit_text(line, font, TILE_PX), fill=_MUTED if number == 2 else _INK, font=font)


def _picture(image: np.ndarray) -> Image.Image:
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    fits = image.ndim in (2, 3) and image.shape[2:] in ((), (3,)) and 0 not in image.shape
    if image.dtype != np.uint8 or not fits:
        raise RetrievalError(
            "cannot draw an image of this layout",
            got=f"{image.dtype} {list(image.shape)}",
            expected="uint8 [h, w], [h, w, 1] or [h, w, 3]",
            fix="convert it to 8 bits, channels last",
        )
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
