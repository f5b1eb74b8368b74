"""Local losses as pure functions of tensors, besides cross-entropy, which is torch's own."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F


def reconstruction(logits: Tensor, pixels: Tensor) -> Tensor:
    """The mean binary cross-entropy between a decoder's output before its sigmoid and pixels in [0, 1].

    Both are (N, 3, H, W). The loss is that of InfoPro (Wang et al. 2021); computing it from logits gives the same
    value and is stable in half precision.
    """
    return F.binary_cross_entropy_with_logits(logits, pixels)


def similarity_matrix(features: Tensor) -> Tensor:
    """Cosine similarities between the samples of a batch, (N, N) in [-1, 1].

    Features (N, C, H, W) with C > 3 and H > 1 are reduced to the standard deviation of each channel over its
    positions; all others are flattened. Each sample is then centred by its own mean. This follows the code of
    Nøkland and Eidnes 2019 (PredSim).
    """
    with _in_fp32(features):
        x = features.float()
        if x.ndim == 4 and x.shape[1] > 3 and x.shape[2] > 1:
            # On a GPU, std over a strided dimension allocates a buffer several times the size of the features.
            x = x.flatten(2).contiguous().std(2)
        x = x.flatten(1)
        x = x - x.mean(1, keepdim=True)
        norm = cast("Tensor", x.norm(dim=1, keepdim=True))  # pyright: ignore[reportUnknownMemberType]
        x = x / (1e-8 + norm)
        return (x @ x.T).clamp(-1, 1)


def similarity_matching(features: Tensor, target: Tensor) -> Tensor:
    """PredSim's "sim" loss: the mean squared difference of the features' similarities and `target` (N, N)."""
    return (similarity_matrix(features) - target).square().mean()


def supervised_contrastive(features: Tensor, targets: Tensor, temperature: float = 0.07) -> Tensor:
    """The supervised contrastive loss of features (N, D), which are normalised here (Khosla et al. 2020).

    Each sample has one view, and its positives are the other samples of its class in the batch. As in InfoPro's
    code, a sample without positives contributes 0 and still counts in the mean.
    """
    with _in_fp32(features):
        z = F.normalize(features.float(), dim=1)
        similarity = z @ z.T
    diagonal = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (similarity / temperature).masked_fill(diagonal, -torch.inf)
    log_probability = logits - logits.logsumexp(1, keepdim=True)
    positive = (targets[:, None] == targets[None, :]) & ~diagonal
    per_anchor = torch.where(positive, log_probability, 0).sum(1) / positive.sum(1).clamp(min=1)
    return -per_anchor.mean()


def _in_fp32(features: Tensor) -> torch.autocast:
    """Disable autocast, since half precision is too coarse for products that compare samples."""
    return torch.autocast(features.device.type, enabled=False)
