"""Checkpoints of a run: written atomically, verified when read; the newest two are kept."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from localsl.core.settings import first_line
from localsl.execution.files import replacing
from localsl.runs import identity

if TYPE_CHECKING:
    from localsl.config.schema import Config

# Whatever ended a run may have damaged its newest checkpoint; the run then resumes from the one before it.
KEPT = 2

NAME = re.compile(r"epoch=(\d+)-step=(\d+)-([0-9a-f]{16})\.pt")


class Checkpoints:
    """The checkpoints of a run: RUN/checkpoints/epoch=<complete epochs>-step=<steps of the next>-<digest>.pt.

    A file is a dict for `torch.load(file, weights_only=True)`: `config` is the run's configuration as YAML; the
    other entries are the saved state. The digest is the first 16 digits of the file's SHA-256.
    """

    def __init__(self, cfg: Config, run: Path | None = None):
        """`run` is the folder of the run, by default the one that `cfg` determines."""
        self._cfg = cfg
        self._folder = (run or identity.run_directory(cfg)) / "checkpoints"

    @property
    def has_intact(self) -> bool:
        """Whether any checkpoint of the run is intact."""
        return any(_is_intact(f, f.read_bytes()) for f in self._files())

    def save(self, state: dict[str, Any], epochs: int, steps: int) -> None:
        """Write the state after `epochs` epochs and `steps` steps of the next; keep only the `KEPT` newest."""
        buffer = io.BytesIO()
        torch.save({"config": OmegaConf.to_yaml(asdict(self._cfg)), **on_cpu(state)}, buffer)
        self._folder.mkdir(exist_ok=True)
        # If a write fails, Python 3.12.1 crashes when the garbage collector releases this view after its buffer.
        with buffer.getbuffer() as data:
            file = self._folder / f"epoch={epochs}-step={steps}-{_digest(data)}.pt"
            with replacing(file) as temporary, temporary.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        _flush(self._folder)
        self.keep(KEPT)

    def keep(self, count: int) -> None:
        """Remove all but the `count` newest checkpoints, and temporary files of killed processes."""
        for file in [*self._files()[count:], *self._folder.glob(".*")]:
            file.unlink(missing_ok=True)

    def newest(self, *, set_aside: bool = False) -> dict[str, Any] | None:
        """The newest intact state of this configuration; a warning names every skipped file.

        Args:
            set_aside: rename skipped files to *.rejected, so that they do not count among those that are kept.
        """
        for file in self._files():
            state = self._read(file)
            if state is not None:
                return state
            if set_aside:
                file.rename(file.with_suffix(".rejected"))
        return None

    def _files(self) -> list[Path]:
        """All checkpoints, newest first."""
        found = ((NAME.fullmatch(file.name), file) for file in self._folder.glob("*.pt"))
        dated = [((int(m[1]), int(m[2])), file.stat().st_mtime_ns, file) for m, file in found if m]
        return [file for *_, file in sorted(dated, reverse=True)]

    def _read(self, file: Path) -> dict[str, Any] | None:
        data = file.read_bytes()
        if not _is_intact(file, data):
            print(f"warning: the checkpoint {file} is damaged and is skipped", file=sys.stderr)
            return None
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            # No run wrote this file: weights_only rejects anything that could execute code.
            what = first_line(error)
            print(f"warning: {file} is not a checkpoint and is skipped ({what})", file=sys.stderr)
            return None
        if "processes" not in state:
            print(f"warning: {file} was written by an earlier version and is skipped", file=sys.stderr)
            return None
        differences = _differing(
            asdict(self._cfg), OmegaConf.to_container(OmegaConf.create(state.pop("config")))
        )
        if differences:
            print(f"warning: {file} belongs to another run and is skipped: {differences}", file=sys.stderr)
            return None
        return state


def weights(folder: Path) -> dict[str, Tensor] | None:
    """The weights in the newest intact checkpoint of a run's folder; None if there is none."""
    files = sorted(
        (folder / "checkpoints").glob("*.pt"), key=lambda file: file.stat().st_mtime_ns, reverse=True
    )
    for file in files:
        data = file.read_bytes()
        if _is_intact(file, data):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["network"]
    return None


def on_cpu(state: dict[str, Any], away: Callable[[Tensor], bool] = lambda t: t.is_cuda) -> dict[str, Any]:
    """Copy the tensors of a state for which `away` is true to the CPU, with a single copy for each dtype.

    Copied one by one, the 2,307 tensors of MLAAN would each wait for the GPU.
    """
    found, structure = tree_flatten(state)
    by_type: dict[torch.dtype, list[int]] = {}
    for place, leaf in enumerate(found):
        if isinstance(leaf, Tensor) and away(leaf):
            by_type.setdefault(leaf.dtype, []).append(place)
    for places in by_type.values():
        tensors = [found[place].detach() for place in places]
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]).cpu()
        for place, tensor, part in zip(places, tensors, flat.split([t.numel() for t in tensors]), strict=True):
            found[place] = part.view(tensor.shape)
    return tree_unflatten(found, structure)


def _is_intact(file: Path, data: bytes) -> bool:
    name = NAME.fullmatch(file.name)
    return name is not None and _digest(data) == name[3]


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _flush(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _differing(own: dict[str, Any], stored: Any) -> str:
    ours, theirs = dict(identity.leaves(own)), dict(identity.leaves(stored))
    keys = identity.differing(own, stored)
    return ", ".join(f"{key} is {theirs.get(key)} there, but {ours.get(key)} in this run" for key in keys)
