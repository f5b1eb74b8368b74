"""Decoding of pictures: grey levels, transparency, orientation, and the centre of thin pictures."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from localsl.config import ConfigError
from localsl.data import loading
from localsl.data.pictures import Pictures, centre_square, for_test
from localsl.data.pixels import ORIENTATION, Resize, rgb
from tests.helpers.pictures import folder_config

RAMP = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)


def decoded(file, size=32):
    """The picture as (3, size, size), or a message about why it cannot be decoded."""
    name = file.name.encode()
    found = Pictures.of(file.parent, size, [(name, len(name), 0, file.stat().st_size, 0, 0)])
    return found.decoded(0, centre_square(size))


@pytest.mark.parametrize("name", ["16.png", "16.tif", "16.pgm", "big.tif"])
def test_16_bit_grey_levels_are_scaled_to_8_bits(tmp_path, name):
    file = tmp_path / name
    (Image.fromarray(RAMP.astype(">u2")) if name == "big.tif" else Image.fromarray(RAMP)).save(file)
    expected = torch.from_numpy(np.round(RAMP / 257).astype(np.uint8))
    assert torch.equal(decoded(file), expected.expand(3, 32, 32))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [(RAMP.astype(np.int32), "32 bits"), ((RAMP / 65535).astype(np.float32), "floating point")],
)
def test_grey_levels_without_a_known_range_are_refused_by_name(folder, pixels, words):
    Image.fromarray(pixels).save(folder / "train" / "cats" / "odd.tif")
    with pytest.raises(ConfigError, match=rf"1 of 25 files .*cats/odd\.tif \(its grey levels are of {words}"):
        loading.load(folder_config(folder))
    assert len(loading.load(folder_config(folder, "dataset.skip_broken=true")).train) == 19


def transparent_picture(mode):
    """A black square on a transparent ground, and the options to save it with."""
    alpha = np.zeros((32, 32), np.uint8)
    alpha[8:24, 8:24] = 255
    black = np.zeros_like(alpha)
    if mode == "palette":
        picture = Image.fromarray((alpha // 255).astype(np.uint8)).convert("P")
        picture.putpalette([0] * 6)
        return picture, {"transparency": 0}
    if mode in ("RGB", "L"):  # without an alpha channel, one colour is declared transparent
        return Image.fromarray(255 - alpha).convert(mode), {
            "transparency": (255, 255, 255) if mode == "RGB" else 255
        }
    return Image.merge(mode, [Image.fromarray(black)] * (len(mode) - 1) + [Image.fromarray(alpha)]), {}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette", "RGB", "L"])
def test_transparent_pixels_become_white(tmp_path, mode):
    picture, options = transparent_picture(mode)
    picture.save(tmp_path / "a.png", **options)
    image = decoded(tmp_path / "a.png")
    assert image[:, 8:24, 8:24].max() == 0
    assert image[:, :8].min() == 255


def test_opaque_pictures_are_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    assert np.array_equal(np.asarray(rgb(picture)), pixels)
    assert np.array_equal(np.asarray(rgb(picture.convert("RGBA"))), pixels)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_pictures_are_rotated_by_their_exif_orientation(tmp_path, ending, orientation, turns):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif)
    expected = torch.from_numpy(np.rot90(pixels, turns).copy()).permute(2, 0, 1)
    assert torch.equal(decoded(tmp_path / f"a.{ending}") > 127, expected > 127)


def test_pictures_with_unreadable_exif_are_decoded(tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0garbage")
    assert isinstance(decoded(tmp_path / "a.jpg"), torch.Tensor)


@pytest.mark.parametrize("size", [(4000, 1), (1, 4001), (500, 3), (7, 900)])
def test_only_the_centre_of_a_thin_picture_is_resized(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = v2.Compose([v2.Resize(36, antialias=True), v2.CenterCrop(32)])(picture)
    found = v2.Compose([Resize(36, antialias=True), v2.CenterCrop(32)])(picture)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1
    assert max(Resize(256, antialias=True)(picture).size) <= 256 * 18
    assert for_test(224)(picture).size == (224, 224)
