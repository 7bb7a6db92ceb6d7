from __future__ import annotations

import numpy as np
import pytest

from dscnet.metrics.tag_agreement import tag_agreement


def mask(**pixels: int) -> np.ndarray:
    """A mask of one row with so many pixels of each label, e.g. ``l2=5``."""
    return np.concatenate([np.full(n, int(name[1:]), np.uint8) for name, n in pixels.items()])[None]


def test_by_hand():
    items = [
        (mask(l0=50, l1=25, l3=25), {0, 1}),  # class 0 right, 2 wrong, 1 missed
        (mask(l0=90, l2=10), {1}),
    ]
    agreement = tag_agreement(items)
    assert agreement["mask_precision"] == pytest.approx(2 / 3)
    assert agreement["mask_recall"] == pytest.approx(2 / 3)
    assert tag_agreement(items[:1]) == {
        "mask_precision": 0.5,
        "mask_recall": 0.5,
        "mask_f1": 0.5,
    }


def test_f1_is_the_harmonic_mean():
    got = tag_agreement([(mask(l0=1, l1=1, l2=1, l3=1), {0})])
    p, r = got["mask_precision"], got["mask_recall"]
    assert (p, r) == (pytest.approx(1 / 3), 1.0)
    assert got["mask_f1"] == pytest.approx(2 * p * r / (p + r))


def test_a_few_pixels_show_no_class():
    assert tag_agreement([(mask(l0=991, l1=9), ())])["mask_precision"] is None
    assert tag_agreement([(mask(l0=990, l1=10), {0})])["mask_f1"] == 1.0
    assert tag_agreement([(mask(l0=991, l1=9), {0})], shown=0.001)["mask_f1"] == 1.0


def test_uncounted_pixels_are_left_out():
    items = [(mask(l0=100, l1=1, l255=900), {0})]
    assert tag_agreement(items)["mask_recall"] == 0.0
    assert tag_agreement([(mask(l0=98, l1=1, l255=900), {0})])["mask_recall"] == 1.0


def test_nothing_to_compare():
    nothing = {"mask_precision": None, "mask_recall": None, "mask_f1": None}
    assert tag_agreement([]) == nothing
    assert tag_agreement([(mask(l0=5), ()), (mask(l255=5), ())]) == nothing


@pytest.mark.parametrize("shown", [0.0, -1.0, 1.5])
def test_a_share_out_of_range_is_refused(shown):
    with pytest.raises(ValueError, match="shown must be in"):
        tag_agreement([], shown=shown)
