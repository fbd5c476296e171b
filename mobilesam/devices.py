"""The devices that models run on."""

from __future__ import annotations

import torch

from mobilesam.errors import UsageError


def usable_device(device: str | torch.device) -> torch.device:
    """Checks that torch can use a device here.

    Args:
        device: Such as `cpu`, `cuda:1` or `mps`; `meta` is for shapes alone.

    Raises:
        UsageError: The device is unknown, or not present.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    # Raised by torch for an unknown name, a build without the backend, and a missing driver.
    except (AssertionError, ImportError, NotImplementedError, RuntimeError) as error:
        reason = str(error).split("\n")[0].split(". ")[0].rstrip(".")
        raise UsageError(
            f"device {str(device)!r} cannot be used here: {reason}; use cpu"
        ) from error
    return found
