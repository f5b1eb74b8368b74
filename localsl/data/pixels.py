"""From what a file of a picture holds to what a network takes: upright RGB of 8 bits, and the middle of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import v2

ORIENTATION = 0x0112  # of EXIF: how a camera was held
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Formats whose grey levels Pillow gives as 32-bit numbers from 0 to 65535.
SIXTEEN_BITS = ("PNG", "PPM")

THIN = 16  # a picture that is so many times longer than wide is cut before it is resized


def rgb(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, turned as EXIF says, what is transparent on white.

    Raises:
        ValueError: if its grey levels have no range that is known.
        Exception: of all sorts, if it cannot be decoded.
    """
    picture.load()
    turned = UPRIGHT.get(_orientation(picture))
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in SIXTEEN_BITS):
        levels = np.asarray(picture).astype(np.uint32)
        flat = Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    elif picture.mode in ("I", "F"):
        kind = "32 bits" if picture.mode == "I" else "floating point"
        raise ValueError(f"its grey levels are of {kind}, whose range is not known: save it with 8 or 16 bits")
    elif picture.has_transparency_data:
        seen = picture.convert("RGBA")
        flat = Image.new("RGB", seen.size, "white")
        flat.paste(seen, mask=seen.getchannel("A"))
    else:
        flat = picture.convert("RGB")
    return flat if turned is None else flat.transpose(turned)


def _orientation(picture: Image.Image) -> Any:
    try:
        return picture.getexif().get(ORIENTATION)
    except Exception:  # metadata that cannot be read make no picture broken
        return None


class Resize(v2.Resize):
    """torchvision's, for pictures whose middle square is all that is wanted.

    Of a thin picture only the middle is resized: all of one of 4000x1 pixels would be 1,024,000x256.
    """

    def forward(self, *inputs: Any) -> Any:
        """The picture, its shorter side as asked for."""
        (picture,) = inputs
        short, long = sorted(picture.size)
        if long > THIN * short:
            margin = (long - THIN * short) // 2  # the same at both ends, so that the middle stays where it is
            box = (margin, 0, picture.width - margin, picture.height)
            if picture.height > picture.width:
                box = (0, margin, picture.width, picture.height - margin)
            picture = picture.crop(box)
        return super().forward(picture)
