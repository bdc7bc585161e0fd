"""Preprocessing: golden vectors, the slow reference, every policy and every refusal."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from pydantic import ValidationError

from hetero.errors import ImageError
from hetero.icc import read_profile, srgb_encoding, to_srgb
from hetero.preprocess import (
    MAX_SIDE,
    PreprocessSpec,
    exif_orientation,
    load_image,
    preprocess_array,
    preprocess_image,
)

GOLDEN = Path(__file__).parent / "golden" / "preprocess"
INDEX = json.loads((GOLDEN / "golden.json").read_text())
EXPECTED = np.load(GOLDEN / "expected.npz", allow_pickle=False)
SPECS = {name: PreprocessSpec(**fields) for name, fields in INDEX["specs"].items()}
ENTRIES = {entry["file"]: entry for entry in INDEX["files"]}
JPEGS = sorted(name for name in ENTRIES if name.endswith(".jpg"))
LOSSLESS = sorted(set(ENTRIES) - set(JPEGS))
SMALL = PreprocessSpec(height=5, width=7)
# docs/preprocess-spec.md, "Decoding": levels by which a JPEG decoder may differ.
JPEG_MAX, JPEG_MEAN = 8, 0.5


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slow = _module("preprocess_slow", Path(__file__).parent / "preprocess_slow.py")
sys.modules.setdefault("preprocess_slow", slow)
make = _module("preprocess_make", GOLDEN / "make.py")


def encoded(array: np.ndarray, format_name: str = "PNG", **options: object) -> bytes:
    return make.save(array, format_name, **options)


# --- golden vectors


def test_golden_files_are_those_of_the_index() -> None:
    for name, entry in ENTRIES.items():
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == entry["sha256"], name
        for key, digest in entry["expected_sha256"].items():
            assert hashlib.sha256(EXPECTED[f"{name}/{key}"].tobytes()).hexdigest() == digest, (name, key)


def test_golden_vectors_are_what_make_makes() -> None:
    for name, (_, pixels, orientation, profile) in make.lossless().items():
        for key, fields in INDEX["specs"].items():
            again = make.expected(pixels, fields, orientation, profile)
            np.testing.assert_array_equal(again, EXPECTED[f"{name}/{key}"], err_msg=f"{name} {key}")


@pytest.mark.parametrize("key", SPECS)
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_give_the_golden_bytes(name: str, key: str) -> None:
    got = load_image(GOLDEN / name, SPECS[key])
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, EXPECTED[f"{name}/{key}"])


@pytest.mark.parametrize("name", JPEGS)
def test_jpeg_is_decoded_within_tolerance_and_the_rest_is_exact(name: str) -> None:
    entry, stored = ENTRIES[name], EXPECTED[f"{name}/decoded"]
    difference = np.abs(make.decoded((GOLDEN / name).read_bytes()).astype(int) - stored)
    assert difference.max() <= JPEG_MAX
    assert difference.mean() <= JPEG_MEAN
    image = Image.fromarray(stored)
    if name == "cmyk.jpg":
        image = Image.frombytes("CMYK", stored.shape[1::-1], stored.tobytes()).convert("RGB")
    profile = (GOLDEN / entry["icc_profile"]).read_bytes() if entry["icc_profile"] else None
    for key, spec in SPECS.items():
        expected = EXPECTED[f"{name}/{key}"]
        got = preprocess_image(image, spec, orientation=entry["orientation"], icc_profile=profile)
        np.testing.assert_array_equal(got, expected, err_msg=key)
        whole = load_image(GOLDEN / name, spec).astype(int)
        assert np.abs(whole - expected).max() <= 2 * JPEG_MAX, key


def test_every_orientation_of_one_scene_gives_the_same_pixels() -> None:
    scene = make.scene()
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: np.rot90(scene, 1),
        7: scene[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }
    expected = load_image(encoded(scene), SMALL)
    for orientation, pixels in stored.items():
        for format_name, options in (("PNG", {}), ("WEBP", {"lossless": True})):
            data = encoded(np.ascontiguousarray(pixels), format_name, exif=make.exif(orientation), **options)
            np.testing.assert_array_equal(load_image(data, SMALL), expected, err_msg=str(orientation))
        tiff = encoded(np.ascontiguousarray(pixels), "TIFF", tiffinfo={0x0112: orientation})
        np.testing.assert_array_equal(load_image(tiff, SMALL), expected, err_msg=str(orientation))


# --- the slow reference


@settings(max_examples=150, deadline=None)
@given(
    source=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    resize=st.sampled_from(["squash", "center_crop", "pad"]),
    filter_name=st.sampled_from(["bilinear", "bicubic", "lanczos", "box"]),
    depth=st.sampled_from([1, 3]),
    channels=st.sampled_from([1, 3]),
    orientation=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_slow_reference(
    source: tuple[int, int],
    target: tuple[int, int],
    resize: str,
    filter_name: str,
    depth: int,
    channels: int,
    orientation: int,
    seed: int,
) -> None:
    fields = {
        "height": target[0],
        "width": target[1],
        "channels": channels,
        "resize": resize,
        "filter": filter_name,
    }
    fields["background"] = (17, 130, 244)
    # Extremes only: overshoot and clipping happen at hard edges.
    pixels = np.random.default_rng(seed).choice(np.array([0, 1, 100, 254, 255], np.uint8), (*source, depth))
    image = Image.fromarray(pixels if depth == 3 else pixels[..., 0])
    got = preprocess_image(image, PreprocessSpec(**fields), orientation=orientation)
    np.testing.assert_array_equal(got, slow.preprocess(make.picture(pixels), fields, orientation))


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (700, 3), (2, 2)])
@pytest.mark.parametrize("resize", ["squash", "center_crop", "pad"])
def test_extreme_shapes_equal_the_slow_reference(shape: tuple[int, int], resize: str) -> None:
    fields = {"height": 12, "width": 31, "channels": 3, "resize": resize, "filter": "lanczos"}
    pixels = make.scene(*shape)
    fields["background"] = (0, 0, 0)
    expected = slow.preprocess(make.picture(pixels), fields)
    np.testing.assert_array_equal(preprocess_array(pixels, PreprocessSpec(**fields)), expected)


def test_alpha_and_cmyk_arithmetic_equals_the_slow_one_on_every_pair_of_levels() -> None:
    level, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    spec = PreprocessSpec(height=256, width=256, background=(3, 130, 251))
    rgba = np.dstack([level, level, level, alpha])
    np.testing.assert_array_equal(load_image(encoded(rgba), spec), slow.composite(make.picture(rgba), spec.background))
    cmyk = Image.frombytes("CMYK", (256, 256), np.dstack([level, level[::-1], level, alpha]).tobytes())
    stream = io.BytesIO()
    cmyk.save(stream, "TIFF")
    expected = slow.cmyk_to_rgb(make.picture(np.array(cmyk)))
    np.testing.assert_array_equal(load_image(stream.getvalue(), spec), expected)


def test_result_does_not_depend_on_the_order_of_passes_pillow_would_choose() -> None:
    pixels = make.scene(40, 13)
    spec = PreprocessSpec(height=7, width=14)
    expected = slow.preprocess(make.picture(pixels), spec.model_dump())
    np.testing.assert_array_equal(preprocess_array(pixels, spec), expected)


# --- arrays


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (6, 9, 3)])
def test_array_that_fits_comes_back_as_a_copy(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    channels = 3 if shape[2:] == (3,) else 1
    for resize in ("squash", "center_crop", "pad"):
        spec = PreprocessSpec(height=6, width=9, channels=channels, resize=resize)
        got = preprocess_array(pixels, spec)
        assert got.shape == (6, 9, channels)
        np.testing.assert_array_equal(got, pixels.reshape(6, 9, channels))
        got[:] = 0
        assert pixels.any()


def test_array_and_file_of_the_same_pixels_agree() -> None:
    scene = make.scene()
    for spec in SPECS.values():
        np.testing.assert_array_equal(preprocess_array(scene, spec), load_image(encoded(scene), spec))
    grey = preprocess_array(scene, PreprocessSpec(height=27, width=36, channels=1))
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(scene).convert("L")))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_array_of_another_type_or_shape_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="expected"):
        preprocess_array(pixels, SMALL)


# --- colour profiles


def _profiles() -> dict[str, bytes]:
    adobe = ((39961, 20389, 1276), (13453, 41004, 3989), (9777, 4143, 48796))
    table = struct.pack(">4s4xI40H", b"curv", 40, *(round(65535 * (i / 39) ** 1.8) for i in range(40)))
    gamma = struct.pack(">4s4xIH", b"curv", 1, 563)
    linear = struct.pack(">4s4xI", b"curv", 0)
    one, two = make.parametric, make.icc_profile
    s15 = [round(value * 65536) for value in (2.2, 0.95, 0.05, 0.01)]
    return {
        "display_p3": make.display_p3(),
        "adobe_gamma": two(adobe, (gamma,) * 3),
        "table": two(make.P3_COLORANTS, (table,) * 3),
        "linear": two(make.P3_COLORANTS, (linear,) * 3),
        "para_0": two(adobe, (one(0, 131072),) * 3),
        "para_1": two(adobe, (one(1, *s15[:3]),) * 3),
        "para_2": two(adobe, (one(2, *s15),) * 3),
        "para_4": two(adobe, (one(4, *make.SRGB_CURVE, 0, 0), gamma, one(0, 118000))),
    }


PROFILES = _profiles()


@pytest.mark.parametrize("name", PROFILES)
def test_profile_is_within_two_levels_of_littlecms_and_equals_the_slow_reference(name: str) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    pixels[0, :, :] = np.arange(0, 256, 4, dtype=np.uint8)[:, None]
    profile = read_profile(PROFILES[name])
    assert profile is not None
    got = to_srgb(pixels, profile)
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(PROFILES[name])),
        ImageCms.createProfile("sRGB"),
        "RGB",
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.NOOPTIMIZE,
    )
    theirs = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform)).astype(int)
    assert np.abs(got - theirs).max() <= 2
    rows = pixels[:8]
    np.testing.assert_array_equal(got[:8], slow.profile_to_srgb(make.picture(rows), PROFILES[name]))


def test_profile_is_applied_after_resizing_and_changes_the_pixels() -> None:
    scene = make.scene()
    plain = load_image(encoded(scene), SMALL)
    data = encoded(scene, icc_profile=make.display_p3())
    profile = read_profile(make.display_p3())
    assert profile is not None
    np.testing.assert_array_equal(load_image(data, SMALL), to_srgb(plain, profile))
    assert np.abs(load_image(data, SMALL).astype(int) - plain).max() > 10


def _moved(profile: bytes, by: int) -> bytes:
    """The nine entries of the tag table with their elements ``by`` bytes further on."""
    entries = struct.iter_unpack(">4sII", profile[132 : 132 + 108])
    return b"".join(struct.pack(">4sII", name, offset + by, size) for name, offset, size in entries)


def test_profile_with_many_tags_is_read_up_to_the_limit() -> None:
    p3 = make.display_p3()
    padded = p3[:128] + struct.pack(">I", 256) + _moved(p3, 247 * 12) + bytes(247 * 12) + p3[132 + 108 :]
    assert read_profile(padded) is not None


def _damaged_profiles() -> dict[str, bytes]:
    p3 = make.display_p3()
    srgb = ((28578, 14581, 912), (25241, 46981, 6362), (9376, 3972, 46799))
    build, para = make.icc_profile, make.parametric
    short_table = struct.pack(">4s4xIHH", b"curv", 9, 0, 65535)
    return {
        "srgb": build(srgb, (para(3, *make.SRGB_CURVE),) * 3),
        "littlecms srgb": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "cmyk": p3[:16] + b"CMYK" + p3[20:],
        "grey": p3[:16] + b"GRAY" + p3[20:],
        "lab": p3[:20] + b"Lab " + p3[24:],
        "no signature": p3[:36] + b"xxxx" + p3[40:],
        "cut": p3[:140],
        "header only": p3[:128],
        "empty": b"",
        "too many tags": p3[:128] + b"\xff" * 4 + p3[132:],
        "257 tags": p3[:128] + struct.pack(">I", 257) + _moved(p3, 248 * 12) + bytes(248 * 12) + p3[132 + 108 :],
        "no matrix": p3.replace(b"rXYZ", b"A2B0"),
        "no curve": p3.replace(b"gTRC", b"A2B1"),
        "unknown curve": p3.replace(b"para", b"parb"),
        "unknown parametric": p3.replace(b"para\0\0\0\0\0\3", b"para\0\0\0\0\0\7"),
        "gamma 0": build(srgb, (para(0, 0),) * 3),
        "no threshold": build(srgb, (para(1, 65536, 0, 0),) * 3),
        "overflow": build(srgb, (para(1, 2**31 - 1, 2**31 - 1, 0),) * 3),
        "short table": build(srgb, (short_table,) * 3),
        "endless table": build(srgb, (b"curv\0\0\0\0\xff\xff\xff\xff\0\0\0\0",) * 3),
    }


@pytest.mark.parametrize("name", _damaged_profiles())
def test_srgb_and_unusable_profiles_leave_the_numbers_alone(name: str) -> None:
    data = _damaged_profiles()[name]
    assert read_profile(data) is None
    np.testing.assert_array_equal(
        preprocess_image(Image.fromarray(make.scene()), SMALL, icc_profile=data),
        preprocess_array(make.scene(), SMALL),
    )


def test_grey_and_cmyk_pictures_ignore_an_rgb_profile() -> None:
    grey = make.scene()[..., 0]
    np.testing.assert_array_equal(
        load_image(encoded(grey, icc_profile=make.display_p3()), SMALL), load_image(encoded(grey), SMALL)
    )
    cmyk = make.scene(channels=4)
    np.testing.assert_array_equal(
        load_image(encoded(cmyk, "JPEG", mode="CMYK", icc_profile=make.display_p3()), SMALL),
        load_image(encoded(cmyk, "JPEG", mode="CMYK"), SMALL),
    )


def test_srgb_encoding_table_is_the_formula_and_inverts_the_curve() -> None:
    table = srgb_encoding()
    assert all(int(table[light]) == slow.encode_srgb(light) for light in range(65536))
    assert [int(table[light]) for light in slow.curve(make.parametric(3, *make.SRGB_CURVE))] == list(range(256))


# --- policies of decoding


def test_colour_key_beyond_eight_bits_is_ignored() -> None:
    row = bytes([1, 2, 3, 4, 5, 6])
    deep = make.png(1, 1, 16, 2, [row], (b"tRNS", row))
    assert load_image(deep, PreprocessSpec(height=1, width=1)).tolist() == [[[1, 3, 5]]]
    near = make.png(1, 1, 16, 2, [bytes([0, 9] * 3)], (b"tRNS", bytes(6)))
    assert load_image(near, PreprocessSpec(height=1, width=1)).tolist() == [[[0, 0, 0]]]
    flat = make.png(1, 1, 8, 2, [b"\1\2\3"], (b"tRNS", struct.pack(">3H", 1, 2, 3)))
    assert load_image(flat, PreprocessSpec(height=1, width=1)).tolist() == [[[255, 255, 255]]]
    grey = make.png(1, 1, 8, 0, [b"\5"], (b"tRNS", struct.pack(">H", 256 + 5)))
    assert load_image(grey, PreprocessSpec(height=1, width=1)).tolist() == [[[5, 5, 5]]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P2\n2 1\n100\n50 33\n", [128, 84]),
        (b"P2\n2 1\n1000\n500 333", [128, 85]),
        (b"P5\n2 1\n1000\n" + struct.pack(">2H", 500, 333), [128, 85]),
        (b"P6\n2 1\n1000\n" + struct.pack(">6H", *[500] * 3, *[100] * 3), [128, 26]),
        (b"P1\n2 1\n1 0\n", [0, 255]),
    ],
)
def test_portable_maps_are_scaled_to_255(data: bytes, expected: list[int]) -> None:
    assert load_image(data, PreprocessSpec(height=1, width=2, channels=1)).ravel().tolist() == expected


def test_png_text_chunks_cannot_pose_as_metadata() -> None:
    text = [(b"tEXt", key + b"\0abc") for key in (b"transparency", b"icc_profile", b"Raw profile type exif")]
    data = make.png(1, 1, 8, 2, [b"\1\2\3"], *text)
    assert load_image(data, PreprocessSpec(height=1, width=1)).tolist() == [[[1, 2, 3]]]


def test_exif_orientation_reads_both_byte_orders_and_survives_rubbish() -> None:
    little = b"II*\0" + struct.pack("<IHHHIIHHIHxx", 8, 2, 0x010F, 2, 4, 0, 0x0112, 3, 1, 7)
    assert exif_orientation(little) == 7
    assert exif_orientation(make.exif(6)) == 6
    assert exif_orientation(b"MM\0*" + struct.pack(">IHHHII", 8, 1, 0x0112, 4, 1, 3)) == 3
    rubbish = (
        None,
        "6",
        b"",
        b"II",
        b"II*\0\xff\xff\xff\x7f",
        make.exif(6)[:20],
        make.exif(0),
        make.exif(9),
        b"x" * 40,
    )
    assert {exif_orientation(block) for block in rubbish} == {1}
    assert exif_orientation(make.exif(6).replace(b"\1\x12\0\3", b"\1\x12\0\2")) == 1


@pytest.mark.parametrize("mode", ["F", "LAB", "YCbCr", "I"])
def test_unsupported_modes_are_refused(mode: str) -> None:
    stream = io.BytesIO()
    Image.new(mode, (4, 4)).save(stream, "TIFF")
    with pytest.raises(ImageError, match=f"unsupported pixel type; got mode {mode} in TIFF; expected .*; fix: "):
        load_image(stream.getvalue(), SMALL)


def test_big_endian_16_bit_tiff_is_read_like_the_png() -> None:
    high = np.asarray(make.decoded((GOLDEN / "grey16.png").read_bytes()))
    stream = io.BytesIO()
    Image.fromarray(high.astype(">u2")).save(stream, "TIFF")
    np.testing.assert_array_equal(
        load_image(stream.getvalue(), SMALL), load_image((GOLDEN / "grey16.png").read_bytes(), SMALL)
    )


# --- refusals


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes((GOLDEN / "alpha.png").read_bytes())
    return path


def test_missing_folder_loop_and_odd_names_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    cases = {
        "absent.png": "does not exist; fix: check the path",
        "folder.png": "is not a file; got a folder",
        "pipe.png": "is not a file; got a device or pipe",
        "loop.png": "cannot be read; got .*; fix: ",
        "nul\0.png": "cannot be read; got .*; fix: ",
    }
    for name, message in cases.items():
        with pytest.raises(ImageError, match=f"{name[:3]}.*{message}"):
            load_image(tmp_path / name, SMALL)
        with pytest.raises(ImageError):
            load_image(str(tmp_path / name), SMALL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_file_without_permission_is_refused(picture_file: Path) -> None:
    picture_file.chmod(0)
    with pytest.raises(ImageError, match=r"cat\.png.*cannot be read"):
        load_image(picture_file, SMALL)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; got 0 bytes"),
        (b"hello, I am no picture", "is not a picture of a known format; got first bytes 68 65 6c"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "expected JPEG, PNG, .*; fix: convert it"),
        (b"Pf\n1 1\n-1.0\n\0\0\0\0", "is not a picture of a known format"),
        (b"\xff\xd8\xff", "truncated or damaged"),
    ],
)
def test_files_that_are_no_pictures_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"file.jpg.*{message}"):
        load_image(path, SMALL)
    with pytest.raises(ImageError, match=message):
        load_image(content, SMALL)


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"two_frames.gif"}))
def test_every_truncation_is_refused(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    for length in {*range(1, len(data), max(len(data) // 40, 1)), len(data) - 1}:
        with pytest.raises(ImageError):
            load_image(data[:length], SMALL)


def test_gif_needs_its_first_frame_only() -> None:
    data = (GOLDEN / "two_frames.gif").read_bytes()
    np.testing.assert_array_equal(load_image(data[:-5], SMALL), load_image(data, SMALL))
    with pytest.raises(ImageError, match="truncated or damaged"):
        load_image(data[: len(data) // 3], SMALL)


def test_process_that_lets_pillow_load_truncated_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (GOLDEN / "exif_1.jpg").read_bytes()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        load_image(data[: len(data) // 2], SMALL)


def test_bomb_is_refused_by_its_header_before_decoding(picture_file: Path) -> None:
    bomb = make.png(60_000, 60_000, 8, 2, [b""])
    with pytest.raises(ImageError, match=r"got 60000 x 60000 = 3600000000 pixels; expected 1 to 178000000"):
        load_image(bomb, SMALL)
    thin = make.png(MAX_SIDE + 1, 1, 8, 0, [bytes(MAX_SIDE + 1)])
    with pytest.raises(ImageError, match="sides of at most 65535"):
        load_image(thin, SMALL)
    assert load_image(make.png(MAX_SIDE, 1, 8, 0, [bytes(MAX_SIDE)]), SMALL).max() == 0
    with pytest.raises(ImageError, match=r"cat\.png.*got 36 x 27 = 972 pixels; expected 1 to 971"):
        load_image(picture_file, SMALL, max_pixels=971)
    assert load_image(picture_file, SMALL, max_pixels=972).shape == (5, 7, 3)


@pytest.mark.parametrize("name", ["exif_1.jpg", "rgb.webp", "rgb.bmp", "two_frames.gif", "exif_6.tif", "rgb.ppm"])
def test_pixel_limit_holds_in_every_format(name: str) -> None:
    with pytest.raises(ImageError, match="refused size"):
        load_image(GOLDEN / name, SMALL, max_pixels=971)


def test_file_too_large_to_be_a_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)  # sparse
    with pytest.raises(ImageError, match=r"huge\.jpg.* is too large; got 1099511627776 bytes"):
        load_image(path, SMALL)


def test_pillows_own_limit_is_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(GOLDEN / "exif_1.jpg", SMALL).shape == (5, 7, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_threads_get_the_same_bytes() -> None:
    expected = {name: load_image(GOLDEN / name, SMALL) for name in ENTRIES}
    wrong: list[str] = []

    def work() -> None:
        wrong.extend(n for n in ENTRIES if not np.array_equal(load_image(GOLDEN / n, SMALL), expected[n]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_pixels_or_an_image_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(ENTRIES)))
    content = bytearray((GOLDEN / name).read_bytes())
    reach = data.draw(st.sampled_from([30, 200, len(content)]))
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, min(reach, len(content)) - 1), st.integers(0, 255)), max_size=8)
    ):
        content[position] = value
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    spec = PreprocessSpec(height=3, width=4, resize=data.draw(st.sampled_from(["squash", "center_crop", "pad"])))
    try:
        got = load_image(bytes(content[:cut]), spec, max_pixels=1_000_000)
    except ImageError:
        return
    assert got.shape == (3, 4, 3)
    assert got.dtype == np.uint8


# --- the spec


def test_fingerprint_changes_with_every_field() -> None:
    base = {"height": 28, "width": 30}
    changes: list[dict[str, object]] = [
        {},
        {"height": 29},
        {"width": 31},
        {"channels": 1},
        {"resize": "pad"},
        {"filter": "box"},
        {"background": (255, 255, 254)},
        {"mean": (0.5, 0.5, 0.4)},
        {"std": (0.5, 0.5, 0.4)},
    ]
    prints = [PreprocessSpec(**{**base, **change}).fingerprint() for change in changes]
    assert len(set(prints)) == len(changes)
    assert set(changes[-1]) <= set(PreprocessSpec.model_fields)
    # A model made yesterday must stay in its space: the digest of the default spec is fixed.
    assert prints[0] == PINNED
    again = PreprocessSpec.model_validate_json(PreprocessSpec(**base).model_dump_json())
    assert again.fingerprint() == prints[0]


PINNED = hashlib.sha256(
    b'{"background":[255,255,255],"channels":3,"filter":"bilinear","height":28,"mean":[0.5,0.5,0.5],'
    b'"resize":"squash","std":[0.5,0.5,0.5],"version":"hetero-preprocess/1","width":30}'
).hexdigest()


@pytest.mark.parametrize(
    "fields",
    [
        {"height": 0},
        {"width": 5000},
        {"channels": 2},
        {"resize": "stretch"},
        {"filter": "nearest"},
        {"background": (0, 0, 256)},
        {"mean": (0.5,)},
        {"mean": (0.5, 0.5, float("nan"))},
        {"std": (1.0, 1.0, 0.0)},
        {"hight": 28},
    ],
)
def test_bad_spec_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PreprocessSpec(**{"height": 28, "width": 28, **fields})
    with pytest.raises(ValidationError):
        PreprocessSpec.model_validate("28x28")


def test_importing_needs_no_torch() -> None:
    code = "import sys, hetero.preprocess; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, cwd=root)
