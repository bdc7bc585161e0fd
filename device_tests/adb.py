"""A phone, or anything else that adb reaches, as a device."""

from __future__ import annotations

import re
import shlex
import threading
import time
from collections.abc import Sequence
from functools import cached_property

from device_tests.adb_wire import AdbWire, make_client
from device_tests.device import Finished, OnLine, Properties
from device_tests.errors import (
    CommandError,
    DeviceError,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceUnauthorizedError,
    printable,
)

BASE = "/data/local/tmp"  # where adb's shell may write and execute on every Android
QUICK_TIMEOUT_S = 30.0
BACK_TIMEOUT_S = 60.0  # a phone that reboots takes about as long
_SLOWEST_BYTES_PER_S = 1 << 18  # of a transfer: USB 1.1 does a megabyte
_POLL_S = 0.5
_ANDROID = (
    *("ro.product.cpu.abi", "ro.product.manufacturer", "ro.product.model", "ro.build.version.release"),
    *("ro.build.version.sdk", "ro.hardware", "ro.kernel.qemu", "ro.boot.qemu", "ro.serialno"),
)
_EMULATED_HARDWARE = re.compile(r"goldfish|ranchu|cutf_cvm|vbox86")
_LINUX_NAMES = {"arm64-v8a": "aarch64", "armeabi-v7a": "armv7l", "x86": "i686"}  # Android's names of processors
_VIRTUAL = "linux,dummy-virt"  # what QEMU's machine "virt" calls itself in the device tree


class AdbDevice:
    """Implements :class:`~device_tests.device.Device` for one serial.

    Args:
        serial: as adb lists it, or ``HOST:PORT`` of a device on the network, which is connected to.
    """

    base = BASE

    def __init__(self, serial: str, *, back_timeout_s: float = BACK_TIMEOUT_S) -> None:
        self.serial = self.name = serial
        self.back_timeout_s = back_timeout_s
        self._wire = AdbWire(make_client(), serial)

    @classmethod
    def opened(cls, serial: str) -> AdbDevice:
        """The device of this serial, reached; errors as :meth:`connect`."""
        device = cls(serial)
        device.connect()
        return device

    @cached_property
    def python(self) -> str | None:
        """See :class:`~device_tests.device.Device`."""
        found = self.run(("sh", "-c", "command -v python3"), timeout_s=QUICK_TIMEOUT_S)
        return found.stdout.strip() or None if found.exit_code == 0 else None

    def properties(self) -> Properties:
        """See :class:`~device_tests.device.Device`.

        Raises:
            DeviceError: it is neither Android nor the emulated device, so that no kind fits it.
        """
        script = "; ".join(f"getprop {name} || exit 1" for name in _ANDROID)
        found = self.run(("sh", "-c", script), timeout_s=QUICK_TIMEOUT_S)
        if found.exit_code == 0:
            return self._android(dict(zip(_ANDROID, found.stdout.split("\n"), strict=False)))
        script = "uname -m; uname -sr; tr '\\0' ' ' </proc/device-tree/compatible"
        found = self.run(("sh", "-c", script), timeout_s=QUICK_TIMEOUT_S)
        abi, system, compatible = map(printable, (found.stdout.split("\n") + [""] * 3)[:3])
        if abi == "aarch64" and _VIRTUAL in compatible.split():
            model = "QEMU arm64 machine, no Android"
            return Properties("linux-arm64-emulated", abi, model, system, self.serial)
        raise DeviceError(
            "this is neither Android nor the emulated device",
            device=self.serial,
            got=f"{abi or 'unknown processor'}, {system or 'unknown system'}",
            fix="name a phone, or the emulated device with --device emulator",
        )

    def _android(self, found: dict[str, str]) -> Properties:
        values = (printable(found.get(name, "").strip()) for name in _ANDROID)
        abi, maker, model, release, sdk, hardware, *flags, serial = values
        emulated = "1" in flags or _EMULATED_HARDWARE.search(hardware) is not None
        return Properties(
            kind="android-emulator" if emulated else "android-physical",
            abi=_LINUX_NAMES.get(abi, abi),
            model=f"{maker} {model}".strip(),
            system=f"Android {release}, API {sdk}",
            identity=f"{self.serial} {serial}".strip(),  # some makers give all phones of a model one serial
        )

    def push(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """See :class:`~device_tests.device.Device`."""
        self._wire.push(data, path, mode=mode, timeout_s=QUICK_TIMEOUT_S + len(data) / _SLOWEST_BYTES_PER_S)

    def pull(self, path: str, *, limit_bytes: int) -> bytes:
        """See :class:`~device_tests.device.Device`."""
        timeout_s = QUICK_TIMEOUT_S + limit_bytes / _SLOWEST_BYTES_PER_S
        return self._wire.pull(path, limit_bytes=limit_bytes, timeout_s=timeout_s)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        folder: str | None = None,
        on_line: OnLine | None = None,
        stop: threading.Event | None = None,
    ) -> Finished:
        """See :class:`~device_tests.device.Device`."""
        line = shlex.join(argv)
        if folder is not None:
            line = f"cd {shlex.quote(folder)} && {line}"
        return self._wire.shell(line, timeout_s=timeout_s, on_line=on_line, stop=stop)

    def free_bytes(self, folder: str) -> int:
        """See :class:`~device_tests.device.Device`."""
        argv = ("df", "-k", folder)
        found = self.run(argv, timeout_s=QUICK_TIMEOUT_S)
        numbers = re.search(r"\s(\d+)\s+(\d+)\s+(\d+)\s+\d+%", found.stdout)
        if found.exit_code != 0 or numbers is None:
            raise CommandError(
                "the device does not tell its free space",
                device=self.name,
                command=argv,
                exit_code=found.exit_code,
                got=repr((found.stderr or found.stdout)[-200:]),
            )
        return int(numbers.group(3)) * 1024

    def temperature_c(self) -> float | None:
        """Of the battery; see :class:`~device_tests.device.Device`."""
        tenths = self._battery("temperature")
        return None if tenths is None else tenths / 10

    def battery_percent(self) -> float | None:
        """See :class:`~device_tests.device.Device`."""
        return self._battery("level")

    def _battery(self, name: str) -> float | None:
        found = self.run(("dumpsys", "battery"), timeout_s=QUICK_TIMEOUT_S)
        value = re.search(rf"^\s*{name}: (-?\d+)\s*$", found.stdout, re.MULTILINE)
        return None if found.exit_code != 0 or value is None else float(value.group(1))

    def connect(self) -> None:
        """Reach it for the first time.

        Raises:
            DeviceNotFoundError: adb lists no such device, and it is no address that can be connected to.
            DeviceUnauthorizedError: it has not allowed this computer.
            DeviceLostError: it is listed, but does not answer.
        """
        if _is_address(self.serial) and self._wire.state() != "device":
            self._connect_address()
        state = self._wire.state()
        if state == "absent":
            listed = ", ".join(connected()) or "none"
            raise DeviceNotFoundError(
                "adb sees no such device", device=self.serial, got=f"devices {listed}", fix="check 'adb devices'"
            )
        self._require_usable(state)
        if state != "device":
            self.reconnect()

    def reconnect(self) -> None:
        """See :class:`~device_tests.device.Device`."""
        until, said = time.monotonic() + self.back_timeout_s, "absent"
        self._wire = AdbWire(make_client(), self.serial)  # the adb server itself may have gone
        while time.monotonic() < until:
            try:
                said = self._wire.state()
                self._require_usable(said)
                if said == "device" and self._answers():
                    return
                self._wake(said)
            except DeviceLostError as error:
                said = str(error)
                self._wire = AdbWire(make_client(), self.serial)
            time.sleep(_POLL_S)
        raise DeviceLostError(
            "the device did not come back",
            device=self.serial,
            command="reconnect",
            got=f"{said} after {self.back_timeout_s:g} s",
            fix="check its cable, battery and screen, then run the same command again: finished cells are kept",
        )

    def _answers(self) -> bool:
        self._wire.forget()
        try:
            return self._wire.shell("true", timeout_s=QUICK_TIMEOUT_S).exit_code == 0
        except DeviceError:
            return False

    def _wake(self, state: str) -> None:
        if _is_address(self.serial):
            self._wire.client.disconnect(self.serial)
            self._connect_address()
        elif state == "offline":
            self._wire.host_service("reconnect")

    def _connect_address(self) -> None:
        from adbutils.errors import AdbError

        try:
            self._wire.client.connect(self.serial, timeout=QUICK_TIMEOUT_S)
        except (AdbError, OSError) as error:
            raise DeviceLostError(
                "cannot connect to the device", device=self.serial, command="adb connect", got=error
            ) from error

    def _require_usable(self, state: str) -> None:
        if state == "unauthorized":
            raise DeviceUnauthorizedError(
                "the phone has not allowed this computer",
                device=self.serial,
                got=state,
                fix="unlock the phone and allow USB debugging from this computer",
            )


def connected() -> list[str]:
    """The serials that adb lists as usable.

    Raises:
        DeviceError: no adb server runs, and none can be started.
    """
    return [info.serial for info in make_client().list() if info.state == "device"]


def _is_address(serial: str) -> bool:
    return re.fullmatch(r"\[?[\w.:-]+\]?:\d{1,5}", serial) is not None
