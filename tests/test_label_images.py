from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dscnet.data.io import read_mask
from dscnet.files.label_images import read_labels, voc_palette


def colour(label: int) -> tuple[int, ...]:
    return tuple(voc_palette()[3 * label : 3 * label + 3])


def test_the_published_colours_of_voc() -> None:
    assert colour(0) == (0, 0, 0)
    assert colour(1) == (128, 0, 0)  # aeroplane
    assert colour(2) == (0, 128, 0)
    assert colour(7) == (128, 128, 128)
    assert colour(8) == (64, 0, 0)
    assert colour(15) == (192, 128, 128)  # person
    assert colour(20) == (0, 64, 128)  # tv monitor
    assert colour(64) == (32, 0, 0)
    assert colour(255) == (224, 224, 192)


def test_every_label_has_its_own_colour() -> None:
    palette = voc_palette()
    assert len(palette) == 768
    assert all(0 <= value <= 255 for value in palette)
    assert len({colour(label) for label in range(256)}) == 256


@pytest.mark.parametrize(("count", "bits"), [(2, 1), (4, 2), (16, 4), (17, 8)])
def test_small_palettes_are_packed_in_files_and_read_pixel_by_pixel(
    count: int, bits: int, tmp_path: Path
) -> None:
    """Other readers return the packed bytes: findings/torchvision_palette_masks.sh."""
    labels = (np.arange(64).reshape(4, 16) % count).astype(np.uint8)
    image, path = Image.fromarray(labels, "P"), tmp_path / "mask.png"
    image.putpalette(voc_palette()[: 3 * count])
    image.save(path)
    assert path.read_bytes()[24] == bits
    assert np.array_equal(read_labels(path), labels)
    assert np.array_equal(read_mask(path).numpy(), labels)
