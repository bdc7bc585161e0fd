"""Running the programs that build and start the emulated device."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from device_tests.errors import EmulatorError

_PACKAGES = {"qemu-system-aarch64": "qemu-system-arm", "adb": "adb", "apt-get": "apt", "dpkg-deb": "dpkg"}
_TOLD_CHARS = 600  # of what a failing program said


def require_tools(*names: str) -> None:
    """Refuse to begin without these programs.

    Raises:
        EmulatorError: naming all that are missing and how they are installed.
    """
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        raise EmulatorError(
            "the emulated device needs programs that are not installed",
            got=f"no {', '.join(missing)}",
            fix=f"sudo apt-get install {packages}",
        )


def run_tool(
    argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """What a program writes to standard output.

    Raises:
        EmulatorError: it ended with another exit code than 0, or not in time.
    """
    try:
        ended = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EmulatorError(f"{argv[0]} did not end in time", got=f"more than {timeout_s:g} s") from None
    except OSError as error:
        raise EmulatorError(f"cannot run {argv[0]}", got=error.strerror) from error
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip())[-_TOLD_CHARS:]
        raise EmulatorError(f"{' '.join(argv[:3])} failed", got=f"exit code {ended.returncode}: {said}")
    return ended.stdout
