"""Pearson context, its two readings, and what is computed over groups: against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from dscnet.context import (
    PixelGroups,
    cam_starts,
    context_row_factor,
    correlate_groups,
    group_mean,
    group_pixels,
    kmeans,
    pool_groups,
    standardise,
)


def pearson(x, y):
    """Pearson correlation of two lists, from its definition; 0 where one does not vary."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    cov = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    var_x = sum((a - mean_x) ** 2 for a in x)
    var_y = sum((b - mean_y) ** 2 for b in y)
    return cov / (var_x * var_y) ** 0.5 if var_x > 0 and var_y > 0 else 0.0


def pearson_matrix(features):
    """The N x N context of Eq. (4), pair by pair, from ``(D, h, w)``."""
    pixels = features.flatten(1).mT.tolist()
    rows = [[pearson(p, q) for q in pixels] for p in pixels]
    return torch.tensor(rows, dtype=torch.float64)


def partition(ids):
    """A partition without the names of its groups."""
    return {frozenset((ids == group).nonzero()[:, 0].tolist()) for group in ids.unique()}


def random_groups(generator, batch=2, num_pixels=12, num_groups=3):
    ids = torch.randint(0, num_groups, (batch, num_pixels), generator=generator)
    return PixelGroups(ids, num_groups)


def test_standardised_products_are_pearson_correlations(generator):
    features = torch.randn(2, 5, 2, 3, generator=generator, dtype=torch.float64)
    z = standardise(features)
    for b in range(2):
        expected = pearson_matrix(features[b])
        torch.testing.assert_close(z[b] @ z[b].mT, expected)
        distances = torch.cdist(z[b], z[b]).pow(2)
        torch.testing.assert_close(distances, 2 - 2 * expected, atol=1e-12, rtol=0)


def test_scale_and_offset_of_a_pixel_do_not_matter(generator):
    features = torch.randn(1, 6, 2, 2, generator=generator, dtype=torch.float64)
    moved = 3.5 * features + torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(standardise(moved), standardise(features))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
@pytest.mark.parametrize("channels", [3, 4096])
def test_a_constant_pixel_becomes_zero(value, channels):
    features = torch.full((1, channels, 2, 2), value)
    features[0, 0, 0, 0] += 1 + abs(value)
    features.requires_grad_()
    z = standardise(features)
    assert (z[0, 1:] == 0).all()
    assert float(z[0, 0].detach().norm()) == pytest.approx(1, rel=1e-3)
    z.sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()


def test_standardise_gradient(generator):
    features = torch.randn(1, 4, 1, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(standardise, features.requires_grad_())


def test_standardise_needs_a_map():
    with pytest.raises(ValueError, match="features must be"):
        standardise(torch.zeros(2, 3, 4))


@pytest.mark.parametrize(("channels", "height", "width"), [(5, 5, 6), (40, 4, 5), (6, 2, 3)])
def test_row_factor_keeps_the_distances_of_the_rows(channels, height, width, generator):
    features = torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
    points = context_row_factor(standardise(features))
    assert points.shape == (2, height * width, min(height * width, channels))
    for b in range(2):
        rows = pearson_matrix(features[b])
        torch.testing.assert_close(torch.cdist(points[b], points[b]), torch.cdist(rows, rows))


@pytest.mark.parametrize("channels", [5, 40])
@pytest.mark.parametrize("grouping", ["pearson", "context_rows"])
def test_both_readings_partition_as_the_naive_n_by_n_computation(grouping, channels, generator):
    """Same start pixels: Lloyd on the naive vectors and on ours must give the same groups."""
    features = torch.randn(3, channels, 4, 6, generator=generator, dtype=torch.float64)
    z = standardise(features)
    points = context_row_factor(z) if grouping == "context_rows" else z
    counts = torch.tensor([4, 2, 3])
    ids = kmeans(points, counts, starts=points[:, :4], max_iter=100)
    for b, count in enumerate(counts.tolist()):
        rho = pearson_matrix(features[b])
        members = [[k] for k in range(count)]
        for _ in range(100):
            # To a group's mean from the pairwise distances alone, no coordinates needed:
            # |x - mean|^2 = mean_q d(x, q) - mean_qr d(q, r) / 2.
            square = torch.cdist(rho, rho).pow(2) if grouping == "context_rows" else 2 - 2 * rho
            scores = torch.stack(
                [square[:, m].mean(1) - square[m][:, m].mean() / 2 for m in members], 1
            )
            nearest = scores.argmin(1)
            new = [(nearest == k).nonzero()[:, 0].tolist() for k in range(count)]
            if new == members:
                break
            members = new
        assert all(members)
        assert ids[b].tolist() == nearest.tolist()


def test_the_two_readings_differ(generator):
    features = torch.randn(8, 6, 6, 6, generator=generator)
    present = torch.ones(8, 3, dtype=torch.bool)
    cam = torch.rand(8, 3, 6, 6, generator=generator)
    ids = [
        group_pixels(features, cam, present, grouping=g).ids for g in ("pearson", "context_rows")
    ]
    assert not torch.equal(*ids)


def test_groups_know_their_counts():
    groups = PixelGroups(torch.tensor([[0, 2, 2], [1, 1, 1]]), num_groups=3)
    assert groups.one_hot()[0].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert groups.counts.tolist() == [[1, 0, 2], [0, 3, 0]]
    assert groups.valid.tolist() == [[True, False, True], [False, True, False]]


def test_cam_starts_are_weighted_means(generator):
    points = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    cam = torch.rand(2, 4, 2, 3, generator=generator, dtype=torch.float64)
    present = torch.tensor([[True, False, True, False], [True, True, True, True]])
    starts = cam_starts(points, cam, present)
    assert starts.shape == (2, 4, 3)
    for b, labels in enumerate([[0, 2], [0, 1, 2, 3]]):
        for slot, label in enumerate(labels):
            weights = []
            for n in range(6):
                values = [float(cam[b, c].flatten()[n]) for c in labels if c > 0]
                weights.append(1 - max(values) if label == 0 else float(cam[b, label].flatten()[n]))
            total = sum(w * points[b, n] for n, w in enumerate(weights))
            torch.testing.assert_close(starts[b, slot], total / sum(weights))
    assert starts.isfinite().all()


def test_cam_starts_without_any_cam_are_finite_and_apart(generator):
    points = torch.randn(1, 9, 3, generator=generator)
    starts = cam_starts(points, torch.zeros(1, 3, 3, 3), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(starts[0, 0], points[0].mean(0))
    assert torch.cdist(starts[0], starts[0]).fill_diagonal_(1).gt(0).all()
    saturated = cam_starts(points, torch.ones(1, 3, 3, 3), torch.ones(1, 3, dtype=torch.bool))
    assert saturated.isfinite().all()


def test_groups_follow_the_cam(generator):
    """Three textures, CAMs that cover each object only in part: the groups are the objects."""
    prototypes = torch.randn(3, 16, generator=generator)
    truth = torch.zeros(6, 6, dtype=torch.int64)
    truth[:3, :3], truth[4:, 2:] = 1, 2
    features = prototypes[truth].permute(2, 0, 1)[None]
    features = features + 0.1 * torch.randn(1, 16, 6, 6, generator=generator)
    cam = torch.zeros(1, 4, 6, 6)
    cam[0, 0] = 0.2
    cam[0, 1, 0, 0], cam[0, 3, 5, 5] = 1, 1
    present = torch.tensor([[True, True, False, True]])
    for grouping in ("pearson", "context_rows"):
        groups = group_pixels(features, cam, present, grouping=grouping)
        assert groups.num_groups == 3
        assert torch.equal(groups.ids[0], truth.flatten())
    random = group_pixels(features, cam, present, starts="kmeans++", generator=generator)
    assert partition(random.ids[0]) == partition(truth.flatten())


def test_group_count_is_that_of_the_labels_or_fixed(generator):
    features = torch.randn(3, 8, 5, 5, generator=generator)
    cam = torch.rand(3, 4, 5, 5, generator=generator)
    present = torch.tensor([[True, False, False, False], [True, True, True, False], [True] * 4])
    groups = group_pixels(features, cam, present)
    assert groups.num_groups == 4
    assert groups.valid.sum(1).tolist() == [1, 3, 4]
    fixed = group_pixels(
        features, cam, present, starts="kmeans++", num_groups=5, generator=generator
    )
    assert fixed.valid.sum(1).tolist() == [5, 5, 5]


@pytest.mark.parametrize("starts", ["cam", "kmeans++"])
@pytest.mark.parametrize("grouping", ["pearson", "context_rows"])
def test_more_groups_than_pixels_constant_features_and_bf16(grouping, starts, generator):
    present = torch.ones(2, 4, dtype=torch.bool)
    options = {"grouping": grouping, "starts": starts, "generator": generator}
    tiny = torch.randn(2, 8, 1, 2, generator=generator)
    groups = group_pixels(tiny, torch.zeros(2, 4, 1, 2), present, **options)
    assert groups.counts.sum(1).tolist() == [2, 2]
    groups = group_pixels(torch.ones(2, 8, 3, 3), torch.zeros(2, 4, 3, 3), present, **options)
    assert groups.valid.sum(1).tolist() == [1, 1]
    half = torch.randn(2, 8, 3, 3, generator=generator).bfloat16()
    groups = group_pixels(half, torch.rand(2, 4, 3, 3, generator=generator), present, **options)
    assert groups.counts.sum(1).tolist() == [9, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grouping": "rows"}, "grouping must be one of pearson, context_rows"),
        ({"starts": "random"}, r"starts must be one of cam, kmeans\+\+"),
        ({"num_groups": 0, "starts": "kmeans++"}, "num_groups must be >= 1"),
        ({"num_groups": 3}, r"num_groups=3 needs starts='kmeans\+\+'"),
        ({"present": torch.zeros(1, 2, dtype=torch.bool)}, "present must name a label"),
    ],
)
def test_wrong_options(options, message):
    present = options.pop("present", torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=message):
        group_pixels(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, 2), present, **options)


def test_group_mean_against_loops(generator):
    values = torch.randn(2, 12, 4, generator=generator, dtype=torch.float64)
    groups = PixelGroups(random_groups(generator).ids, num_groups=5)
    means = group_mean(values, groups)
    for b in range(2):
        for k in range(5):
            members = [values[b, n] for n in range(12) if int(groups.ids[b, n]) == k]
            expected = sum(members) / len(members) if members else torch.zeros(4).double()
            torch.testing.assert_close(means[b, k], expected)
    assert torch.autograd.gradcheck(lambda v: group_mean(v, groups), values.requires_grad_())


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_pooling_over_groups_against_loops(sharpness, generator):
    maps = torch.randn(2, 3, 2, 3, generator=generator)
    ids = torch.tensor([[0, 0, 1, 3, 3, 3], [2, 2, 2, 2, 2, 2]])
    pooled = pool_groups(maps, PixelGroups(ids, 4), sharpness)
    assert pooled.shape == (2, 2)
    for b in range(2):
        used = sorted(set(ids[b].tolist()))
        for c in range(2):
            values = maps[b, c + 1].flatten().tolist()
            means = []
            for k in used:
                members = [values[n] for n in range(6) if ids[b, n] == k]
                means.append(sum(members) / len(members))
            total = sum(math.exp(sharpness * mean) for mean in means) / len(means)
            assert pooled[b, c].item() == pytest.approx(math.log(total) / sharpness, abs=1e-5)


def test_pooling_lies_between_mean_and_maximum_and_has_a_gradient(generator):
    maps = torch.randn(1, 2, 2, 2, generator=generator, dtype=torch.float64)
    groups = PixelGroups(torch.tensor([[0, 1, 2, 3]]), 6)
    flat = pool_groups(maps, groups, 1e-4).item()
    sharp = pool_groups(maps, groups, 1e3).item()
    assert flat == pytest.approx(maps[:, 1:].mean().item(), abs=1e-3)
    assert sharp == pytest.approx(maps[:, 1:].max().item(), abs=0.01)
    maps.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: pool_groups(m, groups, 2.0), maps)


def test_correlation_with_groups_against_loops(generator):
    features = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    groups = PixelGroups(random_groups(generator).ids, num_groups=4)
    z = standardise(features)
    context = correlate_groups(z, groups)
    assert context.shape == (2, 12, 4)
    for b in range(2):
        pixels = features[b].flatten(1).mT
        for k in range(4):
            members = z[b][groups.ids[b] == k].tolist()
            for p in range(12):
                expected = 0.0
                if members:
                    mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
                    expected = pearson(pixels[p].tolist(), mean)
                assert float(context[b, p, k]) == pytest.approx(expected, abs=1e-12)


def test_a_group_of_one_pixel_correlates_with_itself(generator):
    z = standardise(torch.randn(1, 6, 1, 2, generator=generator))
    context = correlate_groups(z, PixelGroups(torch.tensor([[1, 0]]), num_groups=2))
    assert context[0].diagonal(offset=0).abs().max() < 1
    torch.testing.assert_close(context[0, [0, 1], [1, 0]], torch.ones(2))


def test_names_of_the_groups_do_not_matter(generator):
    groups = random_groups(generator)
    order = torch.tensor([2, 0, 1])
    renamed = PixelGroups(order[groups.ids], num_groups=3)
    z = standardise(torch.randn(2, 5, 3, 4, generator=generator))
    torch.testing.assert_close(
        correlate_groups(z, renamed)[..., order], correlate_groups(z, groups)
    )


def test_background_alone_starts_at_the_mean_of_all_pixels(generator):
    points = torch.randn(1, 9, 3, generator=generator)
    starts = cam_starts(points, torch.rand(1, 1, 3, 3), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(starts[0, 0], points[0].mean(0))


@pytest.mark.parametrize("grouping", ["pearson", "context_rows"])
def test_pixels_are_grouped_by_the_reading_asked_for(grouping, generator):
    features = torch.randn(4, 6, 6, 6, generator=generator)
    cam = torch.rand(4, 4, 6, 6, generator=generator)
    present = torch.ones(4, 4, dtype=torch.bool)
    correlated = standardise(features)
    points = {"pearson": correlated, "context_rows": context_row_factor(correlated)}
    expected = {
        name: kmeans(one, torch.full((4,), 4), starts=cam_starts(one, cam, present))
        for name, one in points.items()
    }
    assert not torch.equal(expected["pearson"], expected["context_rows"])
    groups = group_pixels(features, cam, present, grouping=grouping)
    assert torch.equal(groups.ids, expected[grouping])
