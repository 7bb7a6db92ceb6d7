from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dscnet.labels.cam import (
    multi_scale_cam,
    normalise_scores,
    scaled_photos,
    sum_views,
)


def normalise_by_loops(scores, tag):
    """One map (nested lists of floats) by the published steps, absent classes 0."""
    flat = [max(value, 0.0) for row in scores for value in row]
    low, high = min(flat), max(flat)
    result = []
    for value in flat:
        kept = 0.0 if value < low + 1e-5 else value
        result.append(max((kept - low - 1e-5) / (high - low + 1e-5), 0.0) * tag)
    return np.array(result).reshape(len(scores), len(scores[0]))


def channel_score(images, tags):
    """A network of two classes that sees the first two colours at half resolution."""
    return {"cam": functional.avg_pool2d(images, 2)[:, :2]}


def test_normalise_equals_loops(generator):
    scores = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    scores[1] += 5  # a map whose smallest value is not 0
    tags = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    result = normalise_scores(scores, tags)
    for b in range(3):
        for c in range(2):
            expected = normalise_by_loops(scores[b, c].tolist(), float(tags[b, c]))
            np.testing.assert_allclose(result[b, c].numpy(), expected, atol=1e-12)


def test_normalise_by_hand():
    scores = torch.tensor([[[[-1.0, 0.0], [1.0, 4.0]]]])
    result = normalise_scores(scores, torch.ones(1, 1))
    assert result[0, 0].tolist() == [
        [0.0, 0.0],
        [pytest.approx(0.99999 / 4.00001), pytest.approx(3.99999 / 4.00001)],
    ]


@pytest.mark.parametrize("value", [0.0, -3.0, 2.0])
def test_a_constant_map_is_nothing(value):
    assert normalise_scores(torch.full((1, 1, 3, 3), value), torch.ones(1, 1)).eq(0).all()


def test_absent_classes_are_zero_and_all_is_in_range(generator):
    scores = torch.randn(2, 3, 6, 6, generator=generator) * 1e3
    result = normalise_scores(scores, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    assert result.min() == 0
    assert 0.99 < result.max() <= 1
    assert result.amax((2, 3)).bool().tolist() == [[False, True, False], [False, False, False]]


@pytest.mark.parametrize(
    "photo_tags", [[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]], [[0.0] * 3] * 2, [[1.0] * 3] * 2]
)
def test_multi_scale_equals_the_views_one_by_one(photo_tags, generator):
    images = torch.randn(2, 3, 10, 14, generator=generator)
    tags = torch.tensor(photo_tags)

    def channel_score(images, tags):
        return {"cam": functional.avg_pool2d(images, 2)}

    result = multi_scale_cam(channel_score, images, tags, scales=(0.5, 1.0, 1.5))
    total = torch.zeros(2, 3, 10, 14, dtype=torch.float64)
    for b in range(2):
        for height, width in ((5, 7), (10, 14), (15, 21)):
            for mirrored in (False, True):
                view = functional.interpolate(
                    images[b : b + 1],
                    (height, width),
                    mode="bicubic",
                    align_corners=False,
                    antialias=True,
                )
                view = torch.flip(view, (3,)) if mirrored else view
                seen = channel_score(view, tags[b : b + 1])["cam"].double()
                seen = functional.interpolate(seen, (10, 14), mode="bilinear", align_corners=False)
                total[b] += (torch.flip(seen, (3,)) if mirrored else seen)[0]
    for b in range(2):
        for c in range(3):
            expected = normalise_by_loops(total[b, c].tolist(), float(tags[b, c]))
            np.testing.assert_allclose(result["cam"][b, c].numpy(), expected, atol=2e-5)


def test_views_have_rounded_sizes_and_keep_names():
    sizes = []

    def score(images, tags):
        sizes.append(tuple(images.shape[2:]))
        ones = torch.ones(1, 1, 1, 1)
        return {"cam": ones, "refined": ones}

    image = torch.zeros(1, 3, 5, 7)
    result = multi_scale_cam(score, image, torch.ones(1, 1), scales=(0.05, 0.5, 1.35), flip=False)
    assert sizes == [(1, 1), (2, 4), (7, 9)]
    assert {name: tuple(value.shape) for name, value in result.items()} == {
        "cam": (1, 1, 5, 7),
        "refined": (1, 1, 5, 7),
    }


def test_mirrored_photos_give_mirrored_maps(generator):
    images = torch.randn(1, 3, 8, 8, generator=generator)
    tags = torch.ones(1, 2)
    plain = multi_scale_cam(channel_score, images, tags)["cam"]
    mirrored = multi_scale_cam(channel_score, images.flip(3), tags)["cam"]
    torch.testing.assert_close(mirrored.flip(3), plain, atol=1e-5, rtol=0)


def test_a_photo_does_not_change_its_neighbours_map(generator):
    images = torch.randn(3, 3, 8, 8, generator=generator)
    tags = torch.ones(3, 2)
    together = multi_scale_cam(channel_score, images, tags)["cam"]
    alone = multi_scale_cam(channel_score, images[1:2], tags[1:2])["cam"]
    torch.testing.assert_close(together[1:2], alone)


def test_half_precision_scores_are_summed_in_single(generator):
    images = torch.randn(1, 3, 8, 8, generator=generator)

    def score(images, tags):
        return {"cam": channel_score(images, tags)["cam"].bfloat16()}

    result = multi_scale_cam(score, images, torch.ones(1, 2))["cam"]
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    expected = multi_scale_cam(channel_score, images, torch.ones(1, 2))["cam"]
    torch.testing.assert_close(result, expected, atol=0.02, rtol=0)


def test_no_gradient_and_the_scores_are_left_alone():
    kept = torch.rand(1, 1, 4, 4, requires_grad=True)
    before = kept.detach().clone()
    result = multi_scale_cam(
        lambda images, tags: {"cam": kept}, torch.zeros(1, 3, 4, 4), torch.ones(1, 1)
    )
    assert not result["cam"].requires_grad
    assert torch.equal(kept, before)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_bad_scales(scales):
    with pytest.raises(ValueError, match="scales must be"):
        multi_scale_cam(channel_score, torch.zeros(1, 3, 4, 4), torch.ones(1, 2), scales=scales)


@pytest.mark.parametrize("flip", [True, False])
def test_maps_of_single_scales_are_those_of_each_scale_alone(generator, flip):
    images = torch.rand(2, 3, 8, 10, generator=generator)
    tags = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    kept = []
    scales = (0.5, 1.0, 1.5)
    maps = multi_scale_cam(
        channel_score, images, tags, scales=scales, flip=flip, each_scale=kept.append
    )
    assert torch.equal(
        maps["cam"], multi_scale_cam(channel_score, images, tags, scales=scales, flip=flip)["cam"]
    ), "keeping them changes nothing"
    for scale, one in zip(scales, kept, strict=True):
        alone = multi_scale_cam(channel_score, images, tags, scales=[scale], flip=flip)
        assert torch.equal(one["cam"], alone["cam"])


def test_published_negatives_by_hand():
    scores = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]], [[[-1.0, 0.0], [1.0, 4.0]]]])
    result = normalise_scores(scores, torch.ones(2, 1), published_negatives=True)
    first = [(0 - 1.00001) / 4.00001, 0.99999 / 4.00001, 1.99999 / 4.00001, 3.99999 / 4.00001]
    second = [-0.00001 / 4.00001] * 2 + [0.99999 / 4.00001, 3.99999 / 4.00001]
    for values, expected in zip(result, (first, second), strict=True):
        assert values.flatten().tolist() == pytest.approx(expected, abs=1e-7)
    absent = normalise_scores(scores, torch.zeros(2, 1), published_negatives=True)
    assert absent.eq(-1).all()


def test_maps_are_enlarged_to_their_view_first_where_asked(generator):
    images = torch.randn(1, 3, 6, 8, generator=generator)
    maps = torch.rand(1, 2, 3, 3, generator=generator)
    view = torch.zeros(1, 3, 9, 12)
    summed = sum_views(
        lambda images, tags: {"cam": maps},
        [view],
        torch.ones(1, 2),
        (6, 8),
        flip=False,
        published_resize=True,
    )["cam"]
    enlarged = functional.interpolate(maps, (9, 12), mode="bilinear", align_corners=True)
    expected = functional.interpolate(enlarged, (6, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(summed, expected)
    result = multi_scale_cam(
        lambda images, tags: {"cam": maps},
        images,
        torch.ones(1, 2),
        views=[view],
        flip=False,
        published_resize=True,
    )["cam"]
    torch.testing.assert_close(result, normalise_scores(expected, torch.ones(1, 2)))


def test_unstretched_maps_are_means_over_the_views():
    seen = iter((0.2, 0.4, 0.9, 1.5))

    def score(images, tags):
        value = next(seen)
        return {"refined": torch.full((1, 2, 2, 2), value), "cam": torch.rand(1, 2, 2, 2)}

    tags = torch.tensor([[1.0, 0.0]])
    result = multi_scale_cam(
        score, torch.zeros(1, 3, 4, 4), tags, scales=(1.0, 2.0), unstretched=("refined",)
    )
    assert result["refined"][0, :, 0, 0].tolist() == pytest.approx([0.75, 0.0])
    assert result["cam"].min() == 0


def test_photos_are_scaled_by_pillow(generator):
    photo = torch.randint(0, 256, (9, 6, 3), generator=generator, dtype=torch.uint8).numpy()
    scaled = scaled_photos(photo, (0.5, 1.0, 2.0))
    assert [view.shape for view in scaled] == [(4, 3, 3), (9, 6, 3), (18, 12, 3)]
    assert np.array_equal(scaled[1], photo)
    expected = Image.fromarray(photo).resize((12, 18), Image.Resampling.BICUBIC)
    assert np.array_equal(scaled[2], np.asarray(expected))
    with pytest.raises(ValueError, match="scales must be"):
        scaled_photos(photo, (0.0,))


def test_views_are_also_seen_mirrored_unless_told_otherwise(generator):
    def ramp(image, tags):
        return {"cam": image[:, :1] * torch.arange(image.shape[3])}

    image, tags = torch.rand(1, 3, 4, 5, generator=generator), torch.ones(1, 1)
    both = ramp(image, tags)["cam"] + ramp(image.flip(3), tags)["cam"].flip(3)
    torch.testing.assert_close(sum_views(ramp, [image], tags, (4, 5))["cam"], both)
    once = sum_views(ramp, [image], tags, (4, 5), flip=False)["cam"]
    torch.testing.assert_close(once, ramp(image, tags)["cam"])
