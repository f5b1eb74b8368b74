"""Small pieces that backbones and auxiliary networks are made of."""

from __future__ import annotations

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


def as_image(layout: str) -> list[nn.Module]:
    """What makes images (N, C, H, W) of features of a layout; nothing where they are images."""
    return {"image": [], "map": [ChannelsFirst()], "tokens": [TokensAsImage()]}[layout]
