"""A ``.mlpackage`` is a directory; in a bundle it lies as one zip archive, equal bytes for equal contents.

``unzip`` gives the directory ``model.mlpackage`` that Xcode takes. Reading is for bytes that nobody vouches for: the
archive must be laid out as :func:`write_archive` does it, so that every reader of zip files sees the same three files.
"""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import uuid
import zlib
from dataclasses import dataclass

from hetero.errors import BundleError

ROOT = "model.mlpackage/"
MANIFEST = ROOT + "Manifest.json"
MODEL = ROOT + "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = ROOT + "Data/com.apple.CoreML/weights/weight.bin"
NAMES = (MODEL, WEIGHTS, MANIFEST)  # in the archive's order
_AUTHOR = "com.apple.CoreML"
_MODE = stat.S_IFREG | 0o644

# APPNOTE 6.3: a file's header before its bytes, its entry in the directory behind all files, and the directory's end.
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_ENTRY = struct.Struct("<4sHHHHHHLLLHHHHHLL")
_END = struct.Struct("<4sHHHHLLH")
_LOCAL_MARK, _ENTRY_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION, _UNIX = 20, 3 << 8  # of the format; the system whose file modes are kept
_STORED, _ENCRYPTED = 0, 0x1
_TIME, _DATE = 0, 1 << 5 | 1  # midnight of 1 January 1980, the first that a zip archive can name


@dataclass(frozen=True)
class Package:
    """What a package holds: the model (a protobuf, ``Model.proto``) and its weights (a MIL blob file)."""

    model: bytes
    weights: bytes


@dataclass(frozen=True)
class _Entry:
    name: str
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    offset: int
    mode: int


def write_archive(package: Package) -> bytes:
    """The package as a zip archive of stored files with fixed dates, modes and order.

    Not by zipfile, whose defaults differ between systems and may between versions of Python.
    """
    files, directory, offset = [], [], 0
    for name, content in contents_of(package).items():
        raw, size = name.encode("ascii"), len(content)
        common = (_VERSION, 0, _STORED, _TIME, _DATE, zlib.crc32(content), size, size, len(raw), 0)
        files += [_LOCAL.pack(_LOCAL_MARK, *common), raw, content]
        directory += [_ENTRY.pack(_ENTRY_MARK, _UNIX | _VERSION, *common, 0, 0, 0, _MODE << 16, offset), raw]
        offset += _LOCAL.size + len(raw) + size
    tail = b"".join(directory)
    return b"".join([*files, tail, _END.pack(_END_MARK, 0, 0, len(NAMES), len(NAMES), len(tail), offset, 0)])


def contents_of(package: Package) -> dict[str, bytes]:
    """The files of a package, by their paths in the archive, in its order."""
    return {MODEL: package.model, WEIGHTS: package.weights, MANIFEST: _manifest(package)}


def read_archive(data: bytes, *, where: str) -> Package:
    """The package in an archive; nothing is unpacked, so nothing can be larger than the archive.

    Args:
        where: names the file in errors.

    Raises:
        BundleError: anything but the three files, stored, once each, in one piece from the first byte to the last,
            with the manifest that :func:`write_archive` would write for them. What is accepted is, byte for byte,
            what :func:`write_archive` makes of the package returned.
    """
    entries = _directory(data, where)
    names = [entry.name for entry in entries]
    if len(set(names)) != len(names):
        raise _refusal(where, "names a file twice", ascii(names), "each file once")
    if sorted(names) != sorted(NAMES):
        raise _refusal(where, "holds other files than a package of hetero", ascii(names)[:500], ", ".join(NAMES))
    contents, start = {}, 0
    for entry in entries:
        contents[entry.name], start = _content(data, entry, start, where)
    directory_start = _END.unpack_from(data, len(data) - _END.size)[6]
    if start != directory_start:
        raise _refusal(where, "has bytes between its files and its directory", directory_start - start, 0)
    package = Package(contents[MODEL], contents[WEIGHTS])
    if contents[MANIFEST] != _manifest(package):
        raise _refusal(
            where, "has a Manifest.json that its files do not imply", ascii(contents[MANIFEST])[:200], "hetero's own"
        )
    if write_archive(package) != data:
        raise _refusal(where, "has other dates, versions or modes than hetero writes", None, None)
    return package


def _manifest(package: Package) -> bytes:
    """``Manifest.json`` as Apple's tools write it, but for identifiers that are derived from the contents."""
    model, weights = (_identifier(*item) for item in (("model", package.model), ("weights", package.weights)))
    items = {
        model: ("Specification", "model.mlmodel", f"{_AUTHOR}/model.mlmodel"),
        weights: ("Weights", "weights", f"{_AUTHOR}/weights"),
    }
    content = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            key: {"author": _AUTHOR, "description": f"CoreML Model {what}", "name": name, "path": path}
            for key, (what, name, path) in items.items()
        },
        "rootModelIdentifier": model,
    }
    return (json.dumps(content, indent=4, sort_keys=True) + "\n").encode("ascii")


def _identifier(kind: str, data: bytes) -> str:
    digest = hashlib.sha256(kind.encode() + b"\0" + hashlib.sha256(data).digest()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _directory(data: bytes, where: str) -> list[_Entry]:
    """The archive's directory, which must end the archive and have no place for anything else."""
    end = len(data) - _END.size
    if end < 0 or data[end : end + 4] != _END_MARK:
        raise _refusal(where, "is no zip archive, or something follows its end", ascii(data[-_END.size :]), "its end")
    _, disk, first_disk, here, total, size_bytes, start, comment_bytes = _END.unpack_from(data, end)
    if (disk, first_disk, comment_bytes) != (0, 0, 0) or here != total or total != len(NAMES):
        raise _refusal(where, "holds other files than a package of hetero", f"{total} files", f"{len(NAMES)} files")
    if start + size_bytes != end:
        raise _refusal(where, "has a directory of another size than it says", start + size_bytes, end)
    entries, place = [], start
    for _ in range(total):
        if place + _ENTRY.size > end or data[place : place + 4] != _ENTRY_MARK:
            raise _refusal(where, "has a damaged directory", ascii(data[place : place + 4]), ascii(_ENTRY_MARK))
        fields = _ENTRY.unpack_from(data, place)
        flags, method, crc, packed, size, name_bytes, extra, comment, disk = fields[3], fields[4], *fields[7:14]
        name = data[place + _ENTRY.size : place + _ENTRY.size + name_bytes]
        if extra or comment or disk:
            raise _refusal(where, "has extra fields in its directory", f"{extra + comment} bytes, disk {disk}", 0)
        entries.append(_Entry(name.decode("latin-1"), flags, method, crc, packed, size, fields[16], fields[15] >> 16))
        place += _ENTRY.size + name_bytes
    if place != end:
        raise _refusal(where, "has a directory of another size than it says", place, end)
    return entries


def _content(data: bytes, entry: _Entry, start: int, where: str) -> tuple[bytes, int]:
    """A file's bytes, which must begin where the one before ended, and where they end."""
    where = f"{where}: {entry.name}"
    if entry.flags & _ENCRYPTED:
        raise _refusal(where, "is encrypted", f"flags {entry.flags:#x}", "no encryption")
    if entry.flags:
        raise _refusal(where, "uses features of zip archives that no package needs", f"flags {entry.flags:#x}", 0)
    if entry.method != _STORED:
        raise _refusal(where, "is compressed", f"method {entry.method}", "stored, as weights hardly compress")
    if entry.mode and not stat.S_ISREG(entry.mode):
        raise _refusal(where, "is a link or no regular file", f"mode {entry.mode:o}", f"{_MODE:o}")
    if entry.packed_bytes != entry.size_bytes:
        raise _refusal(where, "declares two sizes", f"{entry.packed_bytes} and {entry.size_bytes}", "one")
    if entry.offset != start:
        raise _refusal(where, "overlaps another file or leaves a gap", f"offset {entry.offset}", start)
    name = entry.name.encode("latin-1")
    begin = start + _LOCAL.size + len(name)
    stop = begin + entry.size_bytes
    if stop > len(data):
        raise _refusal(where, "is larger than its archive", f"{entry.size_bytes} bytes", f"{len(data)} at most")
    found = _LOCAL.unpack_from(data, start)
    local = (found[0], found[2], found[3], *found[6:], data[start + _LOCAL.size : begin])
    if local != (_LOCAL_MARK, 0, _STORED, entry.crc, entry.size_bytes, entry.size_bytes, len(name), 0, name):
        raise _refusal(
            where, "is described differently in the directory and before its bytes", ascii(local)[:300], None
        )
    content = data[begin:stop]
    if zlib.crc32(content) != entry.crc:
        raise _refusal(where, "is damaged", f"CRC {zlib.crc32(content):08x}", f"{entry.crc:08x}")
    return content, stop


def _refusal(where: str, what: str, got: object, expected: object) -> BundleError:
    return BundleError(f"{where} {what}", got=got, expected=expected, fix="export the bundle again")
