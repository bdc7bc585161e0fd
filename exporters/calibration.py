"""Calibration pictures: what int8 activations are scaled to, and what the scaling is checked on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.manifest import CalibrationRecord
from hetero.errors import ConfigError
from hetero.preprocess import PreprocessSpec, load_image

FEWEST = 32  # fewer pictures leave ranges to chance
MOST = 4096  # ranges have long settled, and calibration keeps float activations in memory
_NOISE = 0.1  # correlation of neighbours; drawn strokes at 28 pixels have 0.5
_HELD_BACK = 8  # every eighth picture calibrates nothing: on it the quantised file is compared with torch


@dataclass(frozen=True)
class Calibration:
    """Pictures to calibrate on, and others of the same kind that were held back, both ``uint8 [n, h, w, c]``."""

    pixels: np.ndarray
    held_back: np.ndarray

    @property
    def record(self) -> CalibrationRecord:
        """What the manifest says of it."""
        return CalibrationRecord(
            pictures=len(self.pixels),
            held_back=len(self.held_back),
            sha256=hashlib.sha256(self.pixels.tobytes() + self.held_back.tobytes()).hexdigest(),
        )


def read_calibration(pictures: np.ndarray | Sequence[Path], preprocess: PreprocessSpec) -> Calibration:
    """Calibration from preprocessed pixels ``uint8 [n, h, w, c]`` or from image files.

    Raises:
        ConfigError: too few or too many pictures, or pixels of another size.
        ImageError: a file cannot be read.
    """
    if not FEWEST <= len(pictures) <= MOST:
        raise ConfigError(
            "wrong number of calibration pictures",
            got=len(pictures),
            expected=f"{FEWEST} to {MOST}",
            fix="take some hundred pictures like those that will be embedded, of training classes",
        )
    if isinstance(pictures, np.ndarray):
        pixels = pictures
    elif not all(isinstance(picture, str | Path) for picture in pictures):
        raise ConfigError(
            "the calibration pictures are neither pixels nor files",
            got=type(pictures).__name__,
            expected="a numpy array uint8 [n, h, w, c], or paths of image files",
        )
    else:
        pixels = np.stack([load_image(path, preprocess) for path in pictures])
    expected = (preprocess.height, preprocess.width, preprocess.channels)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
        raise ConfigError(
            "the calibration pictures are not preprocessed",
            got=f"{pixels.dtype} {list(pixels.shape)}",
            expected=f"uint8 {['n', *expected]}",
            fix="pass what the PreprocessSpec makes of the pictures, or their paths",
        )
    if (pixels == pixels[0]).all():
        raise ConfigError("the calibration pictures are all the same", fix="take real pictures, each another one")
    likeness = _neighbours(pixels)
    if likeness < _NOISE:
        raise ConfigError(
            "the calibration pictures look like noise",
            got=f"a correlation of {likeness:.2f} between neighbouring pixels",
            expected=f"at least {_NOISE}; photographs have 0.8 and more",
            fix="calibrate on real pictures: random ones scale activations to what never comes",
        )
    held = np.arange(len(pixels)) % _HELD_BACK == _HELD_BACK - 1
    return Calibration(pixels[~held], pixels[held])


def _neighbours(pixels: np.ndarray) -> float:
    """Correlation of pixels side by side, over all pictures."""
    left, right = pixels[:, :, :-1].astype(np.float64), pixels[:, :, 1:].astype(np.float64)
    if left.size == 0:
        return 1.0  # pictures one pixel wide have no neighbours
    left, right = left - left.mean(), right - right.mean()
    spread = np.sqrt((left**2).mean() * (right**2).mean())
    return float((left * right).mean() / spread) if spread else 1.0
