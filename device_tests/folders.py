"""Where device tests keep what outlives a run, and which process is still the one it was."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cache_folder() -> Path:
    """``HETERO_CACHE``, else ``hetero`` in the user's cache folder."""
    if os.environ.get("HETERO_CACHE"):
        return Path(os.environ["HETERO_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hetero"


def host_id() -> str:
    """Which boot of which machine, and which space of process numbers in it, as a container has its own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def process_start(pid: int) -> str | None:
    """When a process started, by the kernel's clock, which no reused pid repeats; None where it does not run.

    Field 22 of ``/proc/PID/stat`` (proc(5)); on systems without ``/proc``, whether it runs is all there is to know.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return _alive(pid) if not Path("/proc/self").exists() else None
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    return None if fields[0] in "ZX" else fields[19]


def _alive(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
