"""Progress for people: a rich bar on a terminal, plain lines otherwise; always on stderr, never on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_PLAIN_INTERVAL_S = 10.0  # a log file stays readable


@runtime_checkable
class Progress(Protocol):
    """What a long job tells about itself."""

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        """A phase of ``total`` steps begins, ``done`` of them already."""

    def advance(self, done: int, *, losses: Mapping[str, float], images_per_s: float) -> None:
        """``done`` steps are done."""

    def finish(self) -> None:
        """The phase ended."""


class SilentProgress:
    """Says nothing: for tests and callers with their own display."""

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        """See :class:`Progress`."""

    def advance(self, done: int, *, losses: Mapping[str, float], images_per_s: float) -> None:
        """See :class:`Progress`."""

    def finish(self) -> None:
        """See :class:`Progress`."""


class PlainProgress:
    """A line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        """See :class:`Progress`."""
        self._name, self._total, self._first = name, total, done
        self._began = time.monotonic()
        self._printed = self._began - _PLAIN_INTERVAL_S
        resumed = f", resumed after step {done}" if done else ""
        self._console.print(f"{name}: {total} steps{resumed}")

    def advance(self, done: int, *, losses: Mapping[str, float], images_per_s: float) -> None:
        """See :class:`Progress`."""
        now = time.monotonic()
        if now - self._printed < _PLAIN_INTERVAL_S and done < self._total:
            return
        self._printed = now
        left_s = (now - self._began) / max(1, done - self._first) * (self._total - done)
        self._console.print(
            f"{self._name}: step {done}/{self._total}, {describe(losses)}, {images_per_s:.0f} images/s, "
            f"{left_s:.0f} s left"
        )

    def finish(self) -> None:
        """See :class:`Progress`."""


class BarProgress:
    """A live bar with loss, images/s and time left."""

    def __init__(self, console: Console) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
        )

    def start(self, name: str, *, total: int, done: int = 0) -> None:
        """See :class:`Progress`."""
        self._bar.start()
        self._task = self._bar.add_task(name, total=total, completed=done, status="")

    def advance(self, done: int, *, losses: Mapping[str, float], images_per_s: float) -> None:
        """See :class:`Progress`."""
        self._bar.update(self._task, completed=done, status=f"{describe(losses)}, {images_per_s:.0f} images/s")

    def finish(self) -> None:
        """See :class:`Progress`."""
        self._bar.stop()


def describe(losses: Mapping[str, float]) -> str:
    """``"gallery 1.234"``, or several joined."""
    return "loss " + ", ".join(f"{name} {value:.3f}" for name, value in losses.items())


def stderr_progress() -> Progress:
    """The display that fits where stderr goes."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return BarProgress(console) if sys.stderr.isatty() else PlainProgress(console)
