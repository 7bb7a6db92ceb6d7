"""Tests of ``dscnet.labels.windows``."""

from __future__ import annotations

import pytest
import torch

from dscnet.data.scale import windows
from dscnet.labels.windows import join_windows, score_windows


def plain(image, tags):
    """A network that sees each pixel by itself, at half the resolution."""
    return {"cam": torch.nn.functional.avg_pool2d(image[:, :2], 2)}


def test_one_window_is_the_whole_photo(generator):
    image, tags = torch.rand(2, 3, 8, 6, generator=generator), torch.ones(2, 2)
    whole = score_windows(plain, image, tags, windows((8, 6), 1, 0.25))
    assert torch.equal(whole["cam"], plain(image, tags)["cam"])


def test_what_all_windows_agree_on_is_kept(generator):
    image = torch.rand(1, 3, generator=generator)[..., None, None].expand(1, 3, 40, 60)
    joined = score_windows(plain, image, torch.ones(1, 2), windows((40, 60), 3, 0.25))
    torch.testing.assert_close(joined["cam"], image[:, :2])


def test_windows_are_weighed_by_how_near_a_pixel_is_to_their_middle():
    """Two windows of four pixels on a row of six: weights 1 2 2 1 each."""
    parts = [(slice(0, 1), slice(0, 4)), (slice(0, 1), slice(2, 6))]
    seen = [{"x": torch.zeros(1, 1, 1, 4)}, {"x": torch.ones(1, 1, 1, 4)}]
    joined = join_windows(seen, parts, (1, 6))["x"]
    expected = torch.tensor([0, 0, 1 / 3, 2 / 3, 1, 1])
    torch.testing.assert_close(joined.flatten(), expected)


@pytest.mark.parametrize("strength", [0.0, 0.25])
def test_a_refined_map_counts_as_much_as_its_window_shows(strength):
    """Each window's refined map peaks at 1, as SEAM's does, also where hardly anything is there."""

    def seam(image, tags):
        cam = image[:, :1]
        return {"cam": cam, "refined": torch.ones_like(cam)}

    image = torch.zeros(1, 3, 4, 8)
    image[..., :4] = 0.5
    image[..., 4:] = 0.5 * strength
    parts = windows((4, 8), 2, 0.0)
    assert len(parts) == 2
    refined = score_windows(seam, image, torch.ones(1, 1), parts)["refined"]
    torch.testing.assert_close(refined[..., :4], torch.ones(1, 1, 4, 4))
    torch.testing.assert_close(refined[..., 4:], torch.full((1, 1, 4, 4), strength))


def test_a_small_window_counts_as_much_in_its_middle_as_a_large_one():
    """Four and two pixels on a row of five: weights 1/4 2/4 2/4 1/4 and 1/2 1/2."""
    parts = [(slice(0, 1), slice(0, 4)), (slice(0, 1), slice(3, 5))]
    seen = [{"x": torch.zeros(1, 1, 1, 4)}, {"x": torch.ones(1, 1, 1, 2)}]
    joined = join_windows(seen, parts, (1, 5))["x"]
    torch.testing.assert_close(joined.flatten(), torch.tensor([0, 0, 0, 2 / 3, 1]))


def test_maps_in_double_precision_stay_so():
    parts = [(slice(0, 1), slice(0, 3)), (slice(0, 1), slice(0, 6))]
    kind = {"dtype": torch.float64}
    seen = [{"x": torch.zeros(1, 1, 1, 3, **kind)}, {"x": torch.ones(1, 1, 1, 6, **kind)}]
    joined = join_windows(seen, parts, (1, 6))["x"]
    # Weights 1/3 2/3 1/3 and 1/6 2/6 3/6 3/6 2/6 1/6.
    expected = torch.tensor([1 / 3, 1 / 3, 3 / 5, 1, 1, 1], **kind)
    torch.testing.assert_close(joined.flatten(), expected, atol=1e-14, rtol=0)
