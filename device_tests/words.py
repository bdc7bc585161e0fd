"""What every view of a device check says in the same words."""

from __future__ import annotations

from collections.abc import Mapping

from device_tests.device import DeviceKind
from device_tests.result import DelegateRecord
from device_tests.schema import CellStatus, Verdict

KINDS: Mapping[DeviceKind | None, str] = {
    "android-physical": "physical Android phone",
    "android-emulator": "Android emulator",
    "linux-arm64-emulated": "emulated arm64 Linux device, not a phone",
    "host": "this computer, not a phone",
    None: "not known: it was never reached",
}
EMULATED = (
    "emulated arm64 Linux device reached over real adb: no bionic, no ART, no am, no pm; its speed says nothing about "
    "a phone's"
)
SIGNS: Mapping[CellStatus | Verdict, str] = {
    "passed": "✓",
    "failed": "✗",
    "not run": "–",
    "latency only": "–",
    "not judged": "–",
}


def delegate_words(delegate: DelegateRecord | None) -> str:
    """``XNNPACK took 27 of 28 nodes``; ``none``; ``–`` where nothing ran that could tell."""
    if delegate is None:
        return "–"
    if delegate.name is None:
        return "none"
    if delegate.nodes_taken is None:
        return f"{delegate.name}, nodes not known"
    of = "" if delegate.nodes is None else f" of {delegate.nodes}"
    return f"{delegate.name} took {delegate.nodes_taken}{of} nodes"
