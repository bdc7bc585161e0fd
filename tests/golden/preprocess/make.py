"""Makes the golden vectors beside it: ``python tests/golden/preprocess/make.py``.

Encoded files come from Pillow (where it cannot write them, from struct and zlib). The expected pixels come
from tests/preprocess_slow.py alone, starting at the pixels that were put into a lossless file or, for JPEG,
at the decoded pixels, which are kept too. hetero itself is not used.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
import preprocess_slow as slow  # noqa: E402

WIDTH, HEIGHT = 36, 27
SPECS = {
    "squash": {"height": 20, "width": 24, "channels": 3, "resize": "squash", "filter": "bilinear"},
    "crop": {"height": 18, "width": 18, "channels": 1, "resize": "center_crop", "filter": "lanczos"},
    "pad": {"height": 22, "width": 16, "channels": 3, "resize": "pad", "filter": "bicubic"},
    "enlarge": {"height": 50, "width": 45, "channels": 3, "resize": "center_crop", "filter": "box"},
}
BACKGROUNDS = {"squash": (255, 255, 255), "crop": (40, 90, 160), "pad": (10, 120, 200), "enlarge": (0, 0, 0)}
# Display-P3 as phones embed it: D50-adapted colorants and the sRGB curve, in s15Fixed16.
P3_COLORANTS = ((33759, 15807, -69), (19135, 45367, 2745), (10296, 4363, 51385))
SRGB_CURVE = (157286, 62119, 3417, 5072, 2651)  # g a b c d of parametric type 3


def icc_profile(colorants: tuple[tuple[int, ...], ...], curves: tuple[bytes, bytes, bytes]) -> bytes:
    """A minimal ICC v4 display profile: three colorants (s15Fixed16) and three curve elements."""
    text = struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", 4, 28) + "P3".encode("utf-16-be")
    elements = [
        (b"desc", text),
        (b"cprt", text),
        (b"wtpt", b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)),
    ]
    elements += [
        (name, b"XYZ \0\0\0\0" + struct.pack(">3i", *xyz))
        for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)
    ]
    elements += list(zip((b"rTRC", b"gTRC", b"bTRC"), curves, strict=True))
    table, body, offset = b"", b"", 132 + 12 * len(elements)
    for name, element in elements:
        table += struct.pack(">4sII", name, offset + len(body), len(element))
        body += element + b"\0" * (-len(element) % 4)
    header = struct.pack(">I4sI4s4s4s", offset + len(body), b"\0\0\0\0", 0x04000000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28
    header += struct.pack(">3i", 63190, 65536, 54061) + b"\0" * 48
    return header + struct.pack(">I", len(elements)) + table + body


def parametric(kind: int, *parameters: int) -> bytes:
    return struct.pack(f">4s4xHxx{len(parameters)}i", b"para", kind, *parameters)


def display_p3() -> bytes:
    return icc_profile(P3_COLORANTS, (parametric(3, *SRGB_CURVE),) * 3)


def scene(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> np.ndarray:
    """Gradients, an edge, a saturated patch and texture, from integers alone: uint8 [h, w, channels]."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    values = (x * 255 // max(width - 1, 1) * (c + 1) // 2 + y * 6 * (3 - c) + (x * 7 + y * 13 + c * 29) % 17) % 256
    values[height // 3 : height // 2, width // 4 : width // 2] = (255, 20, 0, 90)[:channels]
    values[:, width * 2 // 3 :] = values[:, width * 2 // 3 :] // 4
    return values.astype(np.uint8)


def picture(array: np.ndarray) -> slow.Picture:
    array = array[..., None] if array.ndim == 2 else array
    return [[tuple(pixel) for pixel in row] for row in array.tolist()]


def save(array: np.ndarray, format_name: str, mode: str | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array) if mode is None else Image.frombytes(mode, array.shape[1::-1], array.tobytes())
    image.save(stream, format_name, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def exif(orientation: int) -> bytes:
    entry = struct.pack(">HHIHxx", 0x0112, 3, 1, orientation)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any bit depth and colour type, rows unfiltered, with chunks before the pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def jpegs() -> dict[str, tuple[bytes, int, bytes | None]]:
    """Name to file, orientation, profile."""
    rgb = scene()
    files: dict[str, tuple[bytes, int, bytes | None]] = {}
    for orientation in range(1, 9):
        subsampling = 0 if orientation == 1 else 2
        data = save(rgb, "JPEG", quality=90, subsampling=subsampling, exif=exif(orientation))
        files[f"exif_{orientation}.jpg"] = data, orientation, None
    files["grey.jpg"] = save(rgb[..., 1], "JPEG", quality=90), 1, None
    files["cmyk.jpg"] = save(scene(channels=4), "JPEG", mode="CMYK", quality=90), 1, None
    profile = display_p3()
    p3 = save(rgb, "JPEG", quality=95, subsampling=0, exif=exif(6), icc_profile=profile)
    files["display_p3.jpg"] = p3, 6, profile
    return files


def lossless() -> dict[str, tuple[bytes, slow.Picture, int, bytes | None]]:
    """Name to file, pixels at 8 bits (4 channels: RGBA), orientation, profile."""
    rgb, rgba = scene(), scene(channels=4)
    grey = rgb[..., 0]
    opaque = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    files: dict[str, tuple[bytes, slow.Picture, int, bytes | None]] = {}

    def add(name: str, data: bytes, pixels: np.ndarray, orientation: int = 1, profile: bytes | None = None) -> None:
        files[name] = data, picture(pixels), orientation, profile

    add("alpha.png", save(rgba, "PNG"), rgba)
    add("grey.png", save(grey, "PNG"), grey)
    grey_alpha = np.stack([grey, rgb[..., 2]], -1)
    add("grey_alpha.png", save(grey_alpha, "PNG", mode="LA"), np.dstack([grey, grey, grey, rgb[..., 2]]))
    add("exif_5.png", save(rgb, "PNG", exif=exif(5)), rgb, 5)
    add("display_p3.png", save(rgb, "PNG", icc_profile=display_p3()), rgb, 1, display_p3())
    add("one_by_n.png", save(scene(1, 40), "PNG"), scene(1, 40))
    add("n_by_one.png", save(scene(40, 1), "PNG"), scene(40, 1))

    index, colours = grey // 32, scene(8, 1)[:, 0]
    alphas = np.array([255, 0, 128, 7, 255, 250, 255, 255], np.uint8)
    chunks = (b"PLTE", colours.tobytes()), (b"tRNS", alphas.tobytes())
    flat = np.dstack([colours[index], alphas[index]])
    add("palette.png", png(WIDTH, HEIGHT, 8, 3, [bytes(row) for row in index], *chunks), flat)

    wide = scene(HEIGHT, WIDTH * 2)[..., 0].reshape(HEIGHT, WIDTH, 2)  # big-endian 16 bits: byte 0 is the high one
    key = bytes(wide[3, 5])
    alpha = np.where((wide == wide[3, 5]).all(-1), 0, 255).astype(np.uint8)
    high = wide[..., 0]
    add("grey16.png", png(WIDTH, HEIGHT, 16, 0, [bytes(row.ravel()) for row in wide]), high)
    add(
        "grey16_key.png",
        png(WIDTH, HEIGHT, 16, 0, [bytes(row.ravel()) for row in wide], (b"tRNS", key)),
        np.dstack([high, high, high, alpha]),
    )
    deep = scene(HEIGHT, WIDTH, 3)[:, :, [0, 1, 1, 2, 2, 0]]
    add("rgb16.png", png(WIDTH, HEIGHT, 16, 2, [bytes(row.ravel()) for row in deep]), deep[:, :, ::2])
    four = grey // 16
    packed = [bytes(row[0::2] << 4 | row[1::2]) for row in four]
    alpha = np.where(four == four[2, 2], 0, 255).astype(np.uint8)
    transparent = (b"tRNS", bytes([0, int(four[2, 2])]))
    add(
        "grey4_key.png",
        png(WIDTH, HEIGHT, 4, 0, packed, transparent),
        np.dstack([four * 17, four * 17, four * 17, alpha]),
    )
    bits = (grey > 127).astype(np.uint8)
    add("bitonal.png", png(WIDTH, HEIGHT, 1, 0, [bytes(np.packbits(row)) for row in bits]), bits * 255)
    add("rgb.webp", save(rgb, "WEBP", lossless=True), rgb)
    add("rgb.bmp", save(rgb, "BMP"), rgb)
    add("rgb.ppm", save(rgb, "PPM"), rgb)
    add("grey16.pgm", b"P5\n%d %d\n65535\n" % (WIDTH, HEIGHT) + wide.tobytes(), high)
    tags = {0x0112: 6}
    add("exif_6.tif", save(rgb, "TIFF", tiffinfo=tags, compression="tiff_lzw"), rgb, 6)
    frames = [Image.fromarray(grey), Image.fromarray(255 - grey)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    add("two_frames.gif", stream.getvalue(), grey)
    add("opaque_alpha.webp", save(np.dstack([rgb, opaque]), "WEBP", lossless=True), rgb)
    return files


def expected(pixels: slow.Picture, spec: dict, orientation: int, profile: bytes | None) -> np.ndarray:
    if len(pixels[0][0]) == 4:
        pixels = slow.composite(pixels, spec["background"])
    return np.array(slow.preprocess(pixels, spec, orientation, profile), np.uint8)


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    entries = []
    cases: dict[str, tuple[bytes, slow.Picture, int, bytes | None]] = lossless()
    for name, (data, orientation, profile) in jpegs().items():
        arrays[f"{name}/decoded"] = decoded(data)
        pixels = picture(arrays[f"{name}/decoded"])
        if name == "cmyk.jpg":
            pixels = slow.cmyk_to_rgb(pixels)
        cases[name] = data, pixels, orientation, profile
    for name in sorted(cases):
        data, pixels, orientation, profile = cases[name]
        (HERE / name).write_bytes(data)
        sums = {}
        for key, spec in SPECS.items():
            array = expected(pixels, {**spec, "background": BACKGROUNDS[key]}, orientation, profile)
            arrays[f"{name}/{key}"] = array
            sums[key] = hashlib.sha256(array.tobytes()).hexdigest()
        entries.append(
            {
                "file": name,
                "sha256": hashlib.sha256(data).hexdigest(),
                "orientation": orientation,
                "icc_profile": "display_p3.icc" if profile else None,
                "expected_sha256": sums,
            }
        )
    (HERE / "display_p3.icc").write_bytes(display_p3())
    np.savez_compressed(HERE / "expected.npz", **arrays)
    specs = {key: {**spec, "background": list(BACKGROUNDS[key])} for key, spec in SPECS.items()}
    index = {"version": "hetero-preprocess/1", "specs": specs, "files": entries}
    (HERE / "golden.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
