"""Small pieces that backbones and auxiliary networks are made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the size but for its stride, which rounds up, and BatchNorm."""
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(c_out)]


def conv_bn_relu(c_in: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias, BatchNorm and ReLU."""
    return [*conv_bn(c_in, c_out, kernel, stride), nn.ReLU(inplace=True)]


def activation(negative_slope: float) -> nn.Module:
    """(Leaky) ReLU, in place."""
    return nn.LeakyReLU(negative_slope, inplace=True) if negative_slope else nn.ReLU(inplace=True)


def rectified(x: Tensor, negative_slope: float) -> Tensor:
    """(Leaky) ReLU, in place."""
    return F.leaky_relu(x, negative_slope, inplace=True) if negative_slope else F.relu(x, inplace=True)


class AvgPoolTo(nn.AdaptiveAvgPool2d):
    """Average pooling to a size, by equal windows where they cover the image without overlap.

    That is what adaptive pooling computes there, and on CUDA, where the backward of adaptive pooling is not
    deterministic, it is. To one position torch takes the mean, which is too. The same bits on a CPU for windows
    whose sides are powers of two, else equal but for rounding.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *output_size)."""
        size: Any = self.output_size
        height, width = (size, size) if isinstance(size, int) else size
        if (height, width) == (1, 1):
            return super().forward(input)
        down, right = input.shape[-2] // height, input.shape[-1] // width
        if (down * height, right * width) != tuple(input.shape[-2:]):
            return super().forward(input)
        return F.avg_pool2d(input, (down, right))


def pooled() -> list[nn.Module]:
    """Global average pooling to (N, C)."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


class ChannelsFirst(nn.Module):
    """Maps (N, H, W, C) to images (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), a view."""
        return x.permute(0, 3, 1, 2)


class TokensAsImage(nn.Module):
    """Tokens (N, T, C) to images one pixel wide, (N, C, T, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, 1), a view."""
        return x.transpose(1, 2).unsqueeze(3)


class VectorAsImage(nn.Module):
    """Vectors (N, C) to images of one pixel, (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, 1, 1), a view."""
        return x[:, :, None, None]


class ChannelsLast(nn.Module):
    """Images (N, C, H, W) to maps (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C), a view."""
        return x.permute(0, 2, 3, 1)


class ImageAsTokens(nn.Module):
    """Images (N, C, H, W) to tokens (N, H W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, H W, C)."""
        return x.flatten(2).transpose(1, 2)


def as_image(layout: str) -> list[nn.Module]:
    """What makes images (N, C, H, W) of features of a layout; nothing where they are images."""
    to_image = {"map": ChannelsFirst, "tokens": TokensAsImage, "vector": VectorAsImage}
    return [to_image[layout]()] if layout in to_image else []


def from_image(layout: str) -> list[nn.Module]:
    """What makes features of a layout of images (N, C, H, W); nothing where they are images."""
    to_layout = {"map": ChannelsLast, "tokens": ImageAsTokens, "vector": nn.Flatten}
    return [to_layout[layout]()] if layout in to_layout else []
