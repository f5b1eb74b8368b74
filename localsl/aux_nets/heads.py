"""Classifier heads: features of a module to logits, or to an embedding for the contrastive loss."""

from __future__ import annotations

import math

from torch import nn

from localsl.core.layers import AvgPoolTo, conv_bn_relu, pooled


class DGLHead(nn.Sequential):
    """Spatial pooling, three 1x1 convolutions, pooling to 2x2, a classifier of three linear layers.

    As all four papers' baselines build it (AugLocal's code); DGL's own "mlp-sr" head has biases and one
    hidden layer more. Input (N, c, s, s), pooled to ceil(s/4) first; hidden layers have 4c units.
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
    """DGL's head for tokens as an image one pixel wide, (N, c, T, 1): three linear maps of each token, the mean
    over tokens in place of pooling to 2x2, a classifier of three linear layers with 4c hidden units.

    The papers have no tokens; this keeps the proportions of `DGLHead`.
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
    """The head that the released MLAAN uses on DGL: three 1x1 convolutions of width f, global pooling,
    three hidden layers of 4f units with bias and BatchNorm, a linear layer. f = 128.
    """

    def __init__(self, channels: int, outputs: int, width: int = 128):
        layers = conv_bn_relu(channels, width, 1)
        layers += conv_bn_relu(width, width, 1) + conv_bn_relu(width, width, 1) + pooled()
        for units in (width, 4 * width, 4 * width):
            layers += [nn.Linear(units, 4 * width), nn.BatchNorm1d(4 * width), nn.ReLU(inplace=True)]
        super().__init__(*layers, nn.Linear(4 * width, outputs))


class InfoProHead(nn.Sequential):
    """InfoPro's heads "0c1f" to "2c2f": so many 3x3 convolutions, global pooling, so many linear layers.

    The first convolution doubles the channels at stride 2, except on the backbone's widest features (`widest`),
    which it keeps; hidden linear layers have `feature_dim` units.
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
        """For the table of modules."""
        return self._kind


class InfoProImageNetHead(nn.Sequential):
    """InfoPro's classifier on ImageNet: 1x1 convolution to a quarter of the channels, two 3x3 of stride 2, 1x1
    to the width of the network's last features, global pooling, a linear layer.

    Published for ResNets with bottlenecks, whose last features have 2048 channels, at 512 channels, and in
    MAN's code at 1024: 128 or 256, 256, 512, 2048. Other networks (`widest`) have the same proportions.
    """

    def __init__(self, channels: int, widest: int, outputs: int):
        first, second, third = max(1, channels // 4), max(1, widest // 8), max(1, widest // 4)
        layers = conv_bn_relu(channels, first, 1) + conv_bn_relu(first, second, 3, 2)
        layers += conv_bn_relu(second, third, 3, 2) + conv_bn_relu(third, widest, 1) + pooled()
        super().__init__(*layers, nn.Linear(widest, outputs))


class MLAANImageNetHead(nn.Sequential):
    """MLAAN's classifier on ImageNet: global pooling and a linear layer, behind two 1x1 convolutions, to twice
    the channels and back, where there are fewer than 256 of these.

    Its code has the convolutions for ResNet-34, whose first two stages are so narrow; ResNet-101's are not.
    """

    def __init__(self, channels: int, outputs: int):
        layers: list[nn.Module] = []
        if channels < 256:
            layers += conv_bn_relu(channels, 2 * channels, 1) + conv_bn_relu(2 * channels, channels, 1)
        super().__init__(*layers, *pooled(), nn.Linear(channels, outputs))


class PredSimHead(nn.Sequential):
    """Average pooling until at most `target` features are left, and one linear layer (PredSim's "pred").

    The kernel doubles alternately in height and width; zeros of its padding count in the mean.
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
        # From the pooling itself: its padding can add a row that ceil does not count.
        features = channels * math.prod(
            (size + 2 * pad - kernel) // kernel + 1 for kernel, pad in ((height, pad_h), (width, pad_w))
        )
        linear = ZeroLinear if zero_start else nn.Linear
        super().__init__(pool, nn.Flatten(), linear(features, outputs))


class LinearHead(nn.Sequential):
    """Global average pooling and one linear layer: InfoPro's "0c1f", and PredSim's classifier for tokens."""

    def __init__(self, channels: int, outputs: int, zero_start: bool = False):
        super().__init__(*pooled(), (ZeroLinear if zero_start else nn.Linear)(channels, outputs))


class ZeroLinear(nn.Linear):
    """A linear layer whose weights, not its biases, start at 0: PredSim's own classifiers."""

    def reset_parameters(self) -> None:
        """Torch's default for the biases."""
        super().reset_parameters()
        nn.init.zeros_(self.weight)
