"""Where to train: ``auto`` takes CUDA, then Apple's MPS, then the CPU; and in which arithmetic."""

from __future__ import annotations

import torch

from hetero.errors import ConfigError


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
