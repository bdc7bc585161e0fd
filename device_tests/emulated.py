"""The emulated arm64 device: a machine under QEMU that is started when it is needed, and reached over real adb."""

from __future__ import annotations

import io
import os
import re
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from device_tests.adb import AdbDevice
from device_tests.adb_wire import make_client
from device_tests.device import Finished, OnLine, Properties
from device_tests.emulator import machine as machines
from device_tests.emulator.build import Build, build_device, newest_build
from device_tests.emulator.tools import require_tools
from device_tests.errors import CommandError, DeviceError, EmulatorError
from device_tests.folders import cache_folder
from hetero.errors import ConfigError

DEFAULT_NAME = "emulator"
BOOT_TIMEOUT_S = 240.0  # about 20 s on an idle machine; one that runs tests beside is many times slower
_COMPILE_TIMEOUT_S = 600.0
_LONGEST_TAR_BYTES = 1 << 28
_POLL_S = 0.5
_IMPORTS = "import ai_edge_litert.interpreter, onnxruntime, numpy, hashlib, json, platform, resource"
_PACK = """
import glob, os, sys, tarfile
os.chdir("/")
with tarfile.open(sys.argv[1], "w") as tar:
    for path in sorted(glob.glob("usr/**/*.pyc", recursive=True)):
        tar.add(path)
"""
Say = Callable[[str], object]


def build(*, say: Say = lambda line: None, cache: Path | None = None) -> Build:
    """Build the device where the cache has no build of the packages of today.

    Raises:
        EmulatorError: a program is missing, or neither a mirror nor the cache has what is needed.
    """
    folder = _builds(cache)
    with machines.locked(folder / "build", "build"):
        return build_device(folder, lambda kernel, root: _compile_bytecode(kernel, root, folder / "build"), say=say)


def start(name: str = DEFAULT_NAME, *, say: Say = lambda line: None, cache: Path | None = None) -> machines.Machine:
    """The running machine of this name, booted and answering over adb; built and started where it is not.

    Raises:
        EmulatorError: it cannot be built, or does not boot in time; with what it said last.
        DeviceError: it cannot be reached over adb.
    """
    folder = _run_folder(name, cache)
    require_tools("qemu-system-aarch64", "adb")
    with machines.locked(folder, name):
        found = machines.running(folder, name)
        if found is None:
            made = newest_build(_builds(cache)) or build(say=say, cache=cache)
            say("booting the emulated device")
            found = machines.launch(folder, name, made.path / "vmlinuz", made.path / "root.cpio", build=made.key)
        _wait_for(found)
        return found


def stop(name: str = DEFAULT_NAME, *, cache: Path | None = None) -> bool:
    """End the machine of this name; False where none runs."""
    folder = _run_folder(name, cache)
    with machines.locked(folder, name):
        found = machines.running(folder, name)
        if found is None:
            return False
        machines.end(folder, found)
        _forget(found.serial)
        return True


def status(name: str = DEFAULT_NAME, *, cache: Path | None = None) -> machines.Machine | None:
    """The machine of this name, where it runs."""
    return machines.running(_run_folder(name, cache), name)


class EmulatedDevice:
    """Implements :class:`~device_tests.device.Device` over :class:`~device_tests.adb.AdbDevice`.

    The machine is started when it is first used, and started again where its process went.
    """

    def __init__(self, name: str = DEFAULT_NAME, *, say: Say = lambda line: None, cache: Path | None = None) -> None:
        self.name = DEFAULT_NAME if name == DEFAULT_NAME else f"{DEFAULT_NAME}:{name}"
        self._machine = name
        self.base = AdbDevice.base
        self._say, self._cache = say, cache
        self._adb = self._started()

    @property
    def python(self) -> str | None:
        """See :class:`~device_tests.device.Device`."""
        return self._adb.python

    @property
    def serial(self) -> str:
        """What adb calls it now."""
        return self._adb.serial

    def properties(self) -> Properties:
        """See :class:`~device_tests.device.Device`."""
        return replace(self._adb.properties(), identity=f"{self.name} {self._build}")

    def push(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """See :class:`~device_tests.device.Device`."""
        self._adb.push(data, path, mode=mode)

    def pull(self, path: str, *, limit_bytes: int) -> bytes:
        """See :class:`~device_tests.device.Device`."""
        return self._adb.pull(path, limit_bytes=limit_bytes)

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
        return self._adb.run(argv, timeout_s=timeout_s, folder=folder, on_line=on_line, stop=stop)

    def free_bytes(self, folder: str) -> int:
        """See :class:`~device_tests.device.Device`."""
        return self._adb.free_bytes(folder)

    def temperature_c(self) -> float | None:
        """An emulated device has none."""
        return None

    def battery_percent(self) -> float | None:
        """An emulated device has none."""
        return None

    def reconnect(self) -> None:
        """See :class:`~device_tests.device.Device`; a machine that went is started again."""
        self._adb = self._started()

    def _started(self) -> AdbDevice:
        machine = start(self._machine, say=self._say, cache=self._cache)
        self._build = machine.build  # the same after a restart: what it finished is finished
        adb = AdbDevice(machine.serial)
        adb.connect()
        return adb


def _builds(cache: Path | None) -> Path:
    """The folder of builds and running machines, below the cache given or the user's."""
    return (cache or cache_folder()) / "emulator"


def checked_name(name: str) -> str:
    """The name of a machine.

    Raises:
        ConfigError: it is no plain word.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ConfigError("a machine has a plain name", got=repr(name), expected="letters, digits, '_' and '-'")
    return name


def _run_folder(name: str, cache: Path | None) -> Path:
    """Where running machines are recorded; errors as :func:`checked_name`."""
    checked_name(name)
    return _builds(cache) / "run"


def _wait_for(machine: machines.Machine) -> None:
    """Wait until the machine answers over adb."""
    until, said = time.monotonic() + BOOT_TIMEOUT_S, "nothing"
    while time.monotonic() < until:
        if not machine.alive:
            break
        try:
            device = AdbDevice(machine.serial)
            device.connect()
            if device.run(("true",), timeout_s=20).exit_code == 0:
                return
        except DeviceError as error:
            said = str(error)
        time.sleep(_POLL_S)
    raise EmulatorError(
        "the emulated device does not answer",
        got=f"{'process ended' if not machine.alive else said}; its console: {machines.console_tail(machine)}",
        expected=f"an answer over adb in {BOOT_TIMEOUT_S:g} s",
        fix="hetero device emulator stop, then start it again; on a busy machine wait until it is idle",
    )


def _compile_bytecode(kernel: Path, root: Path, folder: Path) -> bytes:
    """Boot a device and let its Python compile what the runtimes import, which also proves that they load."""
    with machines.locked(folder, "compile"):
        if (earlier := machines.running(folder, "compile")) is not None:  # of a build that was killed
            machines.end(folder, earlier)
        machine = machines.launch(folder, "compile", kernel, root, build="unfinished")
        try:
            _wait_for(machine)
            device = AdbDevice(machine.serial)
            archive = f"{device.base}/compiled.tar"
            for argv in (
                ("python3", "-c", _IMPORTS),
                ("python3", "-c", _PACK, archive),
            ):
                ended = device.run(argv, timeout_s=_COMPILE_TIMEOUT_S)
                if ended.exit_code != 0:
                    raise CommandError(
                        "the runtimes do not load on the emulated device",
                        device="emulator",
                        command=argv,
                        exit_code=ended.exit_code,
                        got=(ended.stderr or ended.stdout).strip()[-300:],
                    )
            compiled = device.pull(archive, limit_bytes=_LONGEST_TAR_BYTES)
        finally:
            machines.end(folder, machine)
            _forget(machine.serial)
    with tarfile.open(fileobj=io.BytesIO(compiled)) as tar:
        if not any(name.endswith(".pyc") for name in tar.getnames()):
            raise EmulatorError("the emulated device compiled nothing")
    return compiled


def _forget(serial: str) -> None:
    """Take a machine that ended out of the list of the adb server, where one runs."""
    port = int(os.environ.get("ANDROID_ADB_SERVER_PORT") or 5037)
    with suppress(OSError, DeviceError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        make_client().disconnect(serial)
