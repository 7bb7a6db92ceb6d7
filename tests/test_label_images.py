from __future__ import annotations

from dscnet.files.label_images import voc_palette


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
