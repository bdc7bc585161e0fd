"""docs/preprocess-spec.md in plain Python, written from that page alone: slow, and the judge of the fast one.

Pictures are lists of rows of tuples of levels (1 for grey, 3 for RGB, 4 for RGBA or CMYK). Nothing here
imports hetero, Pillow or numpy.
"""

from __future__ import annotations

import math
import struct

Picture = list[list[tuple[int, ...]]]

SUPPORT = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


# --- Orientation


def orient(picture: Picture, orientation: int) -> Picture:
    height, width = len(picture), len(picture[0])
    source = {
        2: lambda y, x: (y, width - 1 - x),
        3: lambda y, x: (height - 1 - y, width - 1 - x),
        4: lambda y, x: (height - 1 - y, x),
        5: lambda y, x: (x, y),
        6: lambda y, x: (height - 1 - x, y),
        7: lambda y, x: (height - 1 - x, width - 1 - y),
        8: lambda y, x: (x, width - 1 - y),
    }.get(orientation)
    if source is None:
        return picture
    rows, columns = (width, height) if orientation >= 5 else (height, width)

    def pixel(y: int, x: int) -> tuple[int, ...]:
        at_y, at_x = source(y, x)
        return picture[at_y][at_x]

    return [[pixel(y, x) for x in range(columns)] for y in range(rows)]


# --- To 8 bits, transparency


def times255(a: int, b: int) -> int:
    t = a * b + 128
    return ((t >> 8) + t) >> 8


def cmyk_to_rgb(picture: Picture) -> Picture:
    def convert(pixel: tuple[int, ...]) -> tuple[int, ...]:
        light = 255 - pixel[3]
        return tuple(max(light - times255(ink, light), 0) for ink in pixel[:3])

    return [[convert(pixel) for pixel in row] for row in picture]


def composite(picture: Picture, background: tuple[int, ...]) -> Picture:
    """RGBA over an opaque colour."""

    def blend(pixel: tuple[int, ...]) -> tuple[int, ...]:
        alpha, levels = pixel[3], []
        for behind, level in zip(background, pixel, strict=False):
            t = behind * (255 - alpha) + level * alpha + 128
            levels.append(((t >> 8) + t) >> 8)
        return tuple(levels)

    return [[blend(pixel) for pixel in row] for row in picture]


# --- Resampling


def weight(name: str, x: float) -> float:
    if name == "box":
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    if name == "lanczos":
        return sinc(x) * sinc(x / 3.0) if -3.0 <= x < 3.0 else 0.0
    x = abs(x)
    if name == "bilinear":
        return 1.0 - x if x < 1.0 else 0.0
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


def sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


def taps(size: int, start: int, end: int, out: int, name: str) -> list[tuple[int, list[int]]]:
    scale = (end - start) / out
    stretch = max(scale, 1.0)
    support = SUPPORT[name] * stretch
    inverse = 1.0 / stretch
    result = []
    for index in range(out):
        center = start + (index + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), size)
        weights = [weight(name, (x - center + 0.5) * inverse) for x in range(first, last)]
        total = 0.0
        for value in weights:
            total += value
        if total != 0.0:
            weights = [value / total for value in weights]
        fixed = [int(value * 4194304 + (-0.5 if value < 0 else 0.5)) for value in weights]
        result.append((first, fixed))
    return result


def resample_row(row: list[tuple[int, ...]], plan: list[tuple[int, list[int]]]) -> list[tuple[int, ...]]:
    out = []
    for first, weights in plan:
        levels = []
        for channel in range(len(row[0])):
            total = 1 << 21
            for offset, value in enumerate(weights):
                total += row[first + offset][channel] * value
            levels.append(min(max(total >> 22, 0), 255))
        out.append(tuple(levels))
    return out


def transpose(picture: Picture) -> Picture:
    return [list(column) for column in zip(*picture, strict=True)]


def resample(picture: Picture, width: int, height: int, box: tuple[int, int, int, int], name: str) -> Picture:
    left, top, right, bottom = box
    plan = taps(len(picture[0]), left, right, width, name)
    picture = [resample_row(row, plan) for row in picture]
    plan = taps(len(picture), top, bottom, height, name)
    return transpose([resample_row(column, plan) for column in transpose(picture)])


def rounded(numerator: int, denominator: int, most: int) -> int:
    return min(max((2 * numerator + denominator) // (2 * denominator), 1), most)


def fit(picture: Picture, spec: dict) -> Picture:
    h, w, H, W = len(picture), len(picture[0]), spec["height"], spec["width"]
    name = spec["filter"]
    wider = w * H > h * W
    if spec["resize"] == "squash":
        return resample(picture, W, H, (0, 0, w, h), name)
    if spec["resize"] == "center_crop":
        if wider:
            kept = rounded(h * W, H, w)
            left = (w - kept) // 2
            return resample(picture, W, H, (left, 0, left + kept, h), name)
        kept = rounded(w * H, W, h)
        top = (h - kept) // 2
        return resample(picture, W, H, (0, top, w, top + kept), name)
    if wider:
        return resample(picture, W, rounded(h * W, w, H), (0, 0, w, h), name)
    return resample(picture, rounded(w * H, h, W), H, (0, 0, w, h), name)


# --- Colour profile

TO_SRGB = ((3286355, -1695959, -514466), (-1026333, 2009365, 35080), (75480, -240109, 1473653))
SRGB = ((28578, 25241, 9376), (14581, 46981, 3972), (912, 6362, 46799))


def encode_srgb(light: int) -> int:
    c = light / 65535
    v = 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055
    return math.floor(255 * v + 0.5)


def curve(tag: bytes) -> list[int]:
    if tag[:4] == b"curv":
        n = struct.unpack(">I", tag[8:12])[0]
        if n == 0:
            return [257 * i for i in range(256)]
        if n > 1:
            table = struct.unpack(f">{n}H", tag[12 : 12 + 2 * n])
            values = []
            for i in range(256):
                k, p = divmod(i * (n - 1), 255)
                values.append((table[k] * (255 - p) + table[min(k + 1, n - 1)] * p + 127) // 255)
            return values
        g = struct.unpack(">H", tag[12:14])[0] / 256
        f = lambda x: x**g  # noqa: E731
    else:
        kind = struct.unpack(">H", tag[8:10])[0]
        p = [v / 65536 for v in struct.unpack(f">{(1, 3, 4, 5, 7)[kind]}i", tag[12 : 12 + 4 * (1, 3, 4, 5, 7)[kind]])]

        def power(x: float) -> float:
            return max(p[1] * x + p[2], 0.0) ** p[0]

        if kind == 0:
            f = lambda x: x ** p[0]  # noqa: E731
        elif kind == 1:
            f = lambda x: power(x) if x >= -p[2] / p[1] else 0.0  # noqa: E731
        elif kind == 2:
            f = lambda x: power(x) + p[3] if x >= -p[2] / p[1] else p[3]  # noqa: E731
        elif kind == 3:
            f = lambda x: power(x) if x >= p[4] else p[3] * x  # noqa: E731
        else:
            f = lambda x: power(x) + p[5] if x >= p[4] else p[3] * x + p[6]  # noqa: E731
    return [math.floor(65535 * min(max(f(i / 255), 0.0), 1.0) + 0.5) for i in range(256)]


def profile_to_srgb(picture: Picture, profile: bytes) -> Picture:
    """A well-formed RGB matrix/curve profile; the skipping of sRGB included."""
    count = struct.unpack(">I", profile[128:132])[0]
    tags = {}
    for i in range(count):
        name, offset, size = struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i])
        tags.setdefault(name, profile[offset : offset + size])
    xyz = [struct.unpack(">3i", tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    curves = [curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
    same_matrix = all(abs(xyz[c][r] - SRGB[r][c]) <= 131 for r in range(3) for c in range(3))
    if same_matrix and all(abs(encode_srgb(values[i]) - i) <= 1 for values in curves for i in range(256)):
        return picture
    matrix = [
        [(sum(TO_SRGB[r][k] * xyz[c][k] for k in range(3)) + (1 << 19)) >> 20 for c in range(3)] for r in range(3)
    ]

    def convert(pixel: tuple[int, ...]) -> tuple[int, ...]:
        light = [curves[c][pixel[c]] for c in range(3)]
        mixed = [(sum(matrix[r][c] * light[c] for c in range(3)) + (1 << 15)) >> 16 for r in range(3)]
        return tuple(encode_srgb(min(max(value, 0), 65535)) for value in mixed)

    return [[convert(pixel) for pixel in row] for row in picture]


# --- Channels, padding


def luma(pixel: tuple[int, ...]) -> int:
    return (pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 32768) >> 16


def to_channels(picture: Picture, channels: int) -> Picture:
    def convert(pixel: tuple[int, ...]) -> tuple[int, ...]:
        if len(pixel) == 1:
            return pixel * channels
        return pixel if channels == 3 else (luma(pixel),)

    return [[convert(pixel) for pixel in row] for row in picture]


def pad(picture: Picture, spec: dict) -> Picture:
    height, width = len(picture), len(picture[0])
    top, left = (spec["height"] - height) // 2, (spec["width"] - width) // 2
    ground = tuple(spec["background"]) if spec["channels"] == 3 else (luma(tuple(spec["background"])),)
    rows = [[ground] * spec["width"] for _ in range(spec["height"])]
    for y, row in enumerate(picture):
        for x, pixel in enumerate(row):
            rows[top + y][left + x] = pixel
    return rows


def preprocess(picture: Picture, spec: dict, orientation: int = 1, profile: bytes | None = None) -> Picture:
    """Opaque grey or RGB to spec height rows of spec width tuples of spec channels levels."""
    picture = fit(orient(picture, orientation), spec)
    if profile is not None and len(picture[0][0]) == 3:
        picture = profile_to_srgb(picture, profile)
    return pad(to_channels(picture, spec["channels"]), spec)
