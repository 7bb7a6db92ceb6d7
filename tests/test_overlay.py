from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dscnet.report import overlay as module
from dscnet.report.overlay import colour_mask, heat, overlay, sheet

PHOTO = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
LABELS = np.array([[0, 1, 2, 15, 20, 255, 0]] * 5, dtype=np.uint8)

# From the VOC development kit.
COLOURS = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
    255: (224, 224, 192),
}


def test_masks_have_the_voc_colours():
    picture = colour_mask(LABELS)
    assert picture.dtype == np.uint8
    assert picture.shape == (5, 7, 3)
    for x, label in enumerate(LABELS[0]):
        assert tuple(picture[3, x].tolist()) == COLOURS[int(label)]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.3, 1.0])
def test_overlay_equals_loops(alpha):
    picture = overlay(PHOTO, LABELS, alpha)
    assert picture.dtype == np.uint8
    for y in range(5):
        for x in range(7):
            label = int(LABELS[y, x])
            for channel in range(3):
                shade = int(PHOTO[y, x, channel])
                if label != 0:
                    shade = round((1 - alpha) * shade + alpha * COLOURS[label][channel])
                assert picture[y, x, channel] == shade


def test_heat_keeps_the_order_of_the_scores():
    grey = np.full((1, 11, 3), 128, dtype=np.uint8)
    scores = np.linspace(0, 1, 11)[None]
    brightness = heat(grey, scores).astype(int).sum(-1)[0]
    assert (np.diff(brightness) > 0).all()


def test_heat_by_hand():
    photo = np.array([[[100, 0, 200]] * 4], dtype=np.uint8)
    scores = np.array([[0.0, 0.5, 1.0, 7.0]], dtype=np.float32)
    ends = [(35, 0, 73), (157, 36, 125), (199, 166, 177), (199, 166, 177)]
    assert heat(photo, scores).tolist() == [[list(colour) for colour in ends]]


@pytest.mark.parametrize("stripe", [1, 14, 20])
def test_stripes_change_nothing(stripe, monkeypatch):
    scores = np.random.default_rng(1).random((5, 7), dtype=np.float32)
    # As a network's photo lies: channel by channel.
    photo = np.ascontiguousarray(PHOTO.transpose(2, 0, 1)).transpose(1, 2, 0)
    whole = overlay(PHOTO, LABELS, 0.3), heat(PHOTO, scores)
    monkeypatch.setattr(module, "_STRIPE", stripe)
    np.testing.assert_array_equal(overlay(photo, LABELS, 0.3), whole[0])
    np.testing.assert_array_equal(heat(photo, scores), whole[1])


def test_an_overlay_takes_little_more_memory_than_its_pixels():
    """In double precision, 4 megapixels would take 100 MB twice."""
    photo, labels = np.zeros((2000, 2000, 3), np.uint8), np.ones((2000, 2000), np.uint8)
    tracemalloc.start()
    overlay(photo, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("picture", [overlay, heat])
def test_other_sizes_are_refused(picture):
    with pytest.raises(ValueError, match=r"the size of the photo, \(5, 7\), got \(7, 5\)"):
        picture(PHOTO, np.zeros((7, 5), dtype=np.uint8))


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_weights_out_of_range_are_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be in"):
        overlay(PHOTO, LABELS, alpha)


def test_a_sheet_places_every_picture_at_its_own_size():
    wide, small = np.zeros((5, 7, 3), np.uint8), np.full((3, 2, 3), 9, np.uint8)
    page = sheet([[wide, small], [small, small]], ["a", "b"])
    # Columns of 7 + 6 pixels after a margin of 6; rows of 5 + 6 and 3 + 6 below a heading of 18.
    assert page.shape == (18 + 11 + 9, 6 + 2 * 13, 3)
    assert (page[18:23, 6:13] == wide).all()
    assert (page[18:21, 19:21] == small).all()
    assert (page[29:32, 6:8] == small).all()
    assert (page[32:] == 255).all()


@pytest.mark.parametrize("rows", [[], [[PHOTO]], [[PHOTO, PHOTO], [PHOTO]]])
def test_a_sheet_needs_a_picture_a_heading(rows):
    with pytest.raises(ValueError, match="rows must have 2 pictures"):
        sheet(rows, ["a", "b"])
