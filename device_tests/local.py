"""This computer as a device: files in a temporary folder, commands as processes with a clean environment."""

from __future__ import annotations

import errno
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from device_tests.device import Finished, OnLine, Properties
from device_tests.errors import (
    CommandError,
    DeviceFullError,
    DevicePermissionError,
    DeviceStoppedError,
    DeviceTimeoutError,
    TransferError,
)
from device_tests.output import MAX_OUTPUT_BYTES, Deadline, Output, OutputError, StoppedError, as_text

_INHERITED = ("HOME", "PATH", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
_CHUNK_BYTES = 1 << 16
_POLL_S = 0.02


class LocalDevice:
    """Implements :class:`~device_tests.device.Device`.

    Args:
        python: the interpreter that has the runtimes; with None, the one that runs now.
    """

    def __init__(self, python: str | None = None, *, base: Path | None = None, name: str = "local") -> None:
        self.name = name
        self.python: str | None = python or sys.executable
        self.base = str(base or tempfile.gettempdir())

    def properties(self) -> Properties:
        """See :class:`~device_tests.device.Device`."""
        return Properties(
            kind="host",
            abi=platform.machine(),
            model=platform.processor() or platform.machine(),
            system=f"{platform.system()} {platform.release()}",
            identity=" ".join(
                [self.name, platform.node(), *_versions()]
            ),  # what another runtime finished is not finished
        )

    def push(self, data: bytes, path: str, *, mode: int = 0o644) -> None:
        """See :class:`~device_tests.device.Device`."""
        with _translated("push", path):
            Path(path).write_bytes(data)
            os.chmod(path, mode)

    def pull(self, path: str, *, limit_bytes: int) -> bytes:
        """See :class:`~device_tests.device.Device`."""
        with _translated("pull", path), open(path, "rb") as stream:
            data = stream.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise TransferError(
                f"{path} is too large",
                device=self.name,
                command=f"pull {path}",
                expected=f"at most {limit_bytes} bytes",
            )
        return data

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
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | {"LC_ALL": "C.UTF-8"}
        with _translated(argv[0], folder or "."), tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
            output = Output(on_line)
            try:
                _read(process, Deadline(timeout_s, stop), output, errors.fileno())
            except TimeoutError:
                raise DeviceTimeoutError(
                    "a command did not end in time", device=self.name, command=argv, expected=f"{timeout_s:g} s"
                ) from None
            except StoppedError:
                raise DeviceStoppedError("the check was interrupted", device=self.name, command=argv) from None
            except OutputError:
                raise CommandError("a command writes without end", device=self.name, command=argv) from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
            errors.seek(0)
            said = errors.read(MAX_OUTPUT_BYTES)
        return Finished(process.returncode, output.text, as_text(said))

    def free_bytes(self, folder: str) -> int:
        """See :class:`~device_tests.device.Device`."""
        with _translated("df", folder):
            return shutil.disk_usage(folder).free

    def temperature_c(self) -> float | None:
        """Not asked for: this computer's speed is not reported."""
        return None

    def battery_percent(self) -> float | None:
        """Not asked for."""
        return None

    def reconnect(self) -> None:
        """It cannot be lost."""


def _versions() -> Iterator[str]:
    for package in ("onnxruntime", "ai-edge-litert", "tflite-runtime"):
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


def _read(process: subprocess.Popen[bytes], deadline: Deadline, output: Output, errors: int) -> None:
    """All of standard output; raises as :class:`~device_tests.output.Deadline` and ``Output`` do, for errors, too."""
    assert process.stdout is not None  # noqa: S101  (a pipe)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if os.fstat(errors).st_size > MAX_OUTPUT_BYTES:
                raise OutputError
            if not selector.select(deadline.wait_s()):
                continue
            chunk = os.read(process.stdout.fileno(), _CHUNK_BYTES)
            if not chunk:
                break
            output.add(chunk)
    while process.poll() is None:
        time.sleep(min(deadline.wait_s(), _POLL_S))


@contextmanager
def _translated(command: str, path: str) -> Iterator[None]:
    """Turns what the operating system refuses into a device's errors."""
    try:
        yield
    except OSError as error:
        doing, got = f"{command} {path}", error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some, or choose another TMPDIR"
            raise DeviceFullError("no space left", device="local", command=doing, got=got, fix=fix) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "check the permissions"
            raise DevicePermissionError("access refused", device="local", command=doing, got=got, fix=fix) from error
        raise TransferError("a file or program cannot be used", device="local", command=doing, got=got) from error
