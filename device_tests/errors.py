"""What can go wrong with a device: which one, doing what, with which exit code, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence

from hetero.errors import HeteroError

_LONGEST_TOLD = 500


def printable(text: str) -> str:
    """What a device says, fit for a terminal and a page: no control characters, and not without end."""
    shown = "".join(one if one.isprintable() else " " for one in text[: 2 * _LONGEST_TOLD])
    return shown if len(shown) <= _LONGEST_TOLD else shown[:_LONGEST_TOLD] + "…"


class DeviceError(HeteroError):
    """Something failed on a device or on the way to it.

    Attributes:
        device: its serial, ``local`` or ``emulator``.
        command: what was run or transferred; exit_code: what it ended with, None where nothing ended.
    """

    def __init__(
        self,
        what: str,
        *,
        device: str,
        command: Sequence[str] | str = (),
        exit_code: int | None = None,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.device, self.exit_code = device, exit_code
        self.command = command if isinstance(command, str) else " ".join(command)
        where = [f"device {device}"]
        if self.command:
            where.append(f"command {self.command[:200]!r}")
        if exit_code is not None:
            where.append(f"exit code {exit_code}")
        told = None if got is None else printable(str(got))
        super().__init__(printable(f"{what} ({', '.join(where)})"), got=told, expected=expected, fix=fix)


class DeviceLostError(DeviceError):
    """The connection broke, or the device is offline or rebooting: the step may be tried again."""


class DeviceNotFoundError(DeviceError):
    """No device of that serial, or none at all, or several where one is wanted."""


class DeviceUnauthorizedError(DeviceError):
    """The phone has not allowed this computer to debug it."""


class DeviceTimeoutError(DeviceError):
    """A command or transfer did not end in time; it was ended."""


class DeviceStoppedError(DeviceError):
    """A command was ended because the check was interrupted."""


class DeviceFullError(DeviceError):
    """The device has no space left."""


class DevicePermissionError(DeviceError):
    """The device refused access to a file or folder."""


class TransferError(DeviceError):
    """A file arrived other than it was sent."""


class CommandError(DeviceError):
    """A command on the device ended with an exit code other than 0, or with none that can be trusted."""


class JobError(DeviceError):
    """The runner refused a job, or what it gave back is not what the job asked for."""


class EmulatorError(DeviceError):
    """The emulated device cannot be built, started or stopped."""

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: str | None = None) -> None:
        super().__init__(what, device="emulator", got=got, expected=expected, fix=fix)
