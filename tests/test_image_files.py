from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dscnet.data.io import read_mask, read_saliency
from dscnet.files.image_files import opened, read_plane, stored_as
from dscnet.files.label_images import read_labels
from dscnet.types import DataError


def grey_png(path, bits, values):
    """A grey PNG of one row at a depth that Pillow does not write."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    packed = "".join(f"{value:0{bits}b}" for value in values)
    packed += "0" * (-len(packed) % 8)
    row = bytes(int(packed[at : at + 8], 2) for at in range(0, len(packed), 8))
    header = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("bits", "values"),
    [
        (1, [0, 1, 1, 0, 1]),
        (2, [0, 1, 2, 3, 2]),
        (4, [0, 1, 2, 15, 7]),
        (8, [0, 1, 2, 254, 255]),
        (16, [0, 1, 2, 254, 255]),
    ],
)
def test_every_reader_gives_the_true_labels_of_every_depth(tmp_path, bits, values):
    path = grey_png(tmp_path / "a.png", bits, values)
    for labels in (read_labels(path), read_labels(path), read_mask(path).numpy()):
        assert labels.dtype == np.uint8
        assert labels.tolist() == [values]
    assert read_plane(path, "labels")[1] == 2**bits - 1


def test_sixteen_bits_that_are_no_labels_are_refused_with_their_value(tmp_path):
    path = grey_png(tmp_path / "a.png", 16, [0, 771])
    with pytest.raises(DataError, match=r"a\.png: contains the value 771, .* 8-bit palette"):
        read_labels(path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_labels_of_every_depth(tmp_path, bits):
    values = np.array([[0, 1, 2**bits - 1]], np.uint8)
    image = Image.fromarray(values)
    image.putpalette([9, 9, 9] * 2**bits)
    image.save(tmp_path / "a.png", bits=bits, transparency=0)
    assert read_labels(tmp_path / "a.png").tolist() == values.tolist()


def test_alpha_beside_labels_must_say_nothing(tmp_path):
    bands = np.array([[[0, 0], [3, 255], [0, 255]]], np.uint8)
    Image.fromarray(bands).save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 3, 0]]
    bands[0, 1, 1] = 254
    Image.fromarray(bands).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: has transparent pixels with labels; save"):
        read_labels(tmp_path / "b.png")


@pytest.mark.parametrize("format_", ["JPEG", "BMP", "TIFF"])
def test_labels_of_another_format_are_refused_whatever_their_name(tmp_path, format_):
    Image.new("L", (4, 4)).save(tmp_path / "a.png", format=format_)
    with pytest.raises(DataError, match=rf"a\.png: {format_} image of mode L cannot store labels"):
        read_labels(tmp_path / "a.png")


@pytest.mark.parametrize(("bits", "values"), [(1, [0, 1]), (2, [1, 3]), (4, [5, 15])])
def test_saliency_of_few_bits_reaches_one(tmp_path, bits, values):
    path = grey_png(tmp_path / "a.png", bits, values)
    expected = [value / (2**bits - 1) for value in values]
    assert read_saliency(path)[0, 0].tolist() == pytest.approx(expected)


def test_how_a_file_stores_its_pixels(tmp_path):
    for bits, name in ((1, "1"), (4, "L;4"), (8, "L"), (16, "I;16B")):
        with opened(grey_png(tmp_path / "a.png", bits, [1])) as image:
            assert stored_as(image) == name
            image.load()
            assert stored_as(image) == image.mode
