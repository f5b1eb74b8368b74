"""A split of a data set in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Subsets belong to the data set, not to a run: they are the same for every seed of a run.
SUBSET_SEED = 0


@dataclass(frozen=True)
class Split:
    """Images (N, 3, H, W) uint8 and their classes (N,) int64, in memory."""

    images: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Tensor | slice) -> Split:
        return Split(self.images[index], self.targets[index])

    def to(self, device: torch.device) -> Split:
        """Copy the split to `device`."""
        return Split(self.images.to(device), self.targets.to(device))
