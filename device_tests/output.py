"""Waiting for a command: until when, who may end it early, and what it writes, line by line and not without end."""

from __future__ import annotations

import threading
import time

from device_tests.device import OnLine

MAX_OUTPUT_BYTES = 1 << 26  # of one command; a runner writes a line a second
_LONGEST_LINE_BYTES = 1 << 14  # of what is told live
_POLL_S = 0.25  # how soon a wish to stop is noticed


class StoppedError(Exception):
    """Whoever asked for the command does not want it any more."""


class OutputError(Exception):
    """A command writes more than anyone can keep."""


class Deadline:
    """A moment, and a wish to stop before it."""

    def __init__(self, timeout_s: float, stop: threading.Event | None = None) -> None:
        self._until, self._stop = time.monotonic() + timeout_s, stop

    def wait_s(self) -> float:
        """How long to wait before asking again.

        Raises:
            TimeoutError: the moment is over. StoppedError: somebody wished so.
        """
        if self._stop is not None and self._stop.is_set():
            raise StoppedError
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, _POLL_S)


class Output:
    """What a command wrote, told line by line as it comes."""

    def __init__(self, on_line: OnLine | None = None) -> None:
        self._on_line = on_line
        self._parts: list[bytes] = []
        self._size = 0
        self._line = b""

    def add(self, data: bytes) -> None:
        """More of it.

        Raises:
            OutputError: it is too much.
        """
        self._size += len(data)
        if self._size > MAX_OUTPUT_BYTES:
            raise OutputError
        self._parts.append(data)
        if self._on_line is not None:
            *lines, self._line = (self._line + data).split(b"\n")
            self._line = self._line[-_LONGEST_LINE_BYTES:]
            for line in lines:
                self._on_line(as_text(line))

    @property
    def text(self) -> str:
        """All of it."""
        return as_text(b"".join(self._parts))


def as_text(data: bytes) -> str:
    """UTF-8 with line ends ``\\n``, whatever the device writes."""
    return data.decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\r")
