"""What every device can do, whichever way it is reached."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

DeviceKind = Literal["android-physical", "android-emulator", "linux-arm64-emulated", "host"]
OnLine = Callable[[str], object]
"""Told each line of a command's standard output as it comes."""


@dataclass(frozen=True)
class Finished:
    """How a command ended; line ends are ``\\n`` whatever the device writes.

    ``stderr`` is empty and its lines are in ``stdout`` where the way to the device does not keep the two apart.
    """

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Properties:
    """What a device says of itself.

    Attributes:
        kind: only of ``android-physical`` is a latency worth quoting.
        abi: of the processor, in Linux' name, such as ``aarch64``.
        model: maker and model, or what the machine is.
        system: such as ``Android 14, API 34`` or ``Linux 6.12.117``.
        identity: which of several devices of a model it is, the same when it comes back.
    """

    kind: DeviceKind
    abi: str
    model: str
    system: str
    identity: str


class Device(Protocol):
    """A device that files can be copied to and commands run on; every call ends in a bounded time.

    Every method raises a :class:`~device_tests.errors.DeviceError`; a
    :class:`~device_tests.errors.DeviceLostError` means that the step may be tried again after :meth:`reconnect`.
    """

    @property
    def name(self) -> str:
        """The serial, ``local`` or ``emulator``: how a user asks for it."""

    @property
    def base(self) -> str:
        """The folder that a run's own folder is made in."""

    @property
    def python(self) -> str | None:
        """The Python that runs the runner; None where there is none, as on a phone."""

    def properties(self) -> Properties:
        """What it is."""

    def push(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file, replacing an older one."""

    def pull(self, path: str, *, limit_bytes: int) -> bytes:
        """Read a file of at most so many bytes."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        folder: str | None = None,
        on_line: OnLine | None = None,
        stop: threading.Event | None = None,
    ) -> Finished:
        """Run a command to its end, in ``folder``; its exit code is the caller's to judge.

        Once ``stop`` is set it is waited for no longer: :class:`~device_tests.errors.DeviceStoppedError`.
        """

    def free_bytes(self, folder: str) -> int:
        """How much space is left where ``folder`` lies."""

    def temperature_c(self) -> float | None:
        """Of the battery or the processor, in degrees Celsius, where it is known."""

    def battery_percent(self) -> float | None:
        """How full the battery is, where there is one."""

    def reconnect(self) -> None:
        """Try to reach it again after it was lost, waiting a bounded time for it."""
