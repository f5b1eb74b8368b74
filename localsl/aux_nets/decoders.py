"""Decoders: features of a module to a picture of the input's size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """InfoPro's "2c" decoder, before its sigmoid: bilinear upsampling (corners aligned) to the image's size,
    3x3 convolution to 12 channels, BatchNorm, ReLU, 3x3 convolution to 3; both with bias.
    """

    def __init__(self, channels: int, image_size: int):
        super().__init__()
        self.image_size = image_size
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, s, s) to logits of pixels, (N, 3, image_size, image_size)."""
        size = (self.image_size, self.image_size)
        return self.layers(F.interpolate(x, size, mode="bilinear", align_corners=True))
