"""Configurations of a folder of pictures, and the batches that are made of it on the CPU."""

import torch

from localsl.config import compose
from localsl.data import feed, loading
from localsl.execution.processes import WHOLE

CPU = torch.device("cpu")
SMALL = ["batch_size=4", "dataset.workers=0", "backbone=resnet20", "K=4", "device=cpu", "schedule=smoke"]


def folder_config(root, *more):
    """The configuration of a small network on the folder of pictures `root`."""
    return compose(["dataset=imagefolder", f"dataset.root={root}", "dataset.image_size=16", *SMALL, *more])


def epoch_batches(cfg, number=1, skip=0, part=WHOLE):
    """The training batches of epoch `number`, without the first `skip`."""
    batches = feed.train_batches(loading.load(cfg).train, cfg, CPU, torch.contiguous_format, part)
    found = list(batches.epoch(cfg.seed, number, skip))
    batches.close()
    return found


def evaluation_batches(cfg, part=WHOLE):
    """The batches of the test pictures."""
    batches = feed.test_batches(loading.load(cfg).test, cfg, CPU, torch.contiguous_format, part)
    found = list(batches)
    batches.close()
    return found


def assert_same_batches(found, expected):
    """Equal images and targets, bit for bit."""
    assert len(found) == len(expected)
    for (images, targets), (expected_images, expected_targets) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images)
        assert torch.equal(targets, expected_targets)
