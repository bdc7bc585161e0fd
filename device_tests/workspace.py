"""A run's own folder on a device: filled as needed, and removed whatever happens.

That a folder is going to be made is written down on the host first. So a folder that could not be removed, because the
device went away or this process was killed, is removed when the device is next met.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from device_tests.device import Device, Finished, OnLine
from device_tests.errors import CommandError, DeviceError, DeviceFullError, DevicePermissionError, TransferError
from device_tests.folders import cache_folder, host_id, process_start
from hetero import atomic

PREFIX = "hetero-"
QUICK_TIMEOUT_S = 30.0
_SPARE_BYTES = 1 << 20  # for what the runner writes besides embeddings
# A runner whose connection was lost still runs: it is known by where it runs.
_END = """
for process in /proc/[0-9]*; do
    [ "$(readlink "$process/cwd" 2>/dev/null)" = {folder} ] && kill -9 "${{process#/proc/}}"
done
"""
_REMOVE = """
rm -rf {folder}
[ ! -e {folder} ]
"""


class Workspace:
    """Use it in a ``with`` block; every method raises a :class:`~device_tests.errors.DeviceError`.

    Attributes:
        folder: on the device, ``BASE/hetero-RUN``.
        leftover: why the folder could not be removed; None where it is gone.
    """

    def __init__(self, device: Device, *, say: Callable[[str], object] = lambda line: None) -> None:
        self.device, self._say = device, say
        self.folder = f"{device.base}/{PREFIX}{uuid.uuid4().hex[:12]}"
        self.leftover: str | None = None
        self._note = _notes(device.name) / Path(self.folder).name

    def __enter__(self) -> Workspace:
        self._write_note([host_id(), os.getpid(), process_start(os.getpid())])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            try:
                _remove(self.device, self.folder)
            except DeviceError:
                self.device.reconnect()
                _remove(self.device, self.folder)
        except DeviceError as failure:
            self.leftover = str(failure)
            self._write_note(None)
            self._say(
                f"{self.device.name}: {self.folder} is still there, and goes when the device is next met: {failure}"
            )
        else:
            self._note.unlink(missing_ok=True)

    def ensure(self, name: str, data: bytes, *, mode: int = 0o644) -> None:
        """Have a file with this content in the folder, pushed only where it is not there already."""
        path = f"{self.folder}/{name}"
        self._run(("mkdir", "-p", self.folder))
        if self._sha256(path) == hashlib.sha256(data).hexdigest():
            return
        free = self.device.free_bytes(self.folder)
        if free < len(data) + _SPARE_BYTES:
            raise DeviceFullError(
                "no space left",
                device=self.device.name,
                command=f"push {path}",
                got=f"{free} bytes free",
                expected=f"{len(data) + _SPARE_BYTES}",
                fix=f"free some: remove old folders {PREFIX}* in {self.device.base}",
            )
        self.device.push(data, path, mode=mode)
        found = self._sha256(path)
        if found is not None and found != hashlib.sha256(data).hexdigest():
            raise TransferError(
                "a file arrived other than it was sent", device=self.device.name, command=f"push {path}", got=found
            )

    def fetch(self, name: str, *, limit_bytes: int) -> bytes:
        """A file of the folder, with the hash that the device finds it to have."""
        path = f"{self.folder}/{name}"
        expected = self._sha256(path)
        data = self.device.pull(path, limit_bytes=limit_bytes)
        found = hashlib.sha256(data).hexdigest()
        if expected is not None and found != expected:
            raise TransferError(
                "a file arrived other than it was sent",
                device=self.device.name,
                command=f"pull {path}",
                got=f"{len(data)} bytes, sha256 {found[:16]}…",
                expected=f"sha256 {expected[:16]}…",
            )
        return data

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        on_line: OnLine | None = None,
        stop: threading.Event | None = None,
    ) -> Finished:
        """Run a command in the folder, until ``stop`` is set."""
        return self.device.run(argv, timeout_s=timeout_s, folder=self.folder, on_line=on_line, stop=stop)

    def end_processes(self) -> None:
        """End whatever still works in the folder, such as a runner that did not answer in time."""
        script = (_END + "true").format(folder=shlex.quote(self.folder))
        self.device.run(("sh", "-c", script), timeout_s=QUICK_TIMEOUT_S)

    def _write_note(self, owner: list[object] | None) -> None:
        """``owner``: machine, number and start of the process that uses the folder; None: nobody does."""
        atomic.write_text(self._note, json.dumps({"folder": self.folder, "owner": owner}))

    def _sha256(self, path: str) -> str | None:
        """Of a file of the device; None where there is none, or no program that could tell."""
        found = self.device.run(("sha256sum", path), timeout_s=QUICK_TIMEOUT_S).stdout.split()
        return found[0] if found and re.fullmatch("[0-9a-f]{64}", found[0]) else None

    def _run(self, argv: Sequence[str]) -> None:
        ended = self.device.run(argv, timeout_s=QUICK_TIMEOUT_S)
        if ended.exit_code == 0:
            return
        said = (ended.stderr or ended.stdout).strip()
        about = {"device": self.device.name, "command": " ".join(argv)}
        if "ermission denied" in said or "ead-only" in said:
            fix = "the shell's user must be able to write there"
            raise DevicePermissionError("access refused", exit_code=ended.exit_code, got=said, fix=fix, **about)
        if "o space left" in said:
            raise DeviceFullError("no space left", exit_code=ended.exit_code, got=said, fix="free some", **about)
        raise CommandError("a command failed", exit_code=ended.exit_code, got=said or None, **about)


def sweep(device: Device, *, say: Callable[[str], object] = lambda line: None) -> list[str]:
    """Remove the folders that earlier runs of this host left on a device; returns those it could not.

    A folder whose owner still runs is left alone.
    """
    left = []
    notes = _notes(device.name)
    for note in sorted(notes.glob(f"{PREFIX}*")) if notes.is_dir() else []:
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            folder, owner = content["folder"], content["owner"]
            known = re.fullmatch(rf"[\w./:-]*/{PREFIX}[0-9a-f]{{12}}", folder) is not None
            # Whether another machine's process still runs cannot be told from here.
            in_use = owner is not None and (owner[0] != host_id() or process_start(owner[1]) == owner[2])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            note.unlink(missing_ok=True)
            continue
        if in_use or not known:
            continue
        try:
            _remove(device, folder)
        except DeviceError as error:
            left.append(f"{folder}: {error}")
            continue
        note.unlink(missing_ok=True)
        say(f"{device.name}: removed {folder} of an earlier run")
    return left


def _remove(device: Device, folder: str) -> None:
    argv = ("sh", "-c", (_END + _REMOVE).format(folder=shlex.quote(folder)))
    ended = device.run(argv, timeout_s=QUICK_TIMEOUT_S)
    if ended.exit_code != 0:
        raise CommandError(
            "a folder cannot be removed",
            device=device.name,
            command=f"rm -rf {folder}",
            exit_code=ended.exit_code,
            got=(ended.stderr or ended.stdout).strip() or None,
        )


def _notes(device: str) -> Path:
    return cache_folder() / "leftovers" / re.sub(r"[^\w.-]", "_", device)
