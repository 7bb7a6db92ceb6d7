from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dscnet.data import scene_backgrounds as backgrounds

PAINTERS = [value for name, value in vars(backgrounds).items() if name.startswith("paint_")]


@pytest.mark.parametrize("paint", PAINTERS)
@pytest.mark.parametrize("size", [32, 97])
def test_backgrounds_are_textured_coloured_and_seeded(
    paint: Callable[[np.random.Generator, int], np.ndarray], size: int
) -> None:
    first, again, other = (paint(np.random.default_rng(seed), size) for seed in (1, 1, 2))
    assert first.shape == (size, size, 3) and first.dtype == np.float32
    assert first.min() > -0.2 and first.max() < 1.3  # lit and clipped later
    assert first.std((0, 1)).max() > 0.03
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_there_is_a_background_for_six_classes_and_two_for_none() -> None:
    assert len(PAINTERS) == 8


def test_cloud_has_the_asked_number_of_blobs() -> None:
    field = backgrounds.cloud(np.random.default_rng(0), 64, 2, 16)
    assert field.shape == (64, 64) and field.min() >= 0 and field.max() <= 1
    down, across = (np.abs(np.diff(field, axis=axis)).mean() for axis in (0, 1))
    assert across > 3 * down


def test_blend_by_hand() -> None:
    share = np.float32([[0.0, 0.25, 1.0]])
    mixed = backgrounds.blend((0.0, 1.0, 0.5), (1.0, 0.0, 0.5), share)
    expected = [[[0, 1, 0.5], [0.25, 0.75, 0.5], [1, 0, 0.5]]]
    assert mixed == pytest.approx(np.float32(expected))
