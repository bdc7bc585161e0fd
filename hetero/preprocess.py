"""THE reference preprocessing: a picture file to a model's uint8 pixels, exact to the bit after decoding.

Every step is written out in docs/preprocess-spec.md, so that ports in other languages give the same bytes;
Pillow does the heavy steps here, and tests/preprocess_slow.py does them in plain Python from that page alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hetero.errors import ImageError
from hetero.icc import read_profile, to_srgb

SPEC_VERSION = "hetero-preprocess/1"
MAX_PIXELS = 178_000_000  # just under the size at which Pillow itself refuses; 4 bytes a pixel are 0.7 GB
MAX_SIDE = 65_535  # of JPEG; bounds the picture between the two resampling passes, spec.width x source height


# First bytes -> decoder. Not through Image.open, which consults (and warns by) process-wide limits.
_DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    (re.compile(rb"P[1-6][\s#]"), PpmImagePlugin.PpmImageFile),
)
_HEAD_BYTES = 16
_PNG_END = b"IEND\xaeB`\x82"
_KNOWN_FORMATS = "JPEG, PNG, WebP, BMP, GIF, TIFF or PBM/PGM/PPM"
_BYTES_PER_PIXEL, _BYTES_SLACK = 16, 64 << 20  # the largest encoded file: plain-text PPM, plus metadata

# Everything Pillow's decoders were seen to raise on damaged files.
_DECODE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA")
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
_KEY_SCALE = {"L;2": 85, "L;4": 17}  # PNG gives its transparent grey in the file's bits, Pillow pixels in 8


class PreprocessSpec(BaseModel):
    """What turns a picture into the pixels of one model; part of the identity of its embedding space.

    Attributes:
        height, width, channels: the shape of the result, ``uint8 [height, width, channels]``.
        resize: ``squash`` (ignore the aspect ratio), ``center_crop`` (shorter side to size, centre kept) or
            ``pad`` (longer side to size, background around).
        filter: resampling filter, antialiased when shrinking.
        background: sRGB colour behind transparent pixels and in the padding.
        mean, std: per channel, of pixels / 255; applied inside the graph only. Default 0.5.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3] = 3
    resize: Literal["squash", "center_crop", "pad"] = "squash"
    filter: Literal["bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    background: tuple[int, int, int] = (255, 255, 255)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _default_normalisation(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        channels = 1 if values.get("channels", 3) == 1 else 3
        return {"mean": (0.5,) * channels, "std": (0.5,) * channels, **values}

    @model_validator(mode="after")
    def _check(self) -> PreprocessSpec:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(np.isfinite(values)):
                raise ValueError(f"{name} needs one finite number a channel ({self.channels}), got {values}")
        if not all(0 <= value <= 1 for value in self.mean):
            raise ValueError(f"mean is of pixels / 255, so 0 to 1 a channel, got {self.mean}; divide by 255")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")
        if not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"background needs three levels 0..255, got {self.background}")
        return self

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the canonical JSON of every field, mean and std included, and the version."""
        fields = {"version": SPEC_VERSION, **self.model_dump(mode="json")}
        return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_image(
    source: Path | str | bytes,
    spec: PreprocessSpec,
    *,
    max_pixels: int = MAX_PIXELS,
    box: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """Decode a picture and bring it to ``uint8 [spec.height, spec.width, spec.channels]``.

    Args:
        source: a file, or the bytes of one: JPEG, PNG, WebP, BMP, GIF, TIFF, PBM/PGM/PPM; first frame only.
        max_pixels: pictures of more pixels are refused by their header, before anything is decoded.
        box: left, top, right, bottom (right and bottom excluded) of the part of the upright picture to take instead
            of all of it; what reaches beyond the picture is cut off.

    Raises:
        ImageError: missing, unreadable, empty, no picture, damaged or truncated, too large, unsupported mode, a box
            outside the picture.
    """
    name, data = _read(source, max_pixels)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            f"{name} is not decoded: Pillow's LOAD_TRUNCATED_IMAGES is on, missing parts would become grey",
            expected="the same bytes in every process",
            fix="set PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False",
        )
    decoder = _decoder(name, data)
    try:
        image = decoder(io.BytesIO(data))
        _check_size(name, image.size, max_pixels)
        png_layout = image.tile[0][3] if image.format == "PNG" else None
        image.load()
        if image.format == "PNG" and _PNG_END not in data:
            raise EOFError("no IEND chunk")  # Pillow lets the last bytes of a PNG be missing
        profile = image.info.get("icc_profile") if image.mode in _COLOUR_MODES else None
        orientation = exif_orientation(image.info.get("exif"))  # never there in TIFF, which Pillow turns itself
        flat = _flatten(name, image, spec.background, png_layout)
    except _DECODE_ERRORS as error:
        raise ImageError(
            f"{name} is truncated or damaged",
            got=f"{type(error).__name__}: {error}",
            expected="a whole picture",
            fix="copy or export it again, or leave it out: --skip-bad, data.skip_bad: true",
        ) from error
    if box is not None:
        flat, orientation = _cut(name, _upright(flat, orientation), box), 1
    return preprocess_image(flat, spec, orientation=orientation, icc_profile=profile)


def preprocess_image(
    image: Image.Image, spec: PreprocessSpec, *, orientation: int = 1, icc_profile: object = None
) -> np.ndarray:
    """All stages after decoding: an opaque picture of mode L or RGB to ``uint8 [height, width, channels]``.

    Args:
        image: mode ``L`` or ``RGB``, not transparent.
        orientation: EXIF orientation 1..8; others count as 1.
        icc_profile: bytes of an embedded profile; anything unusable counts as sRGB.
    """
    pixels = np.array(_resize(_upright(image, orientation), spec))
    if isinstance(icc_profile, bytes) and pixels.ndim == 3 and (profile := read_profile(icc_profile)):
        pixels = to_srgb(pixels, profile)
    return _pad(_to_channels(pixels, spec.channels), spec)


def preprocess_array(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """sRGB pixels ``uint8 [h, w]``, ``[h, w, 1]`` or ``[h, w, 3]`` to ``uint8 [height, width, channels]``.

    A new array whose values equal the input where size and channels already fit.

    Raises:
        ImageError: another type or shape, or no pixels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise ImageError(
            "pixels of an unsupported layout",
            got=f"{pixels.dtype} {list(pixels.shape)}",
            expected="uint8 [h, w], [h, w, 1] or [h, w, 3]",
            fix="convert to 8 bits, channels last",
        )
    height, width = pixels.shape[:2]
    _check_size("an array", (width, height), MAX_PIXELS)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if (height, width) == (spec.height, spec.width):
        return np.array(_to_channels(pixels, spec.channels), order="C")
    return preprocess_image(Image.fromarray(pixels), spec)


def exif_orientation(exif: object) -> int:
    """Tag 0x0112 of IFD0 of an EXIF block; 1 where there is none or it cannot be read."""
    if not isinstance(exif, bytes):
        return 1
    block = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(count):
            tag, kind = struct.unpack_from(order + "HH", block, start + 2 + 12 * entry)
            if tag == 0x0112 and kind in (3, 4):
                (value,) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], block, start + 10 + 12 * entry)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _read(source: Path | str | bytes, max_pixels: int) -> tuple[str, bytes]:
    """Name for messages, and the encoded bytes; only a regular file of sane size is read."""
    if isinstance(source, bytes):
        name, data = f"image of {len(source)} bytes", source
    else:
        name = f"image {os.fspath(source)!r}"
        limit = _BYTES_PER_PIXEL * max_pixels + _BYTES_SLACK
        try:
            status = os.stat(source)
            if not stat.S_ISREG(status.st_mode):
                kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
                raise ImageError(f"{name} is not a file", got=kind, expected="a file", fix="check the path")
            if status.st_size > limit:
                raise ImageError(
                    f"{name} is too large",
                    got=f"{status.st_size} bytes",
                    expected=f"at most {limit} bytes",
                    fix="scale it down, or raise max_pixels",
                )
            data = Path(source).read_bytes()
        except FileNotFoundError:
            raise ImageError(f"{name} does not exist", fix="check the path") from None
        except (OSError, ValueError) as error:
            raise ImageError(
                f"{name} cannot be read", got=str(error), fix="check the path and its permissions"
            ) from error
    if not data:
        raise ImageError(
            f"{name} is empty",
            got="0 bytes",
            expected="a picture",
            fix="copy it again, or leave it out: --skip-bad, data.skip_bad: true",
        )
    return name, data


def _decoder(name: str, data: bytes) -> type[ImageFile.ImageFile]:
    head = data[:_HEAD_BYTES]
    for pattern, decoder in _DECODERS:
        if pattern.match(head):
            return decoder
    raise ImageError(
        f"{name} is not a picture of a known format",
        got=f"first bytes {head[:8].hex(' ')}",
        expected=_KNOWN_FORMATS,
        fix="convert it to JPEG or PNG, or leave it out: --skip-bad, data.skip_bad: true",
    )


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if min(size) < 1 or max(size) > MAX_SIDE or width * height > max_pixels:
        raise ImageError(
            f"{name} has a refused size",
            got=f"{width} x {height} = {width * height} pixels",
            expected=f"1 to {max_pixels} pixels, sides of at most {MAX_SIDE}",
            fix="scale it down, or raise max_pixels if the source is trusted (4 bytes of memory a pixel)",
        )


def _flatten(name: str, image: Image.Image, background: tuple[int, int, int], png_layout: object) -> Image.Image:
    """Any decoded picture to opaque 8-bit ``L`` or ``RGB`` (spec: "To 8 bits" and "Transparency")."""
    if image.mode in _SIXTEEN_BIT_MODES or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _grey_from_16_bits(image)
    elif image.mode not in (*_GREY_MODES, *_COLOUR_MODES, "CMYK"):
        raise ImageError(
            f"{name} has an unsupported pixel type",
            got=f"mode {image.mode} in {image.format}",
            expected="grey, RGB or palette with or without alpha, CMYK, or 16-bit grey",
            fix="convert it to an 8-bit RGB PNG or JPEG",
        )
    else:
        _fix_colour_key(image, png_layout)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(image.convert("RGB"), mask=image)
        return canvas
    target = "L" if image.mode in _GREY_MODES else "RGB"
    return image if image.mode == target else image.convert(target)


def _grey_from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))))


def _fix_colour_key(image: Image.Image, png_layout: object) -> None:
    """Keep a single transparent colour only where it can be compared with the 8-bit pixels."""
    key = image.info.get("transparency")
    if key is None or image.mode in ("P", "PA"):
        return
    if image.mode == "L" and isinstance(key, int):
        key *= _KEY_SCALE.get(str(png_layout), 1)
    levels = key if isinstance(key, tuple) else (key,)
    usable = len(levels) == (3 if image.mode == "RGB" else 1) and png_layout != "RGB;16B"
    if usable and all(isinstance(level, int) and level <= 255 for level in levels):
        image.info["transparency"] = key
    else:
        del image.info["transparency"]


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _cut(name: str, image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)
    if left >= right or top >= bottom:
        raise ImageError(
            f"{name}: the box holds nothing of the picture",
            got=f"left, top, right, bottom {', '.join(str(edge) for edge in box)}",
            expected=f"a part of {image.width} x {image.height} pixels",
            fix="correct the box, or leave the picture out: data.skip_bad: true",
        )
    return image.crop((left, top, right, bottom))


def _resize(image: Image.Image, spec: PreprocessSpec) -> Image.Image:
    """Resample to the output size, or for ``pad`` to the largest size of the same aspect that fits in it."""
    width, height = image.size
    out_width, out_height = spec.width, spec.height
    left, top, right, bottom = 0, 0, width, height
    wider = width * spec.height > height * spec.width
    if spec.resize == "center_crop" and wider:
        kept = _rounded(height * spec.width, spec.height, width)
        left = (width - kept) // 2
        right = left + kept
    elif spec.resize == "center_crop":
        kept = _rounded(width * spec.height, spec.width, height)
        top = (height - kept) // 2
        bottom = top + kept
    elif spec.resize == "pad" and wider:
        out_height = _rounded(height * spec.width, width, spec.height)
    elif spec.resize == "pad":
        out_width = _rounded(width * spec.height, height, spec.width)
    # Two calls, because which pass one call does first depends on the sizes and on Pillow's version.
    method = _FILTERS[spec.filter]
    image = image.resize((out_width, height), method, box=(left, 0, right, height))
    return image.resize((out_width, out_height), method, box=(0, top, out_width, bottom))


def _rounded(numerator: int, denominator: int, most: int) -> int:
    """The quotient rounded half up, between 1 and ``most``."""
    return min(max((2 * numerator + denominator) // (2 * denominator), 1), most)


def _to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Grey ``uint8 [h, w]`` or RGB ``[h, w, 3]`` to ``[h, w, channels]``; ITU-R 601-2 luma, 16 bits."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], channels, axis=2)
    if channels == 3:
        return pixels
    red, green, blue = (pixels[..., channel : channel + 1].astype(np.uint32) for channel in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


def _pad(pixels: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    height, width = pixels.shape[:2]
    if (height, width) == (spec.height, spec.width):
        return pixels
    background = _to_channels(np.array([[spec.background]], np.uint8), spec.channels)
    canvas = np.tile(background, (spec.height, spec.width, 1))
    top, left = (spec.height - height) // 2, (spec.width - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas
