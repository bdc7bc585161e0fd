"""Building the emulated device, once for each set of packages: the build's manifest is its key in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from device_tests.emulator import image, wheels
from device_tests.emulator.packages import Apt, Package
from device_tests.emulator.tools import require_tools
from device_tests.errors import EmulatorError
from hetero import atomic

KERNEL, ROOT, MANIFEST = "vmlinuz", "root.cpio", "manifest.json"
KEPT_BUILDS = 2  # the newest, and one that may still be running
_PARTS = ("init", "image.py", "cpio.py", "build.py")  # what shapes an image besides its packages and wheels
Say = Callable[[str], object]


@dataclass(frozen=True)
class Build:
    """A finished build: ``key`` names it, ``path`` has the kernel, the root and the manifest."""

    key: str
    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """Which packages and wheels it is made of."""
        content: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        return content


def newest_build(cache: Path) -> Build | None:
    """The build made last of those that are whole."""
    found = [path.parent for path in (cache / "builds").glob(f"*/{MANIFEST}")]
    found.sort(key=lambda path: (path / MANIFEST).stat().st_mtime, reverse=True)
    return next((Build(path.name, path) for path in found if _is_whole(path)), None)


def build_device(
    cache: Path, compile_bytecode: Callable[[Path, Path], bytes], *, say: Say = lambda line: None
) -> Build:
    """The build for the packages that the mirror has now, made where the cache has none.

    Where no mirror answers, the newest build of the cache is taken, and told so.

    Args:
        compile_bytecode: boots the kernel and root given and returns a tar of the compiled Python files.

    Raises:
        EmulatorError: a program is missing, or neither a mirror nor the cache has what is needed.
    """
    require_tools("apt-get", "dpkg-deb", "qemu-system-aarch64", "adb")
    apt = Apt(cache / "apt")
    try:
        mirror = apt.update()
        packages = apt.resolve()
    except EmulatorError as error:
        old = newest_build(cache)
        if old is None:
            raise
        say(f"no mirror answers, so the build {old.key} of the cache is taken: {error}")
        return old
    content = {"schema_version": 1, "packages": [asdict(one) for one in packages], "wheels": wheels.pins()}
    content["recipe_sha256"] = _recipe_hash()
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    path = cache / "builds" / key
    if _is_whole(path):
        os.utime(path / MANIFEST)  # now the newest
        return Build(key, path)
    say(f"{len(packages)} packages from {mirror}")
    _make(path, apt, packages, cache, content, compile_bytecode, say)
    _forget_old(cache, key)
    return Build(key, path)


def _is_whole(path: Path) -> bool:
    """Whether kernel and root are the bytes that the manifest was written for."""
    try:
        hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
        return all(hashlib.sha256((path / name).read_bytes()).hexdigest() == hashes[name] for name in (KERNEL, ROOT))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make(
    path: Path,
    apt: Apt,
    packages: Sequence[Package],
    cache: Path,
    content: dict[str, Any],
    compile_bytecode: Callable[[Path, Path], bytes],
    say: Say,
) -> None:
    began = time.monotonic()
    archives = apt.download(list(packages))
    found = wheels.fetch_wheels(cache / "wheels")
    with atomic.directory(path, marker=MANIFEST) as folder:
        say(f"unpacking {len(archives)} packages and {len(found)} wheels")
        with open(folder / ROOT, "wb") as stream:
            kernel = image.write_root(stream, archives, found)
        (folder / KERNEL).write_bytes(kernel)
        say("booting once, to compile the Python files that the runtimes load")
        compiled = compile_bytecode(folder / KERNEL, folder / ROOT)
        with open(folder / ROOT, "ab") as stream:
            image.write_bytecode(stream, compiled)
        files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (KERNEL, ROOT)}
        content = {**content, "sha256": files, "seconds": round(time.monotonic() - began, 1)}
        (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    say(f"built in {time.monotonic() - began:.0f} s: {path}")


def _recipe_hash() -> str:
    found = hashlib.sha256()
    for name in _PARTS:
        found.update(resources.files(__package__).joinpath(name).read_bytes())
    return found.hexdigest()


def _forget_old(cache: Path, newest: str) -> None:
    """Remove builds beyond the newest few; those hold 200 MB each."""
    found = sorted((cache / "builds").glob(f"*/{MANIFEST}"), key=lambda one: one.stat().st_mtime, reverse=True)
    for old in [one.parent for one in found if one.parent.name != newest][KEPT_BUILDS - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
