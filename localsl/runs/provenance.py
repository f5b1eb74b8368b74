"""What made a number, beside its configuration."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and commit: what else a number may depend on."""
    packages = ("torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "tf32": bool(torch.backends.cudnn.allow_tf32) if device.type == "cuda" else None,
        "commit": _commit(),
    }


def device_name(device: torch.device) -> str:
    """What the maker calls the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def short(commit: str | None) -> str:
    """A record's commit in ten digits, with its "+"; empty if it has none."""
    return "" if commit is None else commit[:10] + commit[40:]


def _commit() -> str | None:
    """The commit of the code, with "+" where files differ from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed else "")
