"""Tests of ``dscnet.data.small_objects``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from dscnet.data import PhotoSet, Sample
from dscnet.data.scale import PhotoScale
from dscnet.data.small_objects import small_object_notes


def photos(folder: Path, size: tuple[int, int], things: list[int] | None) -> PhotoSet:
    """Photos of one class each, whose masks show squares of so many pixels a side."""
    samples = []
    for index, side in enumerate(things or [0]):
        path, mask = folder / f"{index}.jpg", folder / f"{index}.png"
        Image.new("RGB", size).save(path)
        labels = np.zeros(size[::-1], dtype=np.uint8)
        labels[10 : 10 + side, 10 : 10 + side] = 1
        labels[-5:] = 255
        Image.fromarray(labels).save(mask)
        samples.append(Sample(str(index), path, (0,), mask if things else None, None))
    return PhotoSet("made", ("cow",), tuple(samples), ())


def test_things_of_a_few_cells_are_told_with_a_setting_that_shows_them(tmp_path):
    """100 of 1600 pixels are 20 of 320, 1.25 cells of 16: three cells take three tiles."""
    made = photos(tmp_path, (1600, 1200), [100, 80, 120])
    (note,) = small_object_notes(made, PhotoScale(320), 16)
    assert note.startswith("cow: about 1.2 cells of the network across (median of 3 photos)")
    tiles = int(re.search(r"--scale.tiles (\d+)", note)[1])
    assert tiles == 3
    assert small_object_notes(made, PhotoScale(320, tiles=tiles), 16) == []
    assert small_object_notes(made, PhotoScale(320, tiles=tiles - 1), 16) != []


def test_large_things_are_not_told(tmp_path):
    assert small_object_notes(photos(tmp_path, (1600, 1200), [400]), PhotoScale(320), 16) == []


def test_where_no_mask_tells_the_size_of_photos_does(tmp_path):
    large = photos(tmp_path, (4000, 3000), None)
    (note,) = small_object_notes(large, PhotoScale(320), 16)
    assert "4000 x 3000 pixels are resized to 320 x 240" in note
    assert "smaller than 600 pixels" in note
    assert small_object_notes(photos(tmp_path, (640, 480), None), PhotoScale(320), 16) == []
    assert small_object_notes(large, PhotoScale(), 16) == [], "at their own size nothing shrinks"
