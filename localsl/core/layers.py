"""Building blocks shared by backbones and auxiliary networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias, padded so that the size s becomes ceil(s / stride), and BatchNorm."""
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(c_out)]


def conv_bn_relu(c_in: int, c_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias, BatchNorm and ReLU."""
    return [*conv_bn(c_in, c_out, kernel, stride), nn.ReLU(inplace=True)]


def activation(negative_slope: float) -> nn.Module:
    """An in-place ReLU, or leaky ReLU for a slope other than 0."""
    return nn.LeakyReLU(negative_slope, inplace=True) if negative_slope else nn.ReLU(inplace=True)


def rectified(x: Tensor, negative_slope: float) -> Tensor:
    """Apply ReLU, or leaky ReLU for a slope other than 0, to `x` in place."""
    return F.leaky_relu(x, negative_slope, inplace=True) if negative_slope else F.relu(x, inplace=True)


class Copied(nn.Module):
    """A copy of features, which the layers after it may change in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a copy of `x`."""
        return x.clone()


class AvgPoolTo(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling that uses ordinary average pooling where all windows are equal.

    Where the output size divides the input size, both compute the same function, but on CUDA the backward pass of
    adaptive pooling is not deterministic. Pooling to one position stays adaptive, because torch computes it as a
    mean, which is deterministic. On a CPU both return the same bits for windows whose sides are powers of two, and
    otherwise agree up to rounding.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool images (N, C, H, W) to (N, C, *output_size)."""
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
        """Return a view of shape (N, C, H, W)."""
        return x.permute(0, 3, 1, 2)


class TokensAsImage(nn.Module):
    """Tokens (N, T, C) to images one pixel wide, (N, C, T, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of shape (N, C, T, 1)."""
        return x.transpose(1, 2).unsqueeze(3)


class VectorAsImage(nn.Module):
    """Vectors (N, C) to images of one pixel, (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of shape (N, C, 1, 1)."""
        return x[:, :, None, None]


class ChannelsLast(nn.Module):
    """Images (N, C, H, W) to maps (N, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of shape (N, H, W, C)."""
        return x.permute(0, 2, 3, 1)


class ImageAsTokens(nn.Module):
    """Images (N, C, H, W) to tokens (N, H W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of shape (N, H W, C)."""
        return x.flatten(2).transpose(1, 2)


def as_image(layout: str) -> list[nn.Module]:
    """The layers that turn features of a layout into images (N, C, H, W); none if they already are images."""
    to_image = {"map": ChannelsFirst, "tokens": TokensAsImage, "vector": VectorAsImage}
    return [to_image[layout]()] if layout in to_image else []


def from_image(layout: str) -> list[nn.Module]:
    """The layers that turn images (N, C, H, W) into features of a layout; none if that is images."""
    to_layout = {"map": ChannelsLast, "tokens": ImageAsTokens, "vector": nn.Flatten}
    return [to_layout[layout]()] if layout in to_layout else []
