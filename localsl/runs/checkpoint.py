"""Checkpoints of a run: written whole or not at all, checked when read, two kept."""

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
from localsl.runs import identity

if TYPE_CHECKING:
    from localsl.config.schema import Config

# The newest may be damaged by what ended the run: the one before it is then the way back.
KEPT = 2

NAME = re.compile(r"epoch=(\d+)-step=(\d+)-([0-9a-f]{16})\.pt")


class Checkpoints:
    """The checkpoints of a run, RUN/checkpoints/epoch=<epochs done>-step=<steps of the next>-<digest>.pt.

    A file is a dict for `torch.load(file, weights_only=True)`: `config` is the run's configuration as YAML, the
    rest is the state that was saved. The digest in its name is the first 16 digits of its SHA-256.
    """

    def __init__(self, cfg: Config, run: Path | None = None):
        """Of a configuration's run; `run` is its folder where that is not in `cfg.output_dir`."""
        self._cfg = cfg
        self._folder = (run or identity.run_directory(cfg)) / "checkpoints"

    @property
    def lacking(self) -> bool:
        """Whether the run must have one, and has none that is whole."""
        return self._cfg.checkpoint.required and not any(_is_whole(f, f.read_bytes()) for f in self._files())

    def save(self, state: dict[str, Any], epochs: int, steps: int) -> None:
        """Write a state after `epochs` whole epochs and `steps` steps more; of the older ones one stays."""
        buffer = io.BytesIO()
        torch.save({"config": OmegaConf.to_yaml(asdict(self._cfg)), **on_cpu(state)}, buffer)
        self._folder.mkdir(exist_ok=True)
        # Released before the buffer in any case: Python 3.12.1 crashes where a failed write leaves that to its
        # garbage collector.
        with buffer.getbuffer() as data:
            file = self._folder / f"epoch={epochs}-step={steps}-{_digest(data)}.pt"
            beside = file.with_suffix(".partial")
            with beside.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
        beside.replace(file)
        _sync(self._folder)
        self.keep(KEPT)

    def keep(self, count: int) -> None:
        """Remove all but the newest ones, and what a killed process left half-written."""
        for file in [*self._files()[count:], *self._folder.glob("*.partial")]:
            file.unlink(missing_ok=True)

    def newest(self, *, set_aside: bool = False) -> dict[str, Any] | None:
        """The newest state that is whole and of this very configuration; what is passed over is told.

        Args:
            set_aside: rename what is passed over to *.rejected: for a run that goes on, which would keep it in
                place of a new one.
        """
        for file in self._files():
            state = self._read(file)
            if state is not None:
                return state
            if set_aside:
                file.rename(file.with_suffix(".rejected"))
        return None

    def _files(self) -> list[Path]:
        """Newest first."""
        found = ((NAME.fullmatch(file.name), file) for file in self._folder.glob("*.pt"))
        dated = [((int(m[1]), int(m[2])), file.stat().st_mtime_ns, file) for m, file in found if m]
        return [file for *_, file in sorted(dated, reverse=True)]

    def _read(self, file: Path) -> dict[str, Any] | None:
        data = file.read_bytes()
        if not _is_whole(file, data):
            print(f"warning: the checkpoint {file} is damaged and passed over", file=sys.stderr)
            return None
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            # No run wrote this: weights_only refuses whatever could execute something.
            what = first_line(error)
            print(f"warning: {file} is no checkpoint and passed over ({what})", file=sys.stderr)
            return None
        if "processes" not in state:
            print(f"warning: {file} is of an earlier version and passed over", file=sys.stderr)
            return None
        foreign = _differing(asdict(self._cfg), OmegaConf.to_container(OmegaConf.create(state.pop("config"))))
        if foreign:
            print(f"warning: {file} is of another run and passed over: {foreign}", file=sys.stderr)
            return None
        return state


def weights(folder: Path) -> dict[str, Tensor] | None:
    """The weights in the newest whole checkpoint of a run's folder; None where there is none."""
    files = sorted(
        (folder / "checkpoints").glob("*.pt"), key=lambda file: file.stat().st_mtime_ns, reverse=True
    )
    for file in files:
        data = file.read_bytes()
        if _is_whole(file, data):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["network"]
    return None


def on_cpu(state: dict[str, Any], away: Callable[[Tensor], bool] = lambda t: t.is_cuda) -> dict[str, Any]:
    """The state with the tensors that are `away` brought to the CPU, all of one type by a single copy.

    One by one, MLAAN's 2,307 would each wait for the GPU.
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


def _is_whole(file: Path, data: bytes) -> bool:
    name = NAME.fullmatch(file.name)
    return name is not None and _digest(data) == name[3]


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _sync(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _differing(here: dict[str, Any], there: Any) -> str:
    ours, theirs = dict(identity.leaves(here)), dict(identity.leaves(there))
    keys = identity.differing(here, there)
    return ", ".join(f"{key} is {theirs.get(key)} there and {ours.get(key)} here" for key in keys)
