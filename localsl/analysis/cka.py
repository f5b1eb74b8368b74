"""Centred kernel alignment (CKA) of the layers of two networks, with the linear kernel.

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),  K = X X^T,  L = Y Y^T

for the flattened features X, Y of the same n images (Kornblith et al. 2019, "Similarity of Neural Network
Representations Revisited"). It is 1 for features that agree up to rotation, reflection and scale.

The biased estimate of HSIC, which that paper uses, is far above 0 for independent features with more dimensions than
there are images; with layers of 16,384 features and 10,000 images it says little. The unbiased estimate (HSIC_1 of
Song et al. 2012, "Feature Selection via Dependence Maximization") is near 0 there. As it is unbiased for any n >= 4,
it can be summed over batches of images before the quotient is taken (Nguyen et al. 2021, "Do Wide and Deep Networks
Learn the Same Things?"), so no matrix of all pairs of images is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from localsl.analysis.layers import outputs

if TYPE_CHECKING:
    from localsl.core.network import LocalNetwork

Hsic = Callable[[Tensor, Tensor], float]


def gram(features: Tensor) -> Tensor:
    """The linear kernel X X^T of centred features (n, ...), as (n, n) float64.

    Neither estimate changes if features are shifted; centring avoids the loss of digits to a large mean.
    """
    x = features.flatten(1).float()
    x = x - x.mean(0)
    return (x @ x.T).double()


def biased_hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """trace(K H L H) / (n - 1)^2, H = 1 - 1/n, of symmetric kernels (n, n)."""
    n = len(k)
    centred = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    return float((centred * l).sum()) / (n - 1) ** 2


def unbiased_hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741
    """HSIC_1 of Song et al. for symmetric kernels (n, n), n >= 4; their diagonals are ignored."""
    n = len(k)
    k_diagonal, l_diagonal = k.diagonal(), l.diagonal()
    k_sums, l_sums = k.sum(0) - k_diagonal, l.sum(0) - l_diagonal
    trace = (k * l).sum() - k_diagonal @ l_diagonal
    sums = k_sums.sum() * l_sums.sum() / ((n - 1) * (n - 2))
    return float(trace + sums - 2 * (k_sums @ l_sums) / (n - 2)) / (n * (n - 3))


def alignment(xy: float, xx: float, yy: float) -> float:
    """CKA from HSIC(K, L), HSIC(K, K) and HSIC(L, L), or from sums of them; NaN if a layer has no variance."""
    return xy / math.sqrt(xx * yy) if xx > 0 and yy > 0 else math.nan


def similarities(
    reference: LocalNetwork,
    networks: Sequence[LocalNetwork],
    batches: Iterable[Sequence[Tensor]],
    hsic: Hsic = unbiased_hsic,
) -> list[list[float]]:
    """CKA of every layer of each network with the same layer of the reference.

    All networks advance layer by layer, so that only one layer's features of each network and a few matrices (n, n)
    are held for a batch of n images.

    Args:
        batches: for each batch, the same images normalised for the reference and for each network, in this order.

    Returns:
        For each network, one value per layer.
    """
    layers = len(reference.backbone.layers)
    sums = torch.zeros(len(networks), layers, 3, dtype=torch.float64)
    for images in batches:
        passes = [outputs(n, x) for n, x in zip((reference, *networks), images, strict=True)]
        for layer, (of_reference, *others) in enumerate(zip(*passes, strict=True)):
            for index, values in enumerate(_hsics(gram(of_reference), others, hsic)):
                sums[index, layer] += torch.tensor(values, dtype=torch.float64)
    return [[alignment(*values) for values in network] for network in sums.tolist()]


def _hsics(reference: Tensor, others: Iterable[Tensor], hsic: Hsic) -> Iterator[tuple[float, float, float]]:
    own = hsic(reference, reference)
    for features in others:
        kernel = gram(features)
        yield hsic(kernel, reference), hsic(kernel, kernel), own
