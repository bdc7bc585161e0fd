"""Writing an initramfs: a cpio archive in the format ``newc``, which the Linux kernel unpacks into its first root.

Source: the kernel's documentation, driver-api/early-userspace/buffer-format.
"""

from __future__ import annotations

import stat
from typing import BinaryIO

MTIME = 1_700_000_000  # of everything: equal contents give equal archives, and byte code stays valid
_TRAILER = "TRAILER!!!"


class CpioWriter:
    """Adds entries to a stream; parent folders come by themselves, and the first entry of a name stays."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._names: set[str] = set()

    def folder(self, name: str, mode: int = 0o755) -> None:
        """A folder, with those above it."""
        self._add(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """A regular file."""
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def node(self, name: str, major: int, minor: int) -> None:
        """A character device."""
        self._add(name, stat.S_IFCHR | 0o600, b"", major, minor)

    def close(self) -> None:
        """End the archive; the stream stays open, and another archive may follow in it."""
        self._write(_TRAILER, 0, b"", 0, 0)

    def _add(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        name = name.strip("/")
        if not name or name in self._names:
            return
        parent = name.rpartition("/")[0]
        if parent:
            self.folder(parent)
        self._names.add(name)
        self._write(name, mode, data, major, minor)

    def _write(self, name: str, mode: int, data: bytes, major: int, minor: int) -> None:
        raw = name.encode() + b"\0"
        inode = len(self._names) if name != _TRAILER else 0
        # inode, mode, uid, gid, links, mtime, size, device (2), special file's device (2), length of the name, checksum
        numbers = (inode, mode, 0, 0, 1, MTIME, len(data), 0, 0, major, minor, len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers) + raw
        self._stream.write(header + b"\0" * (-len(header) % 4) + data + b"\0" * (-len(data) % 4))
