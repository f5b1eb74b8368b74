"""Linear probes: the linear separability of the classes after each local layer of a trained network.

The network is frozen and in evaluation mode. The features of a layer are averaged over the image, to one value per
channel, and a linear classifier is fitted to those of the training images without augmentation. None of the papers
(AugLocal Figure 4, MAN Figure 6, MLAAN Figure 5) states its recipe; this one has no randomness and no learning rate:

    features in float64, standardised by mean and standard deviation over the training images;
    multinomial logistic regression from zero weights: mean cross-entropy + penalty / 2 * sum of squared weights,
    without the biases;
    L-BFGS over all images at once, with a strong-Wolfe line search, for `iterations` steps or until convergence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from localsl.analysis.layers import outputs

if TYPE_CHECKING:
    from localsl.core.network import LocalNetwork


def pooled(network: LocalNetwork, batches: Iterable[Tensor]) -> list[Tensor]:
    """The features of every layer averaged over the image, (N, C) each, from one pass over normalised images."""
    parts = [[x.mean((2, 3)) for x in outputs(network, images)] for images in batches]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, C) and (M, C), standardised by the mean and deviation of the first; constant ones become 0."""
    train, test = train.double(), test.double()
    mean, std = train.mean(0), train.std(0, correction=0)
    std = torch.where(std > 1e-12 * train.abs().amax(0), std, torch.inf)
    return (train - mean) / std, (test - mean) / std


def fitted(x: Tensor, targets: Tensor, classes: int, iterations: int, penalty: float) -> tuple[Tensor, Tensor]:
    """The weights (classes, C) and biases (classes,) of a logistic regression of targets (N,) on features (N, C)."""
    weights = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    biases = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, biases], max_iter=iterations, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weights.T + biases, targets) + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return weights.detach(), biases.detach()


def accuracy(x: Tensor, targets: Tensor, weights: Tensor, biases: Tensor) -> float:
    """The accuracy of a linear classifier, in per cent."""
    correct = ((x @ weights.T + biases).argmax(1) == targets).sum()
    return 100 * int(correct) / len(targets)


def separability(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, iterations: int, penalty: float
) -> tuple[float, float]:
    """Training and test accuracy, in per cent, of a probe on features (N, C) and targets (N,)."""
    x, y = standardised(train[0], test[0])
    probe = fitted(x, train[1], classes, iterations, penalty)
    return accuracy(x, train[1], *probe), accuracy(y, test[1], *probe)
