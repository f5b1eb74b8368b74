"""Augmented batches equal torchvision's transforms, image by image, and each image comes once in an epoch."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from localsl.config import compose
from localsl.data.batches import Draw, TestBatches, TrainBatches
from localsl.data.splits import Split
from localsl.execution.processes import Part

CPU = torch.device("cpu")


def noise(count, size):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count) % 10)


def by_torchvision(image, top, left, flip, dataset):
    """The released code's pipeline: pad, crop and flip as a PIL image, convert to a tensor, normalise."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    mode = "reflect" if dataset.padding_mode == "reflect" else "constant"
    picture = tv.pad(picture, [dataset.padding] * 4, padding_mode=mode)
    picture = tv.crop(picture, top, left, dataset.image_size, dataset.image_size)
    picture = tv.hflip(picture) if flip else picture
    mean, std = (np.float32(np.array(v)) / 255 for v in (dataset.mean, dataset.std))
    return tv.normalize(tv.to_tensor(picture), mean.tolist(), std.tolist())


@pytest.mark.parametrize(
    ("name", "padding", "mode", "flip"),
    [
        ("digits", 1, "zero", False),
        ("cifar10", 4, "reflect", True),
        ("svhn", 2, "zero", False),
        ("stl10", 4, "zero", True),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_augmented_images_equal_torchvisions(name, padding, mode, flip, layout):
    dataset = compose([f"dataset={name}"]).dataset
    assert (dataset.padding, dataset.padding_mode, dataset.flip) == (padding, mode, flip)
    split = noise(24, dataset.image_size)
    batches = TrainBatches(split, dataset, 24, CPU, layout)
    draw = Draw.of(24, dataset, seed=0, epoch=1)
    ours = batches.augmented(draw.order, draw.top, draw.left, draw.flip)
    assert ours.is_contiguous(memory_format=layout)
    assert bool(draw.flip.any()) is flip
    for row, image in enumerate(ours):
        source = split.images[draw.order[row]]
        top, left, mirrored = int(draw.top[row]), int(draw.left[row]), bool(draw.flip[row])
        assert torch.equal(image, by_torchvision(source, top, left, mirrored, dataset))


def test_test_images_are_only_normalised():
    dataset = compose(["dataset=cifar10"]).dataset
    split = noise(5, 32)
    (images, targets), (last_images, _) = TestBatches(split, dataset, 3, CPU)
    for source, image in zip(split.images, torch.cat([images, last_images]), strict=True):
        assert torch.equal(image, by_torchvision(source, 4, 4, False, dataset))
    assert targets.tolist() == [0, 1, 2]


def test_offsets_cover_the_whole_padded_image():
    dataset = compose(["dataset=cifar10"]).dataset
    draw = Draw.of(5000, dataset, seed=0, epoch=1)
    for corner in (draw.top, draw.left):
        assert corner.unique().tolist() == list(range(9))
        assert float(corner.double().mean()) == pytest.approx(4, abs=0.2)
    assert float(draw.flip.double().mean()) == pytest.approx(0.5, abs=0.05)


def test_an_epochs_batches_depend_on_the_seed_and_the_epoch_alone():
    dataset = compose(["dataset=cifar10"]).dataset
    batches = TrainBatches(noise(10, 32), dataset, 4, CPU)
    state = torch.get_rng_state()
    one, two = list(batches.epoch(0, 1)), list(batches.epoch(0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, two, strict=True))
    for other in (batches.epoch(0, 2), batches.epoch(1, 1)):
        assert not torch.equal(one[0][0], next(other)[0])


def test_every_image_comes_once_and_the_last_batch_is_kept():
    dataset = compose().dataset
    split = Split(noise(10, 8).images, torch.arange(10))
    batches = TrainBatches(split, dataset, 4, CPU)
    targets = [t for _, t in batches.epoch(0, 1)]
    assert [len(t) for t in targets] == [4, 4, 2]
    assert len(batches) == 3
    assert sorted(torch.cat(targets).tolist()) == list(range(10))


def test_every_batch_is_divided_among_processes():
    dataset, split = compose().dataset, Split(noise(11, 8).images, torch.arange(11))
    whole = list(TrainBatches(split, dataset, 4, CPU).epoch(0, 1))
    parts = [list(TrainBatches(split, dataset, 4, CPU, part=Part(rank, 2)).epoch(0, 1)) for rank in range(2)]
    joined = [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in zip(*parts, strict=True)]
    assert [len(targets) for _, targets in joined] == [4, 4, 4]
    for (images, targets), (all_images, all_targets) in zip(joined, whole, strict=True):
        count = len(all_targets)
        assert torch.equal(images[:count], all_images)
        assert torch.equal(targets[:count], all_targets)
    assert joined[-1][1][3] == whole[0][1][0]  # the last batch is filled up with the epoch's first images
    tested = [TestBatches(split, dataset, 4, CPU, part=Part(rank, 2)) for rank in range(2)]
    assert [[len(targets) for _, targets in batches] for batches in tested] == [[2, 2, 1], [2, 2, 2]]
    seen = [target for batches in tested for _, targets in batches for target in targets.tolist()]
    assert sorted(seen) == list(range(11))
