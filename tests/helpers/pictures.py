"""Batches of pictures on disk."""

import torch

from localsl import data
from localsl.config import compose
from localsl.data import feed
from localsl.execution.processes import WHOLE

CPU = torch.device("cpu")
SMALL = ["batch_size=4", "dataset.workers=0", "backbone=resnet20", "K=4", "device=cpu", "schedule=smoke"]


def typed(root, *more):
    """The configuration of a small network on a folder of pictures."""
    return compose(["dataset=imagefolder", f"dataset.root={root}", "dataset.image_size=16", *SMALL, *more])


def epoch(cfg, number=1, skip=0, part=WHOLE):
    """One epoch's batches, on the CPU."""
    batches = feed.train_batches(data.load(cfg).train, cfg, CPU, torch.contiguous_format, part)
    found = list(batches.epoch(cfg.seed, number, skip))
    batches.close()
    return found


def evaluated(cfg, part=WHOLE):
    """The batches of the test pictures, on the CPU."""
    batches = feed.test_batches(data.load(cfg).test, cfg, CPU, torch.contiguous_format, part)
    found = list(batches)
    batches.close()
    return found


def same(one, other):
    """Equal batches."""
    assert len(one) == len(other)
    for (images, targets), (others, labels) in zip(one, other, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(targets, labels)
