"""Loss functions agree with values of the published implementations and with direct formulas."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from localsl.core import losses

LABELS = torch.tensor([0, 1, 2, 0, 1, 1])


def wave(*shape):
    k = np.arange(np.prod(shape))
    return torch.from_numpy(np.sin(0.37 * k) + 0.5 * np.cos(1.11 * k)).reshape(shape)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((6, 8, 4, 4), 0.5221226464834658),
        ((6, 3, 4, 4), 0.6209676272874387),  # maps of at most three channels are flattened
        ((6, 8, 1, 1), 0.8122393598405527),  # maps of a single position are flattened too
        ((6, 8), 0.8122393598405527),
    ],
)
def test_similarity_matching_has_the_published_value(shape, expected):
    target = losses.similarity_matrix(F.one_hot(LABELS, 10))
    assert float(losses.similarity_matching(wave(*shape), target)) == pytest.approx(expected, rel=1e-5)


def test_similarities_are_computed_from_contiguous_maps_whatever_their_memory_format(monkeypatch):
    maps, reduced, std = wave(6, 8, 4, 4), [], torch.Tensor.std
    monkeypatch.setattr(torch.Tensor, "std", lambda x, *dim: reduced.append(x) or std(x, *dim))
    contiguous = losses.similarity_matrix(maps)
    channels_last = losses.similarity_matrix(maps.contiguous(memory_format=torch.channels_last))
    assert torch.equal(contiguous, channels_last)
    assert [x.is_contiguous() for x in reduced] == [True, True]


def test_contiguous_maps_are_not_copied(monkeypatch):
    maps, reduced, std = wave(6, 8, 4, 4).float(), [], torch.Tensor.std
    monkeypatch.setattr(torch.Tensor, "std", lambda x, *dim: reduced.append(x.data_ptr()) or std(x, *dim))
    losses.similarity_matrix(maps)
    assert reduced == [maps.data_ptr()]


def test_target_similarity_of_one_hot_labels():
    target = losses.similarity_matrix(F.one_hot(LABELS, 10))
    expected = [1, -1 / 9, -1 / 9, 1, -1 / 9, -1 / 9]
    assert target[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_supervised_contrastive_has_the_published_value_and_follows_its_formula():
    features = wave(6, 8)
    assert float(losses.supervised_contrastive(features, LABELS)) == pytest.approx(16.402803610816626, rel=1e-5)
    z = F.normalize(features, dim=1)
    total = 0.0
    for i in range(6):
        others = [a for a in range(6) if a != i]
        log_denominator = torch.logsumexp(torch.stack([z[i] @ z[a] / 0.07 for a in others]), 0)
        positives = [p for p in others if LABELS[p] == LABELS[i]]
        if positives:
            total -= sum(float(z[i] @ z[p] / 0.07 - log_denominator) for p in positives) / len(positives)
    assert float(losses.supervised_contrastive(features, LABELS)) == pytest.approx(total / 6, rel=1e-5)


def test_a_batch_without_positives_has_no_contrastive_loss_and_a_finite_gradient():
    features = wave(3, 8).requires_grad_()
    loss = losses.supervised_contrastive(features, torch.arange(3))
    loss.backward()
    assert float(loss.detach()) == 0
    assert features.grad is not None
    assert bool((features.grad == 0).all())


def test_reconstruction_is_the_cross_entropy_of_the_sigmoid():
    logits, pixels = wave(2, 3, 4, 4), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    expected = F.binary_cross_entropy(torch.sigmoid(logits), pixels)
    assert float(losses.reconstruction(logits, pixels)) == pytest.approx(float(expected))


def test_losses_between_samples_stay_in_fp32_under_autocast():
    features = wave(6, 8).float()

    def losses_of():
        matrix = losses.similarity_matrix(features)
        return matrix, losses.supervised_contrastive(features, LABELS)

    with torch.autocast("cpu", torch.bfloat16):
        autocast = losses_of()
    for found, expected in zip(autocast, losses_of(), strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
