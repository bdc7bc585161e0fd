"""The Python wheels of the emulated device: pinned by hash in ``wheels.txt``, fetched by pip from its index."""

from __future__ import annotations

import hashlib
import re
import sys
from importlib import resources
from pathlib import Path

from device_tests.emulator.tools import run_tool
from device_tests.errors import EmulatorError

PYTHON = "3.13"  # Debian 13's
# The C library there is 2.41, so every one of these runs.
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
_PIP_TIMEOUT_S = 600.0
_PIN = re.compile(r"^([\w.-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", re.MULTILINE)


def pins() -> dict[str, str]:
    """``name==version`` to the SHA-256 of the one file it may be."""
    text = resources.files(__package__).joinpath("wheels.txt").read_text(encoding="utf-8")
    return {f"{name}=={version}": digest for name, version, digest in _PIN.findall(text)}


def fetch_wheels(folder: Path) -> list[Path]:
    """The pinned wheels as files in ``folder``, downloaded where they are not there yet.

    Raises:
        EmulatorError: pip cannot get them, or gets others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pins()
    found = _by_hash(folder)
    if set(wanted.values()) - found.keys():
        requirements = folder / "requirements.txt"
        requirements.write_text(
            "".join(f"{pin} --hash=sha256:{sha}\n" for pin, sha in wanted.items()), encoding="utf-8"
        )
        platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
        run_tool(
            (
                *(sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"),
                *("--only-binary", ":all:", "--python-version", PYTHON, *platforms),
                *("--require-hashes", "--dest", str(folder), "--requirement", str(requirements)),
            ),
            timeout_s=_PIP_TIMEOUT_S,
        )
        found = _by_hash(folder)
    missing = [pin for pin, digest in wanted.items() if digest not in found]
    if missing:
        raise EmulatorError("pip did not fetch the pinned wheels", got=f"no {', '.join(missing)}")
    return [found[digest] for digest in wanted.values()]


def _by_hash(folder: Path) -> dict[str, Path]:
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(folder.glob("*.whl"))}
