"""Decoders, which reconstruct the input image from a module's features."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """InfoPro's "2c" decoder without its sigmoid.

    Bilinear upsampling (corners aligned) to the image's size, a 3x3 convolution to 12 channels, BatchNorm, ReLU, and
    a 3x3 convolution to the image's channels. Both convolutions have a bias.
    """

    def __init__(self, channels: int, image_size: int, image_channels: int = 3):
        super().__init__()
        self.image_size = image_size
        self.layers = nn.Sequential(*_conv(channels, 12, 3), nn.Conv2d(12, image_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, channels, s, s) to logits of pixels (N, image channels, image_size, image_size)."""
        return self.layers(upsampled(x, self.image_size))


# (width, kernel size) of the convolution before each doubling of the size, by the number of doublings. Three are
# InfoPro's (28 to 224 pixels) and four MAN's (14 to 224 pixels); the others continue their pattern.
LADDERS = {
    1: [(12, 1)],
    2: [(32, 1), (12, 3)],
    3: [(128, 1), (32, 3), (12, 3)],
    4: [(192, 1), (64, 1), (32, 3), (12, 3)],
    5: [(256, 1), (192, 1), (64, 1), (32, 3), (12, 3)],
}


class ImageNetDecoder(nn.Module):
    """InfoPro's decoder for ImageNet without its sigmoid.

    Each step is a convolution with bias, BatchNorm, ReLU, and a bilinear upsampling (corners aligned) to twice the
    size. A 3x3 convolution to the image's channels comes last. It is published for 512 channels at 28 pixels, and in
    MAN's code for 1024 channels at 14 pixels.
    """

    def __init__(self, channels: int, size: int, image_size: int, image_channels: int = 3):
        super().__init__()
        doublings = min(max(1, round(math.log2(image_size / size))), max(LADDERS))
        self.sizes = [math.ceil(image_size / 2**step) for step in reversed(range(doublings))]
        widths = [channels, *(width for width, _ in LADDERS[doublings])]
        kernels = [kernel for _, kernel in LADDERS[doublings]]
        self.steps = nn.ModuleList(
            nn.Sequential(*_conv(c_in, c_out, kernel))
            for c_in, c_out, kernel in zip(widths, widths[1:], kernels, strict=False)
        )
        self.last = nn.Conv2d(widths[-1], image_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, channels, s, s) to logits of pixels (N, image channels, image_size, image_size)."""
        for step, size in zip(self.steps, self.sizes, strict=True):
            x = upsampled(step(x), size)
        return self.last(x)


def upsampled(x: Tensor, size: int) -> Tensor:
    """Upsample features (N, C, s, s) to (N, C, size, size) by bilinear interpolation with aligned corners."""
    if x.shape[2:] == (size, size):
        return x
    # On CUDA, autocast would upsample in float32, and the next convolution would round the result to half precision.
    half = x.dtype != torch.float32
    with torch.autocast(x.device.type, enabled=False) if half else nullcontext():
        return F.interpolate(x, (size, size), mode="bilinear", align_corners=True)


def _conv(c_in: int, c_out: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    return [convolution, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
