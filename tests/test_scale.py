"""Tests of ``dscnet.data.scale``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dscnet.data.scale import PhotoScale, same_shape, windows, with_long_side


def test_by_default_photos_are_seen_and_worked_on_at_their_own_size():
    scale = PhotoScale()
    assert scale.work_size((213, 320)) == (213, 320)
    assert scale.view_size((213, 320), 1.5) == (320, 480)
    assert scale.view_size((5, 7), 0.5) == (round(2.5), round(3.5))
    assert scale.read_side([0.5, 2.0]) is None


@pytest.mark.parametrize("times", [0.5, 1, 2, 4, 12.5])
def test_photos_of_one_scene_are_seen_alike_whatever_their_resolution(times):
    scale = PhotoScale(320)
    own = (round(213 * times), round(320 * times))
    seen = [scale.work_size(own), scale.view_size(own, 1.0), scale.view_size(own, 1.5)]
    expected = [(213, 320), (213, 320), (320, 480)]
    # The shorter side of a halved photo is rounded before it is seen.
    assert np.abs(np.array(seen) - expected).max() <= 2


def test_upright_photos_are_measured_by_their_longer_side_too():
    assert PhotoScale(320).view_size((4000, 3000), 1.5) == (480, 360)


def test_maps_may_be_worked_on_at_another_size():
    fine = PhotoScale(300, 600)
    assert fine.work_size((3000, 4000)) == (450, 600)
    assert fine.view_size((3000, 4000), 1.0) == (225, 300), "the network sees what it was taught"
    bound = PhotoScale(None, 600)
    assert bound.work_size((3000, 4000)) == (450, 600)
    assert bound.view_size((3000, 4000), 2.0) == (900, 1200)
    assert bound.work_size((300, 400)) == (300, 400), "small photos are not enlarged to it"
    assert bound.factor((3000, 4000), 2.0) == 0.3


def test_a_photo_is_read_as_large_as_anything_needs_it():
    assert PhotoScale(300).read_side([0.5]) == 300, "maps are of that size"
    assert PhotoScale(300).read_side([1.0, 1.5]) == 450
    assert PhotoScale(300, 800).read_side([1.0, 1.5]) == 800
    assert PhotoScale(300, tiles=3).read_side([1.5]) == 1350
    assert PhotoScale(None, 800).read_side([1.0, 2.0]) == 800


def test_tiles_enlarge_what_is_seen():
    scale = PhotoScale(300, tiles=3)
    assert scale.work_size((3000, 4000)) == scale.view_size((3000, 4000), 1.0) == (675, 900)


def test_no_side_vanishes():
    assert PhotoScale(300).view_size((3, 4000), 1.0) == (1, 300)
    assert with_long_side((1, 1000), 10) == (1, 10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side": 0}, "side must be at least 1"),
        ({"work_side": -3}, "work_side must be at least 1"),
        ({"side": 300, "tiles": 0}, "tiles must be at least 1"),
        ({"tile_overlap": 1.0}, r"tile_overlap must be in \[0, 1\)"),
        ({"tiles": 2}, "their own size"),
    ],
)
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        PhotoScale(**values)


def test_shapes_are_compared_up_to_a_pixel():
    assert same_shape((213, 320), (852, 1280))
    assert same_shape((107, 160), (213, 320))
    assert not same_shape((213, 320), (320, 213))
    assert not same_shape((213, 320), (240, 320))


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
)
def test_windows_cover_the_photo_and_overlap(height, width, tiles, overlap):
    parts = windows((height, width), tiles, overlap)
    side = -(-max(height, width) // tiles)
    covered = np.zeros((height, width), dtype=int)
    for rows, columns in parts:
        covered[rows, columns] += 1
        assert rows.stop - rows.start == min(side, height)
        assert columns.stop - columns.start == min(side, width)
    assert covered.min() == 1 or overlap > 0 and covered.min() >= 1
    if tiles == 1:
        assert parts == [(slice(0, height), slice(0, width))]
    for axis in (0, 1):
        starts = sorted({part[axis].start for part in parts})
        kept = min(side, (height, width)[axis])
        # Evenly spread starts are rounded, which may take a pixel of the overlap.
        for before, after in zip(starts, starts[1:], strict=False):
            assert before + kept - after >= min(overlap * kept, kept - 1) - 1
