"""Converting decoded pictures to upright 8-bit RGB, and resizing them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import v2

ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held
UPRIGHT = {  # by orientation, the transposition that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Formats whose 16-bit grey levels Pillow returns as 32-bit integers from 0 to 65535.
SIXTEEN_BITS = ("PNG", "PPM")

MAX_ASPECT = 16  # a picture with a larger aspect ratio is cropped before it is resized


def rgb(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, rotated as EXIF says, with transparent parts on white.

    Raises:
        ValueError: if the range of its grey levels is unknown.
        Exception: of many types, if it cannot be decoded.
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
        rgba = picture.convert("RGBA")
        flat = Image.new("RGB", rgba.size, "white")
        flat.paste(rgba, mask=rgba.getchannel("A"))
    else:
        flat = picture.convert("RGB")
    return flat if turned is None else flat.transpose(turned)


def _orientation(picture: Image.Image) -> Any:
    try:
        return picture.getexif().get(ORIENTATION)
    except Exception:  # a picture with unreadable metadata is still usable
        return None


class Resize(v2.Resize):
    """torchvision's Resize for pictures of which only the centred square is used.

    An elongated picture is cropped around its centre first: resizing all of 4000x1 pixels would give 1,024,000x256.
    """

    def forward(self, *inputs: Any) -> Any:
        """Resize the shorter side of the picture to `size`."""
        (picture,) = inputs
        short, long = sorted(picture.size)
        if long > MAX_ASPECT * short:
            margin = (long - MAX_ASPECT * short) // 2  # equal at both ends, which keeps the centre
            box = (margin, 0, picture.width - margin, picture.height)
            if picture.height > picture.width:
                box = (0, margin, picture.width, picture.height - margin)
            picture = picture.crop(box)
        return super().forward(picture)
