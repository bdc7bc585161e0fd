"""A fake adb server that speaks the real wire protocol: adbutils talks to it, and faults can be asked of it.

Commands really run, in a shell of this computer, with ``/data/local/tmp`` standing for a folder of the test. So a
device's file list is that folder's, a runner really runs, and a hung one really hangs.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import socketserver
import stat
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

BASE = "/data/local/tmp"
PHONE = {
    "ro.product.cpu.abi": os.uname().machine,
    "ro.product.manufacturer": "Fake",
    "ro.product.model": "Phone",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.hardware": "fake",
    "ro.serialno": "FAKE0001",
}
BATTERY = "Current Battery Service state:\n  level: 83\n  scale: 100\n  temperature: 312\n"


@dataclass
class Fault:
    """What goes wrong: ``action`` at a service or command that ``match`` finds, the first ``times`` times.

    Actions: ``disconnect`` (the connection breaks after ``after`` bytes), ``reboot`` (it breaks, what runs is killed,
    and the device is away for ``seconds``), ``away`` (the same, and it stays away), ``full``, ``refuse`` (a push is
    refused), ``corrupt`` (a push arrives otherwise), ``truncate`` (a pull ends after ``after`` bytes), ``hang`` (a
    command never ends), ``code`` (a command ends with ``code``), ``silent`` (no exit code is sent).
    """

    match: str
    action: str
    times: int = 1
    after: int = 0
    seconds: float = 0.5
    code: int = 1


@dataclass
class FakeDevice:
    """A phone behind the fake server; its files are in ``root``."""

    serial: str
    root: Path
    properties: dict[str, str] = field(default_factory=lambda: dict(PHONE))
    features: str = "shell_v2,cmd,stat_v2"
    state: str = "device"
    crlf: bool = False
    python: bool = True
    free_kb: int = 10_000_000
    faults: list[Fault] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    back_at: float = 0.0
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.root / "tmp").mkdir(parents=True)
        programs = {
            "getprop": f'cat "{self.root}/props/$1" 2>/dev/null || echo',
            "dumpsys": f"cat <<'END'\n{BATTERY}END",
            "df": f"echo 'Filesystem 1K-blocks Used Available Use% Mounted on'; "
            f"echo 'fake 20000000 1 {self.free_kb} 1% {BASE}'",
        }
        if self.python:
            programs["python3"] = f'exec {sys.executable} "$@"'
        for name, value in self.properties.items():
            file = self.root / "props" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{value}\n")
        for name, text in programs.items():
            program = self.root / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        for name in ("sh", "mkdir", "rm", "cat", "readlink", "sha256sum", "sleep", "kill", "true", "echo", "chmod"):
            if found := shutil.which(name):
                (self.root / "bin" / name).symlink_to(found)

    @property
    def files(self) -> list[str]:
        """Everything under ``/data/local/tmp``."""
        return sorted(str(path.relative_to(self.root / "tmp")) for path in (self.root / "tmp").rglob("*"))

    def fault(self, name: str) -> Fault | None:
        """The fault that is due at this service or command; counted."""
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.match, name):
                fault.times -= 1
                return fault
        return None

    def go_away(self, seconds: float | None) -> None:
        """Vanish from the list, as a phone that reboots does; None: until :meth:`come_back`."""
        self.state, self.back_at = "absent", time.monotonic() + seconds if seconds is not None else float("inf")
        self.kill_all()

    def come_back(self) -> None:
        """Be listed again."""
        self.state = "device"

    def kill_all(self) -> None:
        """End whatever runs on it."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()

    @property
    def alive(self) -> list[int]:
        """Processes that still run on it."""
        return [process.pid for process in self.processes if process.poll() is None]


class FakeAdbServer:
    """Listens on a free port of loopback; ``devices`` are what it lists. Use it in a ``with`` block."""

    def __init__(self, *devices: FakeDevice) -> None:
        self.devices = list(devices)
        self.reconnects: list[str] = []

    def __enter__(self) -> FakeAdbServer:
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(ConnectionError, EOFError, struct.error, ValueError):
                    _Connection(outer, self.request).serve()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads, block_on_close = True, True, False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for device in self.devices:
            device.kill_all()

    def listed(self) -> list[FakeDevice]:
        """The devices that are there now."""
        for device in self.devices:
            if device.state == "absent" and time.monotonic() >= device.back_at:
                device.state = "device"
        return [device for device in self.devices if device.state != "absent"]


class _Connection:
    def __init__(self, server: FakeAdbServer, connection: socket.socket) -> None:
        self.server, self.socket = server, connection

    def serve(self) -> None:
        device: FakeDevice | None = None
        while True:
            service = self._exactly(int(self._exactly(4), 16)).decode()
            if service == "host:version":
                self._answer("0029")
            elif service in ("host:devices", "host:devices-l"):
                self._answer("".join(f"{one.serial}\t{one.state}\n" for one in self.server.listed()))
            elif service.startswith(("host:tport:serial:", "host:transport:")):
                device = self._device(service.removeprefix("host:tport:serial:").removeprefix("host:transport:"))
                if device is None:
                    return
                self._send(b"OKAY" + (struct.pack("<Q", 1) if "tport" in service else b""))
                continue
            elif service.startswith("host-serial:"):
                serial, _, what = service.removeprefix("host-serial:").rpartition(":")
                device = self._device(serial, usable=what != "reconnect")
                if device is None:
                    return
                self._host_serial(device, what)
            elif service.startswith(("host:connect:", "host:disconnect:")):
                self._answer("already connected")
            elif device is not None and service == "sync:":
                self._send(b"OKAY")
                self._sync(device)
            elif device is not None and service.startswith("shell"):
                kind, _, command = service.partition(":")
                device.commands.append(command)
                self._send(b"OKAY")
                self._shell(device, command, v2="v2" in kind)
            else:
                self._fail(f"unknown service {service}")
            return

    def _host_serial(self, device: FakeDevice, what: str) -> None:
        if what == "features":
            self._answer(device.features)
        elif what == "get-state":
            self._answer(device.state)
        elif what == "reconnect":
            self.server.reconnects.append(device.serial)
            if device.state == "offline" and not any(fault.match == "reconnect" for fault in device.faults):
                device.state = "device"
            self._answer("reconnecting")

    def _device(self, serial: str, *, usable: bool = True) -> FakeDevice | None:
        found = [one for one in self.server.listed() if one.serial == serial]
        if not found:
            self._fail(f"device '{serial}' not found")
        elif len(found) > 1:
            self._fail("more than one device/emulator")
        elif usable and found[0].state != "device":
            self._fail(f"device {found[0].state}")
        else:
            return found[0]
        return None

    def _shell(self, device: FakeDevice, command: str, *, v2: bool) -> None:
        fault = device.fault(command)
        real = command.replace(BASE, str(device.root / "tmp"))
        if fault is not None and fault.action == "hang":
            folder = re.match(r"cd (\S+) && ", real)
            real = (folder.group(0) if folder else "") + "exec sleep 600"
        process = subprocess.Popen(
            ["/bin/sh", "-c", real],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if v2 else subprocess.STDOUT,
            env={"PATH": str(device.root / "bin"), "HOME": "/"},
            start_new_session=True,
        )
        device.processes.append(process)
        if fault is not None and fault.action in ("reboot", "away", "disconnect"):
            time.sleep(0.05)
            if fault.action != "disconnect":
                device.go_away(fault.seconds if fault.action == "reboot" else None)
            return
        out, err = process.communicate()
        code = fault.code if fault is not None and fault.action == "code" else process.returncode
        code = code if code >= 0 else 128 - code
        out, err = (self._as_device(device, part or b"") for part in (out, err))
        if v2:
            for kind, data in ((1, out), (2, err)):
                for start in range(0, len(data), 60_000):
                    self._packet(kind, data[start : start + 60_000])
            if fault is None or fault.action != "silent":
                self._packet(3, bytes([code]))
        elif fault is not None and fault.action == "silent":
            self._send(out.rpartition(b":")[0])
        elif fault is not None and fault.action == "code":
            head, _, _ = out.rpartition(b":")
            self._send(head + b":%d\n" % code)
        else:
            self._send(out)

    def _as_device(self, device: FakeDevice, data: bytes) -> bytes:
        data = data.replace(str(device.root / "tmp").encode(), BASE.encode())
        return data.replace(b"\n", b"\r\n") if device.crlf else data

    def _sync(self, device: FakeDevice) -> None:
        kind, length = struct.unpack("<4sI", self._exactly(8))
        path = self._exactly(length).decode()
        if kind == b"SEND":
            self._receive_file(device, path)
        elif kind == b"RECV":
            self._send_file(device, path)

    def _receive_file(self, device: FakeDevice, target: str) -> None:
        path, _, mode = target.rpartition(",")
        fault = device.fault(f"push {path}")
        if fault is not None and fault.action in ("full", "refuse"):
            self._sync_fail("No space left on device" if fault.action == "full" else "Permission denied")
            return
        received = b""
        while True:
            kind, length = struct.unpack("<4sI", self._exactly(8))
            if kind == b"DONE":
                break
            received += self._exactly(length)
            if fault is not None and fault.action in ("disconnect", "reboot", "away") and len(received) > fault.after:
                self._real(device, path).write_bytes(received)  # what had arrived stays, as on a phone
                if fault.action != "disconnect":
                    device.go_away(fault.seconds if fault.action == "reboot" else None)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionResetError
        try:
            self._real(device, path).write_bytes(received)
        except OSError as error:
            self._sync_fail(str(error.strerror))
            return
        if fault is not None and fault.action == "corrupt":
            self._real(device, path).write_bytes(received[:-1] + bytes([received[-1] ^ 1]))
        self._real(device, path).chmod(stat.S_IMODE(int(mode)))
        self._send(b"OKAY" + struct.pack("<I", 0))

    def _send_file(self, device: FakeDevice, path: str) -> None:
        fault = device.fault(f"pull {path}")
        try:
            data = self._real(device, path).read_bytes()
        except OSError as error:
            self._sync_fail(f"{path}: {error.strerror}")
            return
        if fault is not None and fault.action == "truncate":
            data = data[: fault.after]
        for start in range(0, len(data), 65536):
            part = data[start : start + 65536]
            self._send(b"DATA" + struct.pack("<I", len(part)) + part)
        self._send(b"DONE" + struct.pack("<I", 0))

    def _real(self, device: FakeDevice, path: str) -> Path:
        return Path(path.replace(BASE, str(device.root / "tmp")))

    def _sync_fail(self, reason: str) -> None:
        self._send(b"FAIL" + struct.pack("<I", len(reason)) + reason.encode())

    def _packet(self, kind: int, data: bytes) -> None:
        self._send(struct.pack("<BI", kind, len(data)) + data)

    def _answer(self, text: str) -> None:
        self._send(b"OKAY" + f"{len(text.encode()):04x}{text}".encode())

    def _fail(self, text: str) -> None:
        self._send(b"FAIL" + f"{len(text):04x}{text}".encode())

    def _send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data
