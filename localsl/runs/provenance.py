"""What made a number, beside its configuration."""

from __future__ import annotations

import os
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
        "commit": commit(),
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


def commit() -> str | None:
    """The commit of the code, with "+" where files other than results differ from it.

    Outside a repository that holds it what the variable LOCALSL_COMMIT says, None where that is not set. A copy
    without a repository may lie inside of somebody's own, which knows nothing of it.
    """
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    # Of a hook that runs this, they would name its repository in place of the one around the code.
    names = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    bare: dict[str, Any] = {
        "env": {k: v for k, v in os.environ.items() if k not in names},
        "capture_output": True,
    }
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, **bare)
        head = subprocess.run([*git, "rev-parse", "HEAD"], text=True, check=True, **bare)
        code = [":/", ":(top,exclude)results"]
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], **bare).returncode
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LOCALSL_COMMIT") or None
    return head.stdout.strip() + ("+" if changed else "")
