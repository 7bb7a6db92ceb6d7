from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dscnet.data.io import (
    LOSSES,
    image_size,
    photo_losses,
    photo_traits,
    read_image,
    read_mask,
    read_saliency,
)
from dscnet.files.image_files import opened
from dscnet.types import DataError

ORIENTATION = 0x0112


def save(path, values, mode=None, **options):
    image = Image.fromarray(np.asarray(values))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def png(path, width, height, bits, colour_type, rows):
    """A PNG as its bytes are, of one row or of rows that begin with their filter byte."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    return path


def turned(upright, orientation):
    """What is stored of an upright picture whose tag says how to turn it."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]


def colours(height=4, width=6):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(tensor):
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
def test_colour_photos_keep_their_values(tmp_path, ending):
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", colours(), **options)
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.shape == (3, 4, 6) and image.is_contiguous()
    np.testing.assert_array_equal(pixels(image), colours())
    assert photo_traits(path) == ()


def test_grey_photos_get_three_equal_channels(tmp_path):
    values = colours()[..., 0]
    path = save(tmp_path / "a.png", values)
    for channel in read_image(path):
        np.testing.assert_array_equal(channel.numpy(), values)
    assert photo_traits(path) == ("grey",)


def test_bilevel_photos_are_black_and_white(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 255]], dtype=np.uint8), mode="1")
    assert read_image(path)[0].tolist() == [[0, 255]]


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 257, 51400, 65535]], dtype=np.uint16))
    assert read_image(path)[0].tolist() == [[0, 1, 200, 255]]
    assert photo_traits(path) == ("grey", "16-bit")


def test_sixteen_bit_container_of_eight_bit_values_is_not_darkened(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 7, 255]], dtype=np.uint16))
    assert read_image(path)[0].tolist() == [[0, 7, 255]]


def test_thirty_two_bit_grey_is_scaled_and_clipped(tmp_path):
    path = save(tmp_path / "a.tif", np.array([[-5, 257, 70000]], dtype=np.int32))
    assert read_image(path)[0].tolist() == [[0, 1, 255]]


def test_transparency_is_laid_over_white(tmp_path):
    red = [200, 0, 0]
    rgba = np.array([[[*red, 255], [*red, 0], [*red, 51]]], dtype=np.uint8)
    path = save(tmp_path / "a.png", rgba)
    image = read_image(path)
    assert image[:, 0, 0].tolist() == red
    assert image[:, 0, 1].tolist() == [255, 255, 255]
    # 51/255 = 0.2 of red over 0.8 of white.
    assert image[:, 0, 2].tolist() == [244, 204, 204]
    assert photo_traits(path) == ("transparent",)


def test_transparent_palette_and_grey_are_laid_over_white(tmp_path):
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=1)
    image = read_image(tmp_path / "p.png")
    assert image[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    save(tmp_path / "la.png", np.array([[[9, 255], [9, 0]]], dtype=np.uint8))
    assert read_image(tmp_path / "la.png")[0].tolist() == [[9, 255]]


def test_cmyk_photos_are_converted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = read_image(tmp_path / "a.jpg")[:, 4, 4].tolist()
    assert red > 240 and green < 15 and blue < 15
    assert photo_traits(tmp_path / "a.jpg") == ("CMYK",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("ending", "options"),
    [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("webp", {"lossless": True})],
)
def test_exif_orientation_is_undone(tmp_path, orientation, ending, options):
    """Each stored picture is the upright one moved so that the tag's meaning brings it back."""
    upright = colours(4, 6)
    stored = turned(upright, orientation)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{ending}", np.ascontiguousarray(stored), exif=exif, **options)
    np.testing.assert_array_equal(pixels(read_image(path)), upright)
    assert image_size(path) == (4, 6)
    assert ("rotated by EXIF" in photo_traits(path)) == (orientation > 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_plain_tiffs_that_pillow_maps_are_turned_too(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    upright = colours(4, 6)[..., :1]
    stored = np.ascontiguousarray(turned(upright, orientation)[..., 0])
    path = save(tmp_path / "a.tif", stored, exif=exif)
    assert image_size(path) == (4, 6)
    np.testing.assert_array_equal(pixels(read_image(path))[..., :1], upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_of_a_jpeg_is_that_of_the_upright_photo(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / "a.jpg", colours(4, 6), exif=exif)
    assert image_size(path) == ((6, 4) if orientation >= 5 else (4, 6))
    assert image_size(path) == tuple(read_image(path).shape[1:])


@pytest.mark.parametrize("ending", ["jpg", "tif"])
@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_meaningless_orientation_is_ignored(tmp_path, orientation, ending):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{ending}", colours(4, 6), exif=exif)
    assert image_size(path) == (4, 6) == tuple(read_image(path).shape[1:])
    assert photo_traits(path) == ()


def test_truncated_photo_names_file_and_remedy(tmp_path):
    path = save(tmp_path / "broken.jpg", colours(64, 64))
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"broken\.jpg.*re-export or remove it"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("reader", [read_image, read_mask, image_size])
def test_what_is_no_picture_is_a_data_error(tmp_path, reader, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg.*re-export or remove it"):
        reader(tmp_path / "a.jpg")


@pytest.mark.parametrize("offset", range(8, 90, 5))
def test_damaged_bytes_give_a_photo_or_a_data_error(tmp_path, offset):
    path = save(tmp_path / "a.png", colours(16, 16))
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    try:
        assert read_image(path).shape[0] == 3
    except DataError as error:
        assert "a.png" in str(error)


def test_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "a.jpg")


def test_floating_point_photo_is_refused(tmp_path):
    path = save(tmp_path / "a.tif", np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(DataError, match="floating-point"):
        read_image(path)


def test_very_large_photo_warns_nobody_and_a_bomb_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", colours(10, 15))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(path).shape == (3, 10, 15)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(DataError, match=r"a\.png.*scale it down"):
        read_image(path)


def declared(path, width, height):
    """A PNG that says it has a size, with the pixels of another."""
    save(path, colours())
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    return path


def test_photos_of_half_a_gigapixel_are_read_and_larger_ones_cost_no_memory(tmp_path):
    with opened(declared(tmp_path / "a.png", 25_000, 20_000)) as image:
        assert image.size == (25_000, 20_000)
    with pytest.raises(DataError, match=r"b\.png: has more than the maximum of 536,870,912 pixels"):
        read_image(declared(tmp_path / "b.png", 100_000, 100_000))


def tiff(path, bands, extra):
    """A TIFF whose bands beyond three mean what ``extra`` says; None = nothing is said."""
    Image.fromarray(bands).save(path)
    content = path.read_bytes()
    said = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert content.count(said) == 1
    # Without a word of it a private tag stands in its place.
    now = (65000, 3, 1, 2, 0) if extra is None else (338, 3, 1, extra, 0)
    path.write_bytes(content.replace(said, struct.pack("<HHIHH", *now)))
    return path


def four_bands(alpha):
    rng = np.random.default_rng(0)
    bands = rng.integers(60, 120, (12, 16, 4), dtype=np.uint8)
    if alpha is not None:
        bands[..., 3] = alpha
    return bands


@pytest.mark.parametrize(
    ("extra", "alpha"), [(0, None), (0, 0), (None, None), (2, None), (2, 0), (1, 255)]
)
def test_a_fourth_band_that_is_no_transparency_is_dropped_and_told(tmp_path, extra, alpha):
    bands = four_bands(alpha)
    path = tiff(tmp_path / "a.tif", bands, extra)
    np.testing.assert_array_equal(pixels(read_image(path)), bands[..., :3])
    if (extra, alpha) != (1, 255):
        assert "transparent" not in photo_traits(path)
        (loss,) = photo_losses(path)
        assert loss.startswith("bands") and loss in LOSSES


def test_alpha_that_nobody_filled_leaves_the_colours(tmp_path):
    bands = four_bands(0)
    for name in ("a.png", "a.tif"):
        path = save(tmp_path / name, bands)
        np.testing.assert_array_equal(pixels(read_image(path)), bands[..., :3])
        assert "transparent" not in photo_traits(path) and len(photo_losses(path)) == 1


def test_a_fourth_band_that_is_transparency_is_laid_over_white(tmp_path):
    bands = four_bands(255)
    bands[:, :8, 3] = 0
    path = tiff(tmp_path / "a.tif", bands, 2)
    image = pixels(read_image(path))
    np.testing.assert_array_equal(image[:, 8:], bands[:, 8:, :3])
    assert (image[:, :8] == 255).all()
    assert photo_traits(path) == ("transparent",)
    assert photo_losses(path) == ()


@pytest.mark.parametrize(("ending", "mode"), [("tif", "RGB"), ("png", "RGB"), ("webp", "RGB")])
def test_of_several_pages_the_first_is_read_and_the_others_told(tmp_path, ending, mode):
    more = {"save_all": True, "append_images": [Image.new(mode, (6, 4))] * 2}
    options = {"lossless": True} if ending == "webp" else {}
    path = save(tmp_path / f"a.{ending}", colours(), **more, **options)
    np.testing.assert_array_equal(pixels(read_image(path)), colours())
    (loss,) = photo_losses(path)
    assert loss.startswith("pages") and loss in LOSSES


def test_the_previews_of_phones_are_not_told(tmp_path):
    more = {"save_all": True, "append_images": [Image.new("RGB", (6, 4))], "format": "MPO"}
    path = save(tmp_path / "a.jpg", colours(), **more)
    assert photo_losses(path) == () and read_image(path).shape == (3, 4, 6)


def test_sixteen_bit_colours_are_scaled_and_told(tmp_path):
    values = np.array([[[0, 0x1234, 0xFFFF]]], dtype=">u2")
    path = png(tmp_path / "a.png", 1, 1, 16, 2, values.tobytes())
    assert read_image(path)[:, 0, 0].tolist() == [0, 0x12, 255]
    assert photo_traits(path) == ("16-bit",)


def test_sixteen_bit_grey_whose_zero_is_white_is_turned(tmp_path):
    path = tmp_path / "a.tif"
    save(path, np.array([[0, 257, 65535]], dtype=np.uint16), tiffinfo={262: 0})
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    assert read_image(path)[0].tolist() == [[255, 254, 0]]


def test_colours_that_are_not_converted_are_refused(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: holds CIELAB colours; re-export it as RGB"):
        read_image(tmp_path / "a.tif")


def test_mask_gives_palette_indices_not_colours(tmp_path):
    labels = np.array([[0, 1, 2], [20, 255, 0]], dtype=np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([value for index in range(256) for value in (255 - index, index, 9)])
    image.save(tmp_path / "palette.png")
    save(tmp_path / "grey.png", labels)
    for name in ("palette", "grey"):
        mask = read_mask(tmp_path / f"{name}.png")
        assert mask.dtype == torch.uint8
        np.testing.assert_array_equal(mask.numpy(), labels)


def test_mask_of_few_palette_bits_keeps_its_indices(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2, 3]], dtype=np.uint8))
    image.putpalette([0, 0, 0, 9, 9, 9, 99, 99, 99, 200, 0, 0])
    image.save(tmp_path / "a.png", bits=2)
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1, 2, 3]]


def test_mask_that_holds_no_labels_is_refused(tmp_path):
    save(tmp_path / "rgb.png", colours())
    save(tmp_path / "jpeg.jpg", colours()[..., 0])
    save(tmp_path / "deep.png", np.array([[0, 300]], dtype=np.uint16))
    for name in ("rgb.png", "jpeg.jpg", "deep.png"):
        with pytest.raises(DataError, match=f"{name}.*8-bit palette or grey PNG"):
            read_mask(tmp_path / name)


def test_saliency_is_scaled_to_one(tmp_path):
    path = save(tmp_path / "a.png", np.array([[0, 51, 255]], dtype=np.uint8))
    saliency = read_saliency(path)
    assert saliency.shape == (1, 1, 3)
    torch.testing.assert_close(saliency[0, 0], torch.tensor([0.0, 0.2, 1.0]))


def test_palette_picture_is_no_saliency(tmp_path):
    path = save(tmp_path / "a.png", colours(), mode="P")
    with pytest.raises(DataError, match="8-bit grey PNG"):
        read_saliency(path)


@pytest.mark.data
def test_real_photo_and_mask_agree_in_size(shared_data):
    name = "msrc_02_01"
    image = read_image(shared_data / "msrc" / "JPEGImages" / f"{name}.jpg")
    mask = read_mask(shared_data / "msrc" / "SegmentationClass" / f"{name}.png")
    assert image.shape[1:] == mask.shape
    assert set(mask.unique().tolist()) <= {*range(18), 255}
