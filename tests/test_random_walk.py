from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dscnet.refine.random_walk import random_walk, transition
from helpers import peak_bytes


def dense_transition(features, radius, power):
    """The whole N x N matrix, pair by pair, in float64."""
    channels, height, width = features.shape
    cells = features.double().reshape(channels, -1).T
    cells = cells - cells.mean(0)
    count = height * width
    matrix = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            dy, dx = i // width - j // width, i % width - j % width
            if dy * dy + dx * dx < radius * radius:
                cosine = float(cells[i] @ cells[j] / (cells[i].norm() * cells[j].norm()))
                matrix[i, j] = 1.0 if i == j else max(cosine, 0.0) ** power
    return matrix / matrix.sum(1, keepdim=True)


@pytest.mark.parametrize(("radius", "power"), [(1, 2.0), (2, 1.0), (3, 8.0), (5, 2.0)])
def test_the_sparse_matrix_is_the_dense_one(radius, power, generator):
    features = torch.rand(4, 5, 6, generator=generator)
    indices, weights = transition(features, radius=radius, power=power)
    sparse = torch.zeros(30, 30).scatter_add(1, indices, weights)
    expected = dense_transition(features, radius, power)
    torch.testing.assert_close(sparse.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights.sum(1), torch.ones(30))


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_walk_is_a_power_of_the_matrix(steps, generator):
    features = torch.rand(4, 5, 6, generator=generator)
    probabilities = torch.rand(3, 10, 12, generator=generator)
    cells = F.avg_pool2d(probabilities[None], 2)[0].flatten(1).T.double()
    matrix = dense_transition(features, 3, 2.0)
    expected = (torch.linalg.matrix_power(matrix, steps) @ cells).T.reshape(1, 3, 5, 6)
    expected = F.interpolate(expected, (10, 12), mode="bilinear", align_corners=False)
    walked = random_walk(probabilities[None], features[None], radius=3, power=2.0, steps=steps)
    torch.testing.assert_close(walked.double(), expected, atol=1e-5, rtol=0)


def test_labels_fill_what_looks_alike_and_stop_there():
    features = torch.zeros(1, 2, 6, 8)
    features[:, 0, :, :4] = features[:, 1, :, 4:] = 1
    probabilities = torch.full((1, 2, 6, 8), 0.5)
    probabilities[:, 0, 0, 0], probabilities[:, 1, 0, 0] = 1, 0
    probabilities[:, 0, 5, 7], probabilities[:, 1, 5, 7] = 0, 1
    walked = random_walk(probabilities, features)
    assert (walked[0].argmax(0)[:, :4] == 0).all()
    assert (walked[0].argmax(0)[:, 4:] == 1).all()


@pytest.mark.parametrize("labels", [1, 2, 81])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_small_maps_and_constant_features(labels, shape):
    probabilities = torch.rand(2, labels, 20, 30).softmax(1)
    for features in (torch.ones(2, 7, *shape), torch.zeros(2, 7, *shape), torch.rand(2, 7, *shape)):
        walked = random_walk(probabilities, features)
        assert walked.shape == probabilities.shape
        torch.testing.assert_close(walked.sum(1), torch.ones(2, 20, 30))


def test_a_large_photo_needs_no_square_matrix():
    features = torch.rand(1, 16, 125, 125)
    _, weights = transition(features[0], radius=5, power=8.0)
    assert weights.numel() < 125 * 125 * 81
    walked = random_walk(torch.rand(1, 3, 1000, 1000), features, steps=2)
    assert walked.isfinite().all()


@pytest.mark.parametrize(
    "change", [{"radius": 0}, {"power": 0.0}, {"features": torch.ones(2, 1, 1, 1)}]
)
def test_wrong_arguments(change):
    arguments = {"probabilities": torch.ones(1, 1, 4, 4), "features": torch.ones(1, 1, 2, 2)}
    with pytest.raises(ValueError, match="radius and power must be > 0"):
        random_walk(**(arguments | change))


def test_memory_does_not_grow_with_each_neighbour():
    """Features of 12 MB; a table of 69 neighbours of each of 9,804 cells takes 12 MB in all."""
    features = torch.rand(320, 86, 114)
    assert peak_bytes(lambda: transition(features, radius=5, power=8.0)) < 188e6


def test_the_constants_are_affinitynets(generator):
    probabilities = torch.rand(1, 3, 30, 30, generator=generator)
    features = torch.rand(1, 6, 15, 15, generator=generator)
    published = random_walk(probabilities, features, radius=5, power=8.0, steps=64)
    assert torch.equal(random_walk(probabilities, features), published)


def test_within_a_radius_of_one_no_cell_has_neighbours(generator):
    probabilities = torch.rand(1, 3, 8, 8, generator=generator)
    walked = random_walk(probabilities, torch.rand(1, 4, 4, 4, generator=generator), radius=1)
    reduced = F.avg_pool2d(probabilities, 2)
    expected = F.interpolate(reduced, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(walked, expected)
