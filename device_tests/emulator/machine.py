"""Starting, finding and ending the emulated device's process. It is ended by its recorded pid and nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from device_tests.emulator.tools import require_tools
from device_tests.errors import EmulatorError
from device_tests.folders import host_id, process_start
from hetero import atomic

MEMORY_MB = 2048
GUEST_PORT = 5555  # adbd's own, inside the machine
ADB_SCANS = range(5555, 5586)  # adb looks here for emulators by itself, and would show a second device
_CONSOLE_TOLD_LINES = 12
_STOP_TIMEOUT_S = 10.0
_LOCK_TIMEOUT_S = 400.0


@dataclass(frozen=True)
class Machine:
    """A running machine: ``started`` is when the process started, so that no reused pid is taken for it."""

    name: str
    pid: int
    started: str
    port: int
    build: str
    console: str

    @property
    def serial(self) -> str:
        """What adb calls it once connected."""
        return f"127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return f"{host_id()} {process_start(self.pid)}" == self.started


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the right to start and stop the machine of this name.

    Raises:
        EmulatorError: another process holds it for minutes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{name}.lock", timeout=_LOCK_TIMEOUT_S):
            yield
    except Timeout:
        raise EmulatorError(
            f"another process is starting or stopping the emulated device {name!r}",
            fix="wait for it, or end that process",
        ) from None


def running(folder: Path, name: str) -> Machine | None:
    """The machine of this name, where it was started and runs still."""
    try:
        machine = Machine(**json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return machine if machine.alive else None


def launch(folder: Path, name: str, kernel: Path, root: Path, *, build: str) -> Machine:
    """Start the machine's process; it boots for some 20 s afterwards. The caller holds :func:`locked`.

    Raises:
        EmulatorError: QEMU is not installed or ends at once.
    """
    require_tools("qemu-system-aarch64")
    port, console = free_port(), folder / f"{name}.console"
    with open(folder / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            (
                *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a76", "-smp", "2", "-m", str(MEMORY_MB)),
                *("-accel", "tcg,thread=multi", "-kernel", str(kernel), "-initrd", str(root)),
                *("-append", "console=ttyAMA0 panic=-1", "-no-reboot", "-display", "none", "-monitor", "none"),
                *("-serial", f"file:{console}"),
                # restrict: the guest reaches nothing; adbd asks nobody who he is, so it is behind loopback only.
                *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:{GUEST_PORT}"),
                *("-device", "virtio-net-pci,netdev=net,romfile="),
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    started = process_start(process.pid)
    if started is None or process.poll() is not None:
        raise EmulatorError("QEMU ended at once", got=(folder / f"{name}.log").read_text(errors="replace").strip())
    machine = Machine(name, process.pid, f"{host_id()} {started}", port, build, str(console))
    atomic.write_json(folder / f"{name}.json", asdict(machine))
    return machine


def end(folder: Path, machine: Machine) -> None:
    """End the machine's process. The caller holds :func:`locked`.

    Raises:
        EmulatorError: it cannot be ended.
    """
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if not machine.alive:
            break
        try:
            os.kill(machine.pid, sign)
        except PermissionError as error:
            raise EmulatorError(f"process {machine.pid} belongs to another user", fix="stop it as that user") from error
        except ProcessLookupError:
            break
        until = time.monotonic() + _STOP_TIMEOUT_S
        while machine.alive and time.monotonic() < until:
            with suppress(ChildProcessError):  # our own child would stay as a zombie
                os.waitpid(machine.pid, os.WNOHANG)
            time.sleep(0.05)
    (folder / f"{machine.name}.json").unlink(missing_ok=True)


def console_tail(machine: Machine) -> str:
    """What the machine said last, for messages."""
    with suppress(OSError):
        lines = Path(machine.console).read_text(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-_CONSOLE_TOLD_LINES:])
    return "nothing"


def free_port() -> int:
    """A TCP port of loopback that nobody uses, outside of what adb scans."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in ADB_SCANS:
            return port
