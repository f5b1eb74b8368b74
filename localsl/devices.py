"""Where a configuration runs."""

from __future__ import annotations

import torch


def chosen(name: str) -> torch.device:
    """The device of `cfg.device`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def prepare(device: torch.device) -> None:
    """cuDNN as in the released code: the fastest algorithms among the deterministic ones."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.deterministic = True
