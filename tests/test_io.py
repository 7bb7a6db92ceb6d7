from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dscnet.data.io import image_size, photo_traits, read_image, read_mask, read_saliency
from dscnet.types import DataError

ORIENTATION = 0x0112


def save(path, values, mode=None, **options):
    image = Image.fromarray(np.asarray(values))
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


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
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{ending}", np.ascontiguousarray(stored), exif=exif, **options)
    np.testing.assert_array_equal(pixels(read_image(path)), upright)
    assert image_size(path) == (4, 6)
    assert ("rotated by EXIF" in photo_traits(path)) == (orientation > 1)


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
    save(tmp_path / "bilevel.png", np.array([[0, 255]], dtype=np.uint8), mode="1")
    for name in ("rgb.png", "jpeg.jpg", "deep.png", "bilevel.png"):
        with pytest.raises(DataError, match=f"{name}.*8-bit palette or grey PNG"):
            read_mask(tmp_path / name)


def test_grey_mask_below_eight_bits_is_refused_rather_than_stretched(tmp_path):
    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)  # 2 x 1, 4 bits, grey
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\x12"))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    with pytest.raises(DataError, match="below 8 bits"):
        read_mask(tmp_path / "a.png")


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
