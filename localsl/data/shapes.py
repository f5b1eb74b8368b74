"""Coloured shapes on noise: a generated data set for classification and for detection.

Every image is a function of its split and index only, so all machines generate the same images.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from localsl.core.initialization import stream
from localsl.data.scenes import Scene, boxes_of
from localsl.data.splits import SUBSET_SEED, Split

KINDS = ("circle", "square", "triangle")
SIZE = 64  # side of an image, in pixels
COUNTS = {"train": 450, "test": 150}  # images; multiples of the number of kinds

MAX_SHAPES = 4  # in a scene
MAX_ANGLE = 0.3  # rotation of a shape from upright, in radians
RADIUS = (8, 17)  # range of a shape's radius in pixels, without the upper end
MIN_VISIBLE = 0.7  # fraction of a shape's area that later shapes leave uncovered


def scene(split: str, index: int) -> Scene:
    """A scene with one to `MAX_SHAPES` shapes, later ones in front of earlier ones."""
    rng = _random("scene", split, index)
    pixels = _background(rng)
    kinds, masks = [], []
    for _ in range(rng.integers(1, MAX_SHAPES + 1)):
        kind = int(rng.integers(len(KINDS)))
        mask, colour = _shape(rng, kind), _colour(rng, kind)
        behind = [earlier & ~mask for earlier in masks]
        hides_one = any(b.sum() < MIN_VISIBLE * before.sum() for b, before in zip(behind, masks, strict=True))
        if hides_one:
            continue
        kinds, masks = [*kinds, kind], [*behind, mask]
        _paint(rng, pixels, mask, colour)
    stacked = torch.from_numpy(np.stack(masks).astype(np.uint8))
    return Scene(_bytes(pixels), boxes_of(stacked), torch.tensor(kinds) + 1, stacked)


def classified(split: str) -> Split:
    """A split of images with one shape each, equally many of every kind."""
    images, count = [], COUNTS[split]
    for index in range(count):
        rng, kind = _random("picture", split, index), index % len(KINDS)
        pixels = _background(rng)
        _paint(rng, pixels, _shape(rng, kind), _colour(rng, kind))
        images.append(_bytes(pixels))
    return Split(torch.stack(images), torch.arange(count) % len(KINDS))


def _random(*what: str | int) -> np.random.Generator:
    return np.random.default_rng(stream(SUBSET_SEED, "shapes", *what))


def _background(rng: np.random.Generator) -> np.ndarray:
    """A noisy grey gradient in a random direction, (SIZE, SIZE, 3)."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    slope = rng.uniform(-40, 40, (2, 1, 1))
    tone = rng.uniform(60, 190) + slope[0] * rows + slope[1] * columns
    return tone[..., None] + rng.normal(0, 12, (SIZE, SIZE, 3))


def _colour(rng: np.random.Generator, kind: int) -> np.ndarray:
    """A random colour whose brightest channel identifies the kind."""
    colour = rng.uniform(0, 110, 3)
    colour[kind] = rng.uniform(190, 255)
    return colour


def _shape(rng: np.random.Generator, kind: int) -> np.ndarray:
    """The mask (SIZE, SIZE) bool of a shape with random position, size and small rotation."""
    radius = rng.integers(*RADIUS)
    y, x = rng.uniform(radius, SIZE - radius, 2)
    angle = np.pi / 2 + rng.uniform(-MAX_ANGLE, MAX_ANGLE)
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    if KINDS[kind] == "circle":
        return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    corners = {"square": 4, "triangle": 3}[KINDS[kind]]
    inside = np.ones((SIZE, SIZE), dtype=bool)
    for normal in angle + 2 * np.pi * np.arange(corners) / corners:  # of the sides of a regular polygon
        along = (columns - x) * np.cos(normal) + (rows - y) * np.sin(normal)
        inside &= along <= radius * np.cos(np.pi / corners)
    return inside


def _paint(rng: np.random.Generator, pixels: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> None:
    pixels[mask] = colour + rng.normal(0, 12, (int(mask.sum()), 3))


def _bytes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.clip(0, 255).round().astype(np.uint8)).permute(2, 0, 1).contiguous()
