from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dscnet.data import check_path
from helpers import write_listed

RNG = np.random.default_rng(0)
PIXELS = {name: RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8) for name in "abcd"}


@pytest.fixture
def listed(tmp_path):
    """Writes photos a to d (cat, dog, cat, dog), and the given splits."""

    tags = dict.fromkeys("ac", "cat") | dict.fromkeys("bd", "dog")
    photos = {name: (pixels, tags[name]) for name, pixels in PIXELS.items()}
    return lambda **splits: write_listed(tmp_path, photos, splits)


def test_lists_that_share_photos_are_refused(listed):
    root = listed(train="abd", val="cda")
    (error,) = check_path(root).errors
    assert "splits train and val: 2 of 3 validation photos are training photos (d, a)" in error
    (root / "splits" / "val.txt").write_text("c")  # the remedy
    assert check_path(root).ok


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_copies_under_other_names_and_formats_are_refused(listed, ending):
    root = listed(train="ab", val="cd")
    assert check_path(root).errors == []
    (root / "images" / "d.png").unlink()
    Image.fromarray(PIXELS["b"]).save(root / "images" / f"d{ending}")
    (error,) = check_path(root).errors
    assert "1 of 2 validation photos have the same pixels" in error and "(d is b)" in error


def test_few_copies_are_a_warning(listed):
    root = listed(train="ab", val="c")
    rows = "".join(f"v{n},cat\n" for n in range(20))
    (root / "tags.csv").write_text("image_id,labels\na,cat\nb,dog\nc,cat\nd,dog\n" + rows)
    for n in range(20):
        pixels = PIXELS["a"] if n == 7 else RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"v{n}.png")
    (root / "splits" / "val.txt").write_text("\n".join(f"v{n}" for n in range(20)))
    report = check_path(root)
    assert report.ok and "1 of 20 validation photos have the same pixels" in report.warnings[0]
    assert "(v7 is a)" in report.warnings[0]


def test_photos_of_one_colour_are_no_copies(listed):
    root = listed(train="ab", val="cd")
    for name in "bd":
        Image.new("RGB", (20, 20), "black").save(root / "images" / f"{name}.png")
    assert check_path(root).ok
