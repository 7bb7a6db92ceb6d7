from __future__ import annotations

import inspect
import time

import pytest
import torch
from torch.nn import functional as F

from dscnet.refine.pair_walk import affinity_walk, boundary_walk, pair_transition, pairs_on_map
from dscnet.refine.pairs import line_affinity, pair_affinity, pair_offsets


def dense_affinity(affinity, size, radius):
    """A = I + symmetric pairs, entry by entry, in float64; pairs by their anchors."""
    height, width = size
    matrix = torch.eye(height * width, dtype=torch.float64)
    anchors = [
        (y, x) for y in range(height - radius + 1) for x in range(radius - 1, width - radius + 1)
    ]
    for k, (dy, dx) in enumerate(pair_offsets(radius)):
        for m, (y, x) in enumerate(anchors):
            i, j = y * width + x, (y + dy) * width + x + dx
            matrix[i, j] = matrix[j, i] = float(affinity[k, m])
    return matrix


def published_walk(maps, matrix, beta, log_steps):
    """Columns divided by their sums, the matrix squared again and again, maps from the left."""
    matrix = matrix**beta
    matrix = matrix / matrix.sum(0, keepdim=True)
    for _ in range(log_steps):
        matrix = matrix @ matrix
    return (maps.double().flatten(1) @ matrix).view(maps.shape)


@pytest.mark.parametrize("photo", [(56, 80), (53, 75), (49, 73)])
@pytest.mark.parametrize(("radius", "beta", "log_steps"), [(5, 8.0, 6), (3, 2.0, 0), (2, 1.0, 3)])
def test_the_walk_is_the_dense_one(photo, radius, beta, log_steps, generator):
    features = torch.randn(1, 8, 7, 10, generator=generator)
    affinity = pair_affinity(features, radius=radius)[0]
    scores = torch.rand(3, *photo, generator=generator)
    padded = torch.zeros(3, 56, 80)
    padded[:, : photo[0], : photo[1]] = scores
    cells = F.avg_pool2d(padded.double()[None], 8, 8)[0]
    matrix = dense_affinity(affinity, (7, 10), radius)
    expected = published_walk(cells, matrix, beta, log_steps)
    expected = F.interpolate(expected[None], (56, 80), mode="bilinear", align_corners=False)[0]
    walked = affinity_walk(scores, affinity, radius=radius, beta=beta, log_steps=log_steps)
    assert walked.shape == scores.shape
    torch.testing.assert_close(
        walked.double(), expected[:, : photo[0], : photo[1]], atol=1e-6, rtol=0
    )
    assert not torch.allclose(walked, affinity_walk(scores, affinity.roll(1, 1), radius=radius))


def test_a_walk_by_hand():
    """Two rows of three cells of one pixel: the middle of the first row is the only anchor."""
    affinity = torch.tensor([[0.5], [0.0], [0.0], [0.0]])
    scores = torch.tensor([[[0.0, 0.3, 0.6], [0.1, 0.2, 0.9]]])
    walked = affinity_walk(scores, affinity, stride=1, radius=2, beta=1.0, log_steps=0)
    one, two = (0.3 + 0.5 * 0.6) / 1.5, (0.6 + 0.5 * 0.3) / 1.5
    torch.testing.assert_close(walked, torch.tensor([[[0.0, one, two], [0.1, 0.2, 0.9]]]))


def test_rows_of_the_transition_sum_to_one(generator):
    pairs = torch.rand(34, 6, 9, generator=generator)
    indices, weights = pair_transition(pairs, radius=5, beta=8.0)
    torch.testing.assert_close(weights.sum(1), torch.ones(54))
    assert indices.shape == weights.shape == (54, 69)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (100, 30)])
def test_photos_without_pairs_keep_their_scores(size, generator):
    scores = torch.rand(2, *size, generator=generator)
    walked = affinity_walk(scores, torch.zeros(34, 0))
    padded = F.pad(scores, (0, -size[1] % 8, 0, -size[0] % 8))
    kept = F.avg_pool2d(padded[None], 8)
    kept = F.interpolate(kept, padded.shape[-2:], mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(walked, kept[:, : size[0], : size[1]])


def test_pairs_of_another_map_are_refused():
    with pytest.raises(ValueError, match=r"affinity must be \(34, 4\), the pairs within radius 5"):
        pairs_on_map(torch.zeros(34, 5), (6, 10), radius=5)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (4, 5), (8, 6)])
@pytest.mark.parametrize(("radius", "beta", "log_steps"), [(5, 10.0, 8), (3, 2.0, 1)])
def test_the_walk_between_boundaries_is_the_dense_one(size, radius, beta, log_steps, generator):
    """As published: on a map surrounded by boundary, whose own cells are cut out afterwards."""
    boundary = torch.rand(*size, generator=generator) ** 3
    maps = torch.rand(2, *size, generator=generator)
    wide = F.pad(boundary, (radius, radius, 0, radius), value=1.0)
    affinity = line_affinity(wide[None].double(), radius=radius)[0]
    height, width = size
    matrix = dense_affinity(affinity, tuple(wide.shape), radius)
    matrix = matrix.view(*wide.shape, *wide.shape)
    inner = (slice(0, height), slice(radius, radius + width))
    matrix = matrix[(*inner, *inner)].reshape(height * width, -1)
    expected = published_walk(maps * (1 - boundary), matrix, beta, log_steps)
    walked = boundary_walk(maps, boundary, radius=radius, beta=beta, log_steps=log_steps)
    torch.testing.assert_close(walked.double(), expected, atol=1e-6, rtol=0)


def test_nothing_spreads_over_a_boundary():
    boundary = torch.zeros(8, 9)
    boundary[:, 4] = 1
    maps = torch.zeros(1, 8, 9)
    maps[0, 3, 1] = 1
    walked = boundary_walk(maps, boundary)
    assert (walked[0, :, :4] > 0.01).all()
    assert walked[0, :, 4:].abs().max() == 0


def test_boundaries_of_another_size_are_refused():
    with pytest.raises(ValueError, match="boundary must have the size of maps"):
        boundary_walk(torch.zeros(1, 4, 4), torch.zeros(4, 5))


def test_a_photo_takes_seconds_and_a_large_one_little_memory(generator):
    """375 x 500 with 21 maps; a dense matrix of the large photo would hold a gigabyte."""
    affinity = torch.rand(34, (47 - 4) * (63 - 8), generator=generator)
    scores = torch.rand(21, 375, 500, generator=generator)
    started = time.process_time()
    walked = affinity_walk(scores, affinity)
    assert time.process_time() - started < 4  # 2 on a machine of its own
    assert walked.isfinite().all()
    large = affinity_walk(
        torch.rand(2, 1000, 1000, generator=generator),
        torch.rand(34, 121 * 117, generator=generator),
        log_steps=1,
    )
    assert large.shape == (2, 1000, 1000)


@pytest.mark.parametrize(
    ("walk", "published"),
    [
        (affinity_walk, {"stride": 8, "radius": 5, "beta": 8.0, "log_steps": 6}),
        (boundary_walk, {"radius": 5, "beta": 10.0, "log_steps": 8}),
    ],
)
def test_the_constants_are_the_published_ones(walk, published):
    parameters = inspect.signature(walk).parameters
    assert {name: parameters[name].default for name in published} == published
