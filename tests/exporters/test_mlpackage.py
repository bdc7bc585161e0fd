"""Archives of packages: equal bytes for equal contents, and each way of forging one refused by name."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporters.mlpackage import MANIFEST, MODEL, NAMES, WEIGHTS, Package, contents_of, read_archive, write_archive
from hetero.errors import BundleError

PACKAGE = Package(b"a model, as protobuf", bytes(range(100)))
DATA = write_archive(PACKAGE)
CONTENTS = contents_of(PACKAGE)
END = len(DATA) - 22


def places() -> tuple[list[int], list[int]]:
    """Where the three files' own headers and their entries in the directory begin."""
    local, entries = 0, int.from_bytes(DATA[END + 16 : END + 20], "little")
    found: tuple[list[int], list[int]] = ([], [])
    for name in NAMES:
        found[0].append(local)
        found[1].append(entries)
        local += 30 + len(name) + len(CONTENTS[name])
        entries += 46 + len(name)
    assert entries == END
    return found


LOCALS, ENTRIES = places()


def patched(*changes: tuple[int, bytes], data: bytes = DATA) -> bytes:
    changed = bytearray(data)
    for place, part in changes:
        changed[place : place + len(part)] = part
    assert len(changed) == len(data)
    return bytes(changed)


def zipped(edit: Callable[[zipfile.ZipInfo], object] = lambda info: None, **contents: bytes) -> bytes:
    """The same three files, written by Python's zipfile."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in NAMES:
            info = zipfile.ZipInfo(name)
            edit(info)
            archive.writestr(info, contents.get(name.rpartition("/")[2], CONTENTS[name]))
    return stream.getvalue()


def test_another_reader_of_zip_files_finds_what_apples_tools_take() -> None:
    with zipfile.ZipFile(io.BytesIO(DATA)) as archive:
        assert archive.testzip() is None
        assert [info.filename for info in archive.infolist()] == sorted(NAMES)
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}
        assert (archive.read(MODEL), archive.read(WEIGHTS)) == (PACKAGE.model, PACKAGE.weights)
        manifest = json.loads(archive.read(MANIFEST))
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    assert root["path"] == "com.apple.CoreML/model.mlmodel"
    assert {item["path"] for item in manifest["itemInfoEntries"].values()} == {
        "com.apple.CoreML/model.mlmodel",
        "com.apple.CoreML/weights",
    }


@given(model=st.binary(max_size=300), weights=st.binary(max_size=300))
def test_what_is_written_is_read(model: bytes, weights: bytes) -> None:
    package = Package(model, weights)
    assert read_archive(write_archive(package), where="f") == package


def test_identifiers_follow_the_contents() -> None:
    same = Package(PACKAGE.model, PACKAGE.model)
    identifiers = set(json.loads(contents_of(same)[MANIFEST])["itemInfoEntries"])
    assert len(identifiers) == 2  # equal contents, two items
    other = set(json.loads(contents_of(Package(PACKAGE.model, b"other"))[MANIFEST])["itemInfoEntries"])
    assert len(identifiers & other) == 1


def test_no_bit_can_be_changed() -> None:
    for place in range(len(DATA)):
        for bit in (0x01, 0x80):
            with pytest.raises(BundleError):
                read_archive(patched((place, bytes([DATA[place] ^ bit]))), where="f")


def test_no_beginning_of_an_archive_is_one() -> None:
    for length in range(len(DATA)):
        with pytest.raises(BundleError):
            read_archive(DATA[:length], where="f")


def bomb() -> bytes:
    def deflate(info: zipfile.ZipInfo) -> None:
        info.compress_type = zipfile.ZIP_DEFLATED

    data = zipped(deflate, **{"weight.bin": bytes(1 << 24)})
    assert len(data) < 1 << 15
    return data


def link(info: zipfile.ZipInfo) -> None:
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16


def renamed(name: str) -> bytes:
    """The weights under another name of the same length, in both places."""
    assert len(name) == len(WEIGHTS)
    return patched((LOCALS[1] + 30, name.encode()), (ENTRIES[1] + 46, name.encode()))


def duplicate() -> bytes:
    """Two files named Manifest.json and no weights."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MODEL), CONTENTS[MODEL])
        archive.writestr(zipfile.ZipInfo(MANIFEST), CONTENTS[MANIFEST])
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(zipfile.ZipInfo(MANIFEST), CONTENTS[MANIFEST])
    return stream.getvalue()


def gap() -> bytes:
    """A byte between the files and their directory."""
    start = ENTRIES[0]
    data = bytearray(DATA[:start] + b"\0" + DATA[start:])
    data[-6:-2] = struct.pack("<L", start + 1)
    return bytes(data)


def grown() -> bytes:
    """A size of 4 GB, in both places."""
    size = struct.pack("<LL", 0xFFFFFFF0, 0xFFFFFFF0)
    return patched((LOCALS[1] + 18, size), (ENTRIES[1] + 20, size))


def commented() -> bytes:
    return patched((len(DATA) - 2, b"\x01\0")) + b"x"


def extra() -> bytes:
    """An extra field behind the last entry of the directory."""
    data = bytearray(DATA[:END] + b"ab\0\0" + DATA[END:])
    data[ENTRIES[2] + 30 : ENTRIES[2] + 32] = b"\x04\0"
    data[END + 4 + 12 : END + 4 + 16] = struct.pack("<L", END + 4 - ENTRIES[0])
    return bytes(data)


def manifest(content: bytes) -> bytes:
    """Another Manifest.json of the same length."""
    content = content.ljust(len(CONTENTS[MANIFEST]))
    crc = struct.pack("<L", zlib.crc32(content))
    begin = LOCALS[2] + 30 + len(MANIFEST)
    return patched((LOCALS[2] + 14, crc), (ENTRIES[2] + 16, crc), (begin, content))


FORGERIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "bomb": (bomb, r"model\.mlmodel is compressed; got method 8"),
    "link": (lambda: zipped(link), r"is a link or no regular file; got mode 120777"),
    "traversal": (lambda: renamed("../" * 10 + "x" * (len(WEIGHTS) - 30)), r"holds other files than.*'\.\./\.\./"),
    "absolute": (lambda: renamed("/" * len(WEIGHTS)), "holds other files than"),
    "directory": (lambda: renamed(WEIGHTS[:-1] + "/"), "holds other files than"),
    "duplicate": (duplicate, "names a file twice"),
    "no archive": (lambda: b"junk", "is no zip archive"),
    "truncated": (lambda: DATA[:-1], "is no zip archive, or something follows its end"),
    "trailing": (lambda: DATA + b"x", "is no zip archive, or something follows its end"),
    "trailing comment": (commented, "is no zip archive, or something follows its end"),
    "leading": (lambda: b"x" + DATA, "has a directory of another size than it says"),
    "overlapping": (
        lambda: patched((ENTRIES[1] + 42, struct.pack("<L", LOCALS[0]))),
        f"overlaps another file or leaves a gap; got offset 0; expected {LOCALS[1]}",
    ),
    "gap": (gap, "has bytes between its files and its directory; got 1"),
    "encrypted": (
        lambda: patched((LOCALS[1] + 6, b"\x01"), (ENTRIES[1] + 8, b"\x01")),
        r"weight\.bin is encrypted; got flags 0x1",
    ),
    "sizes behind the bytes": (
        lambda: patched((LOCALS[1] + 6, b"\x08"), (ENTRIES[1] + 8, b"\x08")),
        "uses features of zip archives that no package needs; got flags 0x8",
    ),
    "two sizes": (lambda: patched((ENTRIES[1] + 24, b"\x05")), "declares two sizes; got 100 and 5"),
    "4 GB": (grown, r"is larger than its archive; got 4294967280 bytes"),
    "two names": (lambda: patched((LOCALS[1] + 30, b"M")), "described differently in the directory and before"),
    "two lengths": (lambda: patched((LOCALS[1] + 18, b"\x63")), "described differently in the directory and before"),
    "one bit": (lambda: patched((LOCALS[1] + 30 + len(WEIGHTS), b"\x01")), r"weight\.bin is damaged; got CRC"),
    "extra field": (extra, "has extra fields in its directory; got 4 bytes"),
    "fourth file": (lambda: patched((END + 8, b"\x04\0\x04\0")), "holds other files than .*; got 4 files"),
    "other manifest": (lambda: manifest(b"{}"), r"has a Manifest\.json that its files do not imply"),
    "other date": (lambda: patched((LOCALS[0] + 12, b"\x22"), (ENTRIES[0] + 14, b"\x22")), "has other dates"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_archive_is_refused(name: str) -> None:
    forge, message = FORGERIES[name]
    with pytest.raises(BundleError, match=f"^some file.*{message}.*fix: export the bundle again"):
        read_archive(forge(), where="some file")
