"""The auxiliary networks for small images and for ImageNet, where the papers distinguish between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from localsl.aux_nets.decoders import Decoder, ImageNetDecoder
from localsl.aux_nets.heads import InfoProHead, InfoProImageNetHead, LinearHead, MLAANImageNetHead


@dataclass(frozen=True)
class Scale:
    """The auxiliary networks for small images, or for ImageNet.

    Attributes:
        convolutional: builds head "1c2f" or "2c2f" from (kind, channels, widest channels, outputs, hidden units).
        linear: builds head "0c1f" from (channels, outputs).
        decoder: builds a decoder from (channels, size, image size, image channels).
        pyramid: AugLocal's tau.
        norm: whether AugLocal's networks with at most one hidden layer have BatchNorm before their classifier.
        joins_last: whether AugLocal joins the last d layers into one module when every layer is a module.
    """

    convolutional: Callable[[str, int, int, int, int], nn.Module]
    linear: Callable[[int, int], nn.Module]
    decoder: Callable[[int, int, int, int], nn.Module]
    pyramid: float
    norm: bool
    joins_last: bool


def _imagenet_decoder(channels: int, size: int, image_size: int, image_channels: int) -> nn.Module:
    if size < image_size:
        return ImageNetDecoder(channels, size, image_size, image_channels)
    return Decoder(channels, image_size, image_channels)


OF_SCALE = {
    "cifar": Scale(
        convolutional=InfoProHead,
        linear=LinearHead,
        decoder=lambda channels, _, image_size, image_channels: Decoder(channels, image_size, image_channels),
        pyramid=0.5,
        norm=True,
        joins_last=True,
    ),
    "imagenet": Scale(
        convolutional=lambda _, channels, widest, outputs, __: InfoProImageNetHead(channels, widest, outputs),
        linear=MLAANImageNetHead,
        decoder=_imagenet_decoder,
        pyramid=0.0,
        norm=False,
        joins_last=False,
    ),
}
