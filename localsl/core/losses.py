"""Local losses as pure functions of tensors. Cross-entropy is torch's own."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F


def reconstruction(logits: Tensor, pixels: Tensor) -> Tensor:
    """Mean binary cross-entropy between a decoder's picture, before its sigmoid, and pixels in [0, 1].

    InfoPro, Wang et al. 2021. From logits because that is stable in half precision; the value is the same.
    Both (N, 3, H, W).
    """
    return F.binary_cross_entropy_with_logits(logits, pixels)


def similarity_matrix(features: Tensor) -> Tensor:
    """Cosine similarities between the samples of a batch, (N, N) in [-1, 1].

    Maps (N, C, H, W) with C > 3 and H > 1 are summarised by each channel's standard deviation over its
    positions; anything else is flattened. Each sample is centred over its features first. Nøkland and
    Eidnes 2019, as its code does.
    """
    with _in_fp32(features):
        x = features.float()
        if x.ndim == 4 and x.shape[1] > 3 and x.shape[2] > 1:
            # Over a dimension whose values are apart, a GPU's kernel takes a buffer several times the maps' size.
            x = x.flatten(2).contiguous().std(2)
        x = x.flatten(1)
        x = x - x.mean(1, keepdim=True)
        length = cast("Tensor", x.norm(dim=1, keepdim=True))  # pyright: ignore[reportUnknownMemberType]
        x = x / (1e-8 + length)
        return (x @ x.T).clamp(-1, 1)


def similarity_matching(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the features' similarities to `target`, (N, N): PredSim's "sim" loss."""
    return (similarity_matrix(features) - target).square().mean()


def supervised_contrastive(features: Tensor, targets: Tensor, temperature: float = 0.07) -> Tensor:
    """Khosla et al. 2020 with one view a sample, positives from the batch, features (N, D) of any length.

    An anchor without another sample of its class adds 0, and still counts in the mean. InfoPro's code.
    """
    with _in_fp32(features):
        z = F.normalize(features.float(), dim=1)
        similarity = z @ z.T
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (similarity / temperature).masked_fill(itself, -torch.inf)
    log_probability = logits - logits.logsumexp(1, keepdim=True)
    positive = (targets[:, None] == targets[None, :]) & ~itself
    per_anchor = torch.where(positive, log_probability, 0).sum(1) / positive.sum(1).clamp(min=1)
    return -per_anchor.mean()


def _in_fp32(features: Tensor) -> torch.autocast:
    """Without autocast: in half precision the products of samples are too coarse to tell them apart."""
    return torch.autocast(features.device.type, enabled=False)
