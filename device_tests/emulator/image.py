"""The first root of the emulated device: unpacked Debian packages and Python wheels, as one cpio archive.

Uncompressed on purpose: QEMU lays it into memory, while unpacking it under emulation would take longer than booting.
"""

from __future__ import annotations

import io
import lzma
import posixpath
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from device_tests.emulator.cpio import CpioWriter
from device_tests.errors import EmulatorError

SITE_PACKAGES = "usr/local/lib/python3.13/dist-packages"
MODULES = ("failover", "net_failover", "virtio_net")
_UNPACK_TIMEOUT_S = 120.0
_LEFT_OUT = re.compile(
    r"usr/share/(doc|man|lintian|locale|zoneinfo|bug|info|python3)/|usr/lib/(systemd|udev|modules)/|boot/|.*/__pycache__/"
)
_LEFT_OUT_OF_WHEELS = re.compile(
    r".*/tests?/|.*\.(h|pxd|pyi|a|proto)$|onnxruntime/(tools|transformers|quantization|datasets)/|ai_edge_litert/.*\.tflite$|ai_edge_litert/libLiteRtWebGpuAccelerator\.so$"
)
_MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib"}


def write_root(stream: BinaryIO, packages: Sequence[Path], wheels: Sequence[Path]) -> bytes:
    """Write the archive, and return the kernel that one of the packages holds.

    Raises:
        EmulatorError: a package cannot be unpacked, or none has the kernel and its modules.
    """
    archive = CpioWriter(stream)
    for name, target in _MERGED.items():
        archive.link(name, target)
    for folder in ("proc", "sys", "dev", "run", "data/local", "usr/bin", "usr/sbin", "root"):
        archive.folder(folder)
    for folder in ("tmp", "data/local/tmp"):
        archive.folder(folder, 0o777)
    archive.node("dev/console", 5, 1)
    archive.node("dev/null", 1, 3)
    archive.file("init", resources.files(__package__).joinpath("init").read_bytes(), 0o755)
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    archive.link("usr/bin/python3", "python3.13")
    kernel: bytes | None = None
    drivers: dict[str, bytes] = {}
    for package in packages:
        for member, data in _members(package):
            name = _merged(member.name)
            if name.startswith("boot/vmlinuz-"):
                kernel = data
            elif (module := posixpath.basename(name).removesuffix(".ko.xz")) in MODULES and name.endswith(".ko.xz"):
                drivers[module] = lzma.decompress(data)
            elif not _LEFT_OUT.match(name):
                _add(archive, member, name, data)
    if kernel is None or drivers.keys() != set(MODULES):
        raise EmulatorError(
            "the kernel's package lacks what the device boots with", got=", ".join(drivers) or "nothing"
        )
    for module, data in drivers.items():
        archive.file(f"usr/lib/modules/{module}.ko", data)
    for wheel in wheels:
        _add_wheel(archive, wheel)
    archive.close()
    return kernel


def write_bytecode(stream: BinaryIO, compiled: bytes) -> None:
    """Append the compiled Python files of a tar archive, whose names are the device's paths less the first slash."""
    archive = CpioWriter(stream)
    with tarfile.open(fileobj=io.BytesIO(compiled)) as tar:
        for member in tar:
            found = tar.extractfile(member) if member.isreg() and member.name.endswith(".pyc") else None
            if found is not None:
                archive.file(member.name, found.read())
    archive.close()


def _members(package: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """What a .deb installs, with its contents; a hard link has those of the file that it is another name of."""
    ended = subprocess.run(
        ("dpkg-deb", "--fsys-tarfile", package), capture_output=True, timeout=_UNPACK_TIMEOUT_S, check=False
    )
    if ended.returncode != 0:
        raise EmulatorError(f"cannot unpack {package.name}", got=ended.stderr.decode(errors="replace").strip())
    with tarfile.open(fileobj=io.BytesIO(ended.stdout)) as tar:
        for member in tar:
            found = tar.extractfile(member) if member.isreg() or member.islnk() else None
            yield member, b"" if found is None else found.read()


def _add(archive: CpioWriter, member: tarfile.TarInfo, name: str, data: bytes) -> None:
    if member.isdir():
        archive.folder(name, member.mode)
    elif member.issym():
        archive.link(name, member.linkname)
    elif member.isreg() or member.islnk():
        archive.file(name, data, member.mode)


def _add_wheel(archive: CpioWriter, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        for entry in content.infolist():
            if not entry.is_dir() and not _LEFT_OUT_OF_WHEELS.match(entry.filename):
                archive.file(f"{SITE_PACKAGES}/{entry.filename}", content.read(entry))


def _merged(name: str) -> str:
    """A path of a package, below ``usr`` where the device has only a link to it."""
    parts = name.removeprefix("./").strip("/").split("/")
    return "/".join([_MERGED.get(parts[0], parts[0]) if len(parts) > 1 else parts[0], *parts[1:]])
