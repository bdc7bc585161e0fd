"""The sheet of matches shows of each gallery picture what was indexed of it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hetero.report.query_sheet import TILE_PX
from hetero.workflows.query import Match, save_sheet


def test_a_match_in_a_box_is_shown_cut_out(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    Image.fromarray(pixels[5:30, 10:50]).save(tmp_path / "coat.png")
    query, street, coat = tmp_path / "coat.png", tmp_path / "street.png", tmp_path / "coat.png"

    def sheet(path: str) -> np.ndarray:
        save_sheet(query, [Match(0.9, "coat", path)], tmp_path / "sheet.png")
        return np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)

    boxed, cut, whole, gone = (sheet(path) for path in (f"{street}#10,5,50,30", str(coat), str(street), "gone.png"))
    assert np.array_equal(boxed[:TILE_PX], cut[:TILE_PX])  # below the tiles stand captions, which name the path
    for other in (whole, gone):
        assert not np.array_equal(boxed[:TILE_PX], other[:TILE_PX])
