"""The embedded dataset: 1,400 characters drawn from the fonts that matplotlib carries, built once and cached.

It needs no download. The cache is one npz file whose name holds a hash of the options and of the versions of
everything that shapes the pixels; its content is checked by SHA-256 on every load, and a damaged one is built
again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import unicodedata
import zipfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from PIL import features
from pydantic import BaseModel, ConfigDict, Field

from hetero.atomic import write_bytes
from hetero.data.dataset import Dataset
from hetero.data.draft import Draft, finish
from hetero.data.glyph_catalogue import choose_glyphs
from hetero.data.glyph_render import render_class
from hetero.data.splits import SplitConfig
from hetero.errors import StorageError
from hetero.space import weights_digest

GLYPHS_VERSION = 1
"""Part of the cache key: raised whenever this code would draw other pixels."""

_LOG = logging.getLogger(__name__)


class GlyphsConfig(BaseModel):
    """Which glyphs to draw.

    Attributes:
        seed: of the drawing (the division into splits has its own seed).
        num_classes: the characters found in most faces come first.
        renderings: pictures of each class.
        size: side of the pictures, pixels.
        split: 60 % train, 10 % val, 30 % test classes unless given.
        cache: folder; by default ``$HETERO_CACHE``, ``$XDG_CACHE_HOME/hetero`` or ``~/.cache/hetero``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["glyphs"] = "glyphs"
    seed: int = Field(default=0, ge=0)
    num_classes: int = Field(default=1400, ge=2)
    renderings: int = Field(default=14, ge=2)
    size: int = Field(default=28, ge=16, le=256)
    split: SplitConfig | None = None
    cache: Path | None = None


def read_glyphs(config: GlyphsConfig) -> Dataset:
    """The dataset, from the cache or drawn now (some 10 s); a cache that cannot be written is only a warning.

    Raises:
        DataError: more classes than the fonts hold.
        ConfigError: a split that cannot be made.
        MissingExtraError: no cache yet, and matplotlib is not installed.
    """
    path = cache_file(config)
    arrays = _load(path)
    if arrays is None:
        arrays = build(config)
        try:
            write_bytes(path, _packed(arrays))
        except (StorageError, OSError) as error:
            _LOG.warning("the glyphs are not cached and will be drawn again next time: %s", error)
    draft = Draft("glyphs", arrays["images"], arrays["labels"].astype(np.int64), tuple(arrays["classes"].tolist()))
    return finish(draft, split=config.split, val_classes=0, min_images_per_class=2, drop_small_classes=False)


def build(config: GlyphsConfig) -> dict[str, np.ndarray]:
    """Draw everything: ``images uint8 [n, size, size]``, ``labels int32 [n]``, ``classes`` by code point."""
    glyphs = sorted(choose_glyphs(config.num_classes), key=lambda glyph: ord(glyph.character))
    images = [render_class(glyph, renderings=config.renderings, size=config.size, seed=config.seed) for glyph in glyphs]
    return {
        "images": np.concatenate(images),
        "labels": np.repeat(np.arange(len(glyphs), dtype=np.int32), config.renderings),
        "classes": np.array([glyph.name for glyph in glyphs]),
    }


def cache_file(config: GlyphsConfig) -> Path:
    """Where the drawing of this config is kept; another version of a library has another file."""
    key = {
        "glyphs": GLYPHS_VERSION,
        "options": config.model_dump(mode="json", include={"seed", "num_classes", "renderings", "size"}),
        "versions": [np.__version__, PIL.__version__, features.version("freetype2"), _matplotlib_version()],
        "unicode": unicodedata.unidata_version,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return _cache_folder(config) / f"glyphs-{digest[:20]}.npz"


def _cache_folder(config: GlyphsConfig) -> Path:
    if config.cache is not None:
        return config.cache
    if os.environ.get("HETERO_CACHE"):
        return Path(os.environ["HETERO_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hetero"


def _matplotlib_version() -> str | None:
    try:
        return version("matplotlib")
    except ModuleNotFoundError:  # the build says so, and how to install it
        return None


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays, sha256=np.array(weights_digest(arrays)))
    return stream.getvalue()


def _load(path: Path) -> dict[str, np.ndarray] | None:
    """The cached arrays, or None if there is no file or it is not what was written."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        NotImplementedError,
    ) as error:
        _LOG.warning("the cached glyphs %s are damaged (%s) and are drawn again", path, error)
        return None
    expected = str(arrays.pop("sha256", ""))
    if expected != weights_digest(arrays):
        _LOG.warning("the cached glyphs %s are damaged (another SHA-256) and are drawn again", path)
        return None
    return arrays
