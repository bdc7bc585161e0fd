"""What adbutils leaves open: shell with a deadline and live output, and transfers that say why they failed.

Every call goes over adbutils' connection to the adb server. adbutils' own push drops the device's reason and may send
less of a block than it counts, and none of its calls has a deadline for the whole; so the shell and sync protocols are
spoken here. Source: the Android Open Source Project, packages/modules/adb, ``docs/dev/sync.md`` and
``shell_protocol.h``.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from device_tests.device import Finished, OnLine
from device_tests.errors import (
    CommandError,
    DeviceError,
    DeviceFullError,
    DeviceLostError,
    DeviceNotFoundError,
    DevicePermissionError,
    DeviceStoppedError,
    DeviceTimeoutError,
    DeviceUnauthorizedError,
    TransferError,
)
from device_tests.output import MAX_OUTPUT_BYTES, Deadline, Output, OutputError, StoppedError, as_text
from hetero.errors import MissingExtraError

if TYPE_CHECKING:
    from adbutils import AdbClient, AdbConnection

CALL_TIMEOUT_S = 20.0  # of what adb answers at once
SERVER_TIMEOUT_S = 30.0
_BLOCK_BYTES = 64 * 1024  # the sync protocol's limit
_LONGEST_REASON_BYTES = 1 << 16
_STDOUT, _STDERR, _EXIT = 1, 2, 3  # kinds of packets of shell v2
_FULL = re.compile(r"no space left|disk quota|not enough space", re.IGNORECASE)
_REFUSED = re.compile(r"permission denied|read-only file system|operation not permitted", re.IGNORECASE)
_FIX_LOST = "check the cable and that the device is on; 'adb devices' shows what adb sees"


def make_client() -> AdbClient:
    """A client of the adb server that ``ANDROID_ADB_SERVER_PORT`` names; one is started where none runs.

    Raises:
        MissingExtraError: adbutils is not installed.
        DeviceError: no adb server runs, and none can be started.
    """
    try:
        from adbutils import AdbClient, adb_path
        from adbutils.errors import AdbError
    except ImportError:
        raise MissingExtraError("reaching a device over adb", "adbutils", "device") from None
    client = AdbClient(socket_timeout=CALL_TIMEOUT_S)
    try:
        with socket.create_connection((client.host, client.port), timeout=CALL_TIMEOUT_S):
            return client
    except OSError:
        pass
    try:
        # Here and not in adbutils, where what adb says would land on our standard output.
        command = [adb_path(), "-P", str(client.port), "start-server"]
        quiet = subprocess.DEVNULL
        subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=SERVER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError, AdbError) as error:
        raise DeviceError(
            "no adb server runs, and none can be started",
            device=f"adb server at {client.host}:{client.port}",
            command="adb start-server",
            got=error,
            fix="install adb (sudo apt-get install adb), or start the server by hand",
        ) from error
    return client


class AdbWire:
    """One device behind an adb server. Every method raises a :class:`~device_tests.errors.DeviceError`."""

    def __init__(self, client: AdbClient, serial: str) -> None:
        self.client, self.serial = client, serial
        self._shell_v2: bool | None = None

    def forget(self) -> None:
        """The device may be another one now: ask for its features again."""
        self._shell_v2 = None

    def state(self) -> str:
        """``device``, ``offline``, ``unauthorized``, … as adb lists it, ``absent`` where it does not."""
        with self._errors("devices"):
            states = [info.state for info in self.client.list() if info.serial == self.serial]
        if len(states) > 1:
            raise DeviceNotFoundError(
                "several devices have one serial",
                device=self.serial,
                got=", ".join(states),
                fix="unplug all but one, or connect them over TCP, where they have addresses",
            )
        return states[0] if states else "absent"

    def shell(
        self, line: str, *, timeout_s: float, on_line: OnLine | None = None, stop: threading.Event | None = None
    ) -> Finished:
        """Run a line in the device's shell to its end, at most ``timeout_s`` seconds and until ``stop`` is set."""
        deadline = Deadline(timeout_s, stop)
        with self._errors(line):
            if self._shell_v2 is None:
                self._shell_v2 = "shell_v2" in self._device().get_features().split(",")
            kind = "shell,v2,raw:" if self._shell_v2 else "shell:"
            with self._service(kind + self._with_code(line), deadline) as service:
                if self._shell_v2:
                    return _read_v2(service, deadline, on_line)
                text = _read_to_end(service, deadline, on_line)
        return self._checked_v1(line, text)

    def push(self, data: bytes, path: str, *, mode: int, timeout_s: float) -> None:
        """Write a file."""
        deadline = Deadline(timeout_s)
        with self._errors(f"push {path}"), self._service("sync:", deadline) as service:
            target = f"{path},{0o100000 | mode}".encode()
            try:
                _send(service, b"SEND" + struct.pack("<I", len(target)) + target, deadline)
                for start in range(0, len(data), _BLOCK_BYTES):
                    block = data[start : start + _BLOCK_BYTES]
                    _send(service, b"DATA" + struct.pack("<I", len(block)) + block, deadline)
                _send(service, b"DONE" + struct.pack("<I", int(time.time())), deadline)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a device that refuses says why and hangs up in the middle
            self._sync_answer(service, b"OKAY", f"push {path}", deadline)

    def pull(self, path: str, *, limit_bytes: int, timeout_s: float) -> bytes:
        """Read a file."""
        deadline, size = Deadline(timeout_s), 0
        parts: list[bytes] = []
        with self._errors(f"pull {path}"), self._service("sync:", deadline) as service:
            target = path.encode()
            _send(service, b"RECV" + struct.pack("<I", len(target)) + target, deadline)
            while (length := self._sync_answer(service, b"DATA", f"pull {path}", deadline)) is not None:
                size += length
                if size > limit_bytes:
                    raise TransferError(
                        "a file on the device is too large",
                        device=self.serial,
                        command=f"pull {path}",
                        expected=f"at most {limit_bytes} bytes",
                    )
                parts.append(_receive(service, length, deadline))
        return b"".join(parts)

    def host_service(self, service: str) -> str:
        """Ask the adb server something about this device, such as ``reconnect``."""
        with (
            self._errors(service),
            self._device().open_transport(service, timeout=CALL_TIMEOUT_S) as answer,
        ):
            return str(answer.read_string_block())

    def _device(self) -> Any:
        return self.client.device(serial=self.serial)

    @contextmanager
    def _service(self, name: str, deadline: Deadline) -> Iterator[AdbConnection]:
        """A connection to a service of the device."""
        service = self._device().open_transport(timeout=CALL_TIMEOUT_S)
        try:
            _send(service, f"{len(name.encode()):04x}{name}".encode(), deadline)
            service.check_okay()
            yield service
        finally:
            service.close()

    def _sync_answer(self, service: AdbConnection, expected: bytes, doing: str, deadline: Deadline) -> int | None:
        """The length that follows ``expected``; None at the regular end of what is received."""
        kind, length = struct.unpack("<4sI", _receive(service, 8, deadline))
        if kind == expected:
            return int(length)
        if kind == b"DONE":
            return None
        if kind != b"FAIL" or length > _LONGEST_REASON_BYTES:
            raise DeviceLostError("the device answers out of turn", device=self.serial, command=doing, got=repr(kind))
        raise self._refused(doing, as_text(_receive(service, length, deadline)))

    def _refused(self, doing: str, reason: str) -> DeviceError:
        if _FULL.search(reason):
            fix = "free some: remove old folders hetero-* in /data/local/tmp"
            return DeviceFullError("no space left", device=self.serial, command=doing, got=reason, fix=fix)
        if _REFUSED.search(reason):
            fix = "the shell's user must be able to use this folder: try another --base"
            return DevicePermissionError("access refused", device=self.serial, command=doing, got=reason, fix=fix)
        return TransferError("the device refuses a transfer", device=self.serial, command=doing, got=reason)

    def _with_code(self, line: str) -> str:
        """For devices without shell v2: print the exit code behind a word that no output has by chance."""
        self._mark = secrets.token_hex(8)
        return line if self._shell_v2 else f"({line}); echo {self._mark}:$?"

    def _checked_v1(self, line: str, text: str) -> Finished:
        written, found, code = text.rpartition(f"{self._mark}:")
        if not found or not re.fullmatch(r"\d{1,3}\n?", code):
            raise CommandError(
                "a command ended without an exit code that can be trusted",
                device=self.serial,
                command=line,
                got=repr(text[-80:]),
                fix="try again; a device without the shell protocol's version 2 must echo $?",
            )
        return Finished(int(code), written, "")

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turns what adbutils and sockets raise into a device's errors."""
        from adbutils.errors import AdbError, AdbTimeout

        about: dict[str, Any] = {"device": self.serial, "command": doing}
        try:
            yield
        except DeviceError:
            raise
        except StoppedError:
            raise DeviceStoppedError("the check was interrupted", **about) from None
        except OutputError:
            fix = "run the command by hand and see what it writes"
            raise CommandError(
                "a command writes without end", expected=f"at most {MAX_OUTPUT_BYTES} bytes", fix=fix, **about
            ) from None
        except (AdbTimeout, TimeoutError) as error:
            raise DeviceTimeoutError("the device did not answer in time", got=str(error) or None, **about) from error
        except (EOFError, OSError) as error:
            raise DeviceLostError("the connection broke", got=str(error) or None, fix=_FIX_LOST, **about) from error
        except AdbError as error:
            raise self._translated(str(error), about) from error

    def _translated(self, said: str, about: dict[str, Any]) -> DeviceError:
        if "unauthorized" in said or "authorizing" in said:
            fix = "unlock the phone and allow USB debugging from this computer"
            return DeviceUnauthorizedError("the phone has not allowed this computer", got=said, fix=fix, **about)
        if "not found" in said or "no devices" in said:
            return DeviceLostError("adb does not see the device", got=said, fix=_FIX_LOST, **about)
        if "more than one" in said:
            fix = "name one with --device or ANDROID_SERIAL"
            return DeviceNotFoundError("more than one device is connected", got=said, fix=fix, **about)
        return DeviceLostError("adb cannot reach the device", got=said, fix=_FIX_LOST, **about)


def _send(service: AdbConnection, data: bytes, deadline: Deadline) -> None:
    """All of ``data``, in pieces: a timeout in the middle of ``sendall`` would not say how much went."""
    view = memoryview(data)
    while view:
        service.conn.settimeout(deadline.wait_s())
        try:
            view = view[service.conn.send(view) :]
        except TimeoutError:
            continue


def _receive_some(service: AdbConnection, size: int, deadline: Deadline) -> bytes:
    """At most ``size`` bytes; none where the other side is done."""
    while True:
        service.conn.settimeout(deadline.wait_s())
        try:
            return bytes(service.conn.recv(size))
        except TimeoutError:
            continue


def _receive(service: AdbConnection, size: int, deadline: Deadline) -> bytes:
    """Exactly ``size`` bytes."""
    parts = []
    while size:
        part = _receive_some(service, min(size, 1 << 20), deadline)
        if not part:
            raise EOFError(f"{size} bytes were still to come")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_v2(service: AdbConnection, deadline: Deadline, on_line: OnLine | None) -> Finished:
    written, said = Output(on_line), Output()
    while True:
        kind, length = struct.unpack("<BI", _receive(service, 5, deadline))
        if length > MAX_OUTPUT_BYTES:
            raise OutputError
        data = _receive(service, length, deadline)
        if kind == _STDOUT:
            written.add(data)
        elif kind == _STDERR:
            said.add(data)
        elif kind == _EXIT and length == 1:
            return Finished(data[0], written.text, said.text)


def _read_to_end(service: AdbConnection, deadline: Deadline, on_line: OnLine | None) -> str:
    written = Output(on_line)
    while part := _receive_some(service, 1 << 16, deadline):
        written.add(part)
    return written.text
