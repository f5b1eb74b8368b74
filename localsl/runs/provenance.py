"""Versions, device and commit, recorded with every run."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """The versions, device, threads and commit on which a run's numbers may depend."""
    packages = ("torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "tf32": bool(torch.backends.cudnn.allow_tf32) if device.type == "cuda" else None,
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """The manufacturer's name of the processor or GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def short(commit: str | None) -> str:
    """A recorded commit shortened to ten digits, with its "+" if any; empty for None."""
    return "" if commit is None else commit[:10] + commit[40:]


def commit() -> str | None:
    """The commit of the code, with "+" if files other than results differ from it.

    Without a repository that tracks this file, it is the environment variable LOCALSL_COMMIT, or None. A copy of the
    package may lie inside an unrelated repository, whose commit would be wrong.
    """
    file = Path(__file__)
    git = ["git", "-C", str(file.parent)]
    # Inside a git hook, these variables would select the repository of the hook.
    names = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    options: dict[str, Any] = {
        "env": {k: v for k, v in os.environ.items() if k not in names},
        "capture_output": True,
    }
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], check=True, **options)
        head = subprocess.run([*git, "rev-parse", "HEAD"], text=True, check=True, **options)
        code = [":/", ":(top,exclude)results"]
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *code], **options).returncode
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("LOCALSL_COMMIT") or None
    return head.stdout.strip() + ("+" if changed else "")
