"""Where to train: ``auto`` takes CUDA, then Apple's MPS, then the CPU; and in which arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch

from hetero.errors import ConfigError

_log = logging.getLogger(__name__)
_BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def resolve_device(name: str) -> torch.device:
    """The torch device of a config's ``device``.

    Raises:
        ConfigError: a device that this machine or this torch build does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    if not available.get(name, False):
        raise ConfigError(
            f"device {name!r} is not available",
            expected=" or ".join(kind for kind, present in available.items() if present),
            fix="use device: auto, or install the torch build for your hardware",
        )
    return torch.device(name)


def autocast_dtype(device: torch.device, precision: str) -> torch.dtype | None:
    """bfloat16 (no loss scaling needed) or None, full precision, for a config's ``precision`` on a device."""
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bfloat16" or (precision == "auto" and capable):
        return torch.bfloat16
    return None


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether this is an x86 CPU without instructions for bfloat16: training in it is then much slower than float32."""
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return found.get("architecture") == "x86_64" and not any(found.get(name) for name in _BFLOAT16_INSTRUCTIONS)


def warn_of_emulation(device: torch.device, precisions: Mapping[str, str]) -> None:
    """Log a warning where a config's keys (to their values) ask for ``bfloat16`` and the processor emulates it."""
    asking = [key for key, precision in precisions.items() if precision == "bfloat16"]
    if asking and emulates_bfloat16(device):
        _log.warning(
            "this processor has no instructions for bfloat16 and is much slower in it than in float32: add --set %s",
            " --set ".join(f"{key}=float32" for key in asking),
        )
