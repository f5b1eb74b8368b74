"""Heads, which map a module's features to logits or to an embedding for the contrastive loss."""

from __future__ import annotations

import math

from torch import nn

from localsl.core.layers import AvgPoolTo, conv_bn_relu, pooled


class DGLHead(nn.Sequential):
    """DGL's head: average pooling, three 1x1 convolutions, pooling to 2x2, and three linear layers.

    It is the head of the DGL baselines of all four papers, as AugLocal's code builds it. The "mlp-sr" head of DGL's
    own code has biases and one more hidden layer. Features (N, c, s, s) are first pooled to ceil(s/4); hidden layers
    have 4c units.
    """

    def __init__(self, channels: int, size: int, outputs: int):
        hidden = 4 * channels
        layers: list[nn.Module] = [AvgPoolTo(math.ceil(size / 4))]
        for _ in range(3):
            layers += conv_bn_relu(channels, channels, 1)
        layers += [AvgPoolTo(2), nn.Flatten()]
        for _ in range(2):
            layers += [nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden)]
            layers += [nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(hidden, outputs))


class DGLTokenHead(nn.Sequential):
    """DGL's head for tokens, which are given as an image one pixel wide, (N, c, T, 1).

    It applies three linear maps to each token, averages over tokens, and classifies with three linear layers of 4c
    hidden units. The papers have no heads for tokens; this one keeps the proportions of `DGLHead`.
    """

    def __init__(self, channels: int, outputs: int):
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += conv_bn_relu(channels, channels, 1)
        layers += pooled()
        hidden = 4 * channels
        for units in (channels, hidden):
            layers += [nn.Linear(units, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(hidden, outputs))


class BigDGLHead(nn.Sequential):
    """The head of the released MLAAN with DGL as the base.

    Three 1x1 convolutions of `width` f, global average pooling, three hidden layers of 4f units with bias and
    BatchNorm, and a linear layer.
    """

    def __init__(self, channels: int, outputs: int, width: int = 128):
        layers = conv_bn_relu(channels, width, 1)
        layers += conv_bn_relu(width, width, 1) + conv_bn_relu(width, width, 1) + pooled()
        for units in (width, 4 * width, 4 * width):
            layers += [nn.Linear(units, 4 * width), nn.BatchNorm1d(4 * width), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(4 * width, outputs))


class InfoProHead(nn.Sequential):
    """InfoPro's heads "0c1f" to "2c2f": 3x3 convolutions, global average pooling, and linear layers.

    The name gives the numbers of convolutions and linear layers. The first convolution has stride 2 and doubles the
    channels, except on the backbone's widest features (`widest`), whose size and width it keeps. Hidden linear
    layers have `feature_dim` units.
    """

    def __init__(self, kind: str, channels: int, widest: int, outputs: int, feature_dim: int = 128):
        convolutions, linears = int(kind[0]), int(kind[2])
        layers: list[nn.Module] = []
        width = channels
        if convolutions:
            width = min(2 * channels, widest)
            layers += conv_bn_relu(channels, width, 3, 2 if channels < widest else 1)
            for _ in range(convolutions - 1):
                layers += conv_bn_relu(width, width, 3)
        layers += pooled()
        for _ in range(linears - 1):
            layers += [nn.Linear(width, feature_dim), nn.ReLU(inplace=True)]
            width = feature_dim
        super().__init__(*layers, nn.Linear(width, outputs))
        self._kind = kind

    def summary(self) -> str:
        """A description for the table of modules."""
        return self._kind


class InfoProImageNetHead(nn.Sequential):
    """InfoPro's head for ImageNet.

    A 1x1 convolution to a quarter of the channels, two 3x3 convolutions of stride 2, a 1x1 convolution to the width
    of the network's last features (`widest`), global average pooling, and a linear layer.

    It is published for ResNets with bottlenecks, whose last features have 2048 channels: with input of 512 channels
    by InfoPro and of 1024 in MAN's code, the widths are 128 or 256, then 256, 512, 2048. Other networks get the same
    proportions.
    """

    def __init__(self, channels: int, widest: int, outputs: int):
        first, second, third = max(1, channels // 4), max(1, widest // 8), max(1, widest // 4)
        layers = conv_bn_relu(channels, first, 1) + conv_bn_relu(first, second, 3, 2)
        layers += conv_bn_relu(second, third, 3, 2) + conv_bn_relu(third, widest, 1) + pooled()
        super().__init__(*layers, nn.Linear(widest, outputs))


class MLAANImageNetHead(nn.Sequential):
    """MLAAN's head for ImageNet: global average pooling and a linear layer.

    On features of fewer than 256 channels, two 1x1 convolutions come first, to twice the channels and back. MLAAN's
    code has them for ResNet-34, whose first two stages are that narrow, and not for ResNet-101.
    """

    def __init__(self, channels: int, outputs: int):
        layers: list[nn.Module] = []
        if channels < 256:
            layers += conv_bn_relu(channels, 2 * channels, 1) + conv_bn_relu(2 * channels, channels, 1)
        super().__init__(*layers, *pooled(), nn.Linear(channels, outputs))


class PredSimHead(nn.Sequential):
    """PredSim's "pred" head: average pooling to at most `target` features, and a linear layer.

    The kernel doubles alternately in height and width until few enough features are left. Zero padding counts in the
    mean.
    """

    def __init__(self, channels: int, size: int, outputs: int, target: int = 512, zero_start: bool = False):
        height = width = 1
        out_h = out_w = size
        while channels * out_h * out_w > target and height < size:
            height *= 2
            out_h = math.ceil(size / height)
            if channels * out_h * out_w > target:
                width *= 2
                out_w = math.ceil(size / width)
        pad_h = height * (out_h - size // height) // 2
        pad_w = width * (out_w - size // width) // 2
        pool = nn.Identity()
        if height > 1 or width > 1:
            pool = nn.AvgPool2d((height, width), padding=(pad_h, pad_w))
        # Computed from the pooling itself, whose padding can add a row to the ceiling above.
        features = channels * math.prod(
            (size + 2 * pad - kernel) // kernel + 1 for kernel, pad in ((height, pad_h), (width, pad_w))
        )
        linear = ZeroLinear if zero_start else nn.Linear
        super().__init__(pool, nn.Flatten(), linear(features, outputs))


class LinearHead(nn.Sequential):
    """Global average pooling and a linear layer: InfoPro's "0c1f" head, and PredSim's head for tokens."""

    def __init__(self, channels: int, outputs: int, zero_start: bool = False):
        super().__init__(*pooled(), (ZeroLinear if zero_start else nn.Linear)(channels, outputs))


class ZeroLinear(nn.Linear):
    """A linear layer whose weights start at 0, but not its biases, as in PredSim's own code."""

    def reset_parameters(self) -> None:
        """Set the weights to 0 and the biases to torch's default."""
        super().reset_parameters()
        nn.init.zeros_(self.weight)
