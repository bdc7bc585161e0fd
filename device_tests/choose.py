"""From the names that a user gives to devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from device_tests.adb import AdbDevice, connected
from device_tests.device import Device
from device_tests.emulated import DEFAULT_NAME, EmulatedDevice, checked_name
from device_tests.errors import DeviceNotFoundError
from device_tests.local import LocalDevice


def devices_of(
    asked: Sequence[str], *, say: Callable[[str], object] = lambda line: None
) -> dict[str, Callable[[], Device]]:
    """By name, how each device is opened: ``emulator``, ``emulator:NAME``, ``local``, ``all`` or a serial."""
    found: dict[str, Callable[[], Device]] = {}
    own = [name for name in asked if name in ("local", DEFAULT_NAME) or name.startswith(f"{DEFAULT_NAME}:")]
    for name in own:
        machine = checked_name(name.partition(":")[2] or DEFAULT_NAME)
        found[name] = LocalDevice if name == "local" else partial(EmulatedDevice, machine, say=say)
    serials = [name for name in asked if name not in own]
    if serials or not own:
        for serial in chosen_serials(serials):
            found[serial] = partial(AdbDevice.opened, serial)
    return found


def chosen_serials(asked: Sequence[str], *, listed: Callable[[], list[str]] = connected) -> list[str]:
    """The serials to use: those asked for, all with ``all``, else ``ANDROID_SERIAL``, else the only one connected.

    Raises:
        DeviceNotFoundError: none is connected, or several and none named.
    """
    if "all" not in asked and asked:
        return list(dict.fromkeys(asked))
    if not asked and os.environ.get("ANDROID_SERIAL"):
        return [os.environ["ANDROID_SERIAL"]]
    found = listed()
    if not found or (len(found) > 1 and not asked):
        raise DeviceNotFoundError(
            "no device is connected" if not found else "several devices are connected, and none is named",
            device="of adb",
            got=", ".join(found) or "nothing in 'adb devices'",
            fix="connect a phone and allow this computer on its screen; --device emulator needs none"
            if not found
            else "name one with --device, or --device all",
        )
    return found
