from __future__ import annotations

import itertools

import pytest
import torch

from dscnet.refine.crf import exact_kernel
from dscnet.refine.permutohedral import (
    LatticeKernel,
    _elevation,
    _enclosing_simplices,
    _neighbours,
)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_points_are_the_weighted_sums_of_their_vertices(dim, generator):
    """Barycentric weights: they sum to 1, none is negative, and they give the point back."""
    points = 4 * torch.randn(dim, 200, generator=generator)
    vertices, weights, steps = _enclosing_simplices(points)
    torch.testing.assert_close(weights.sum(0), torch.ones(200))
    assert weights.min() > -1e-5
    elevated = _elevation(dim) @ points
    assert elevated.sum(0).abs().max() < 1e-4, "points lie on the plane"
    # A vertex's number is linear in its coordinates; the steps tell by which factors.
    factors = torch.tensor([(steps[-1] - step) / (dim + 1) for step in steps]).double()
    numbers = (weights.double() * vertices.double()).sum(0)
    torch.testing.assert_close(numbers, factors @ elevated.double(), rtol=1e-4, atol=1e-2)


def test_vertices_of_a_simplex_are_neighbours():
    """Each vertex follows the one before along one direction; all directions are used."""
    vertices, _, steps = _enclosing_simplices(torch.randn(3, 50))
    for column in vertices.T.tolist():
        moves = {after - before for before, after in itertools.pairwise(column)}
        assert moves <= set(steps)
        assert len(moves) == 3


def test_near_points_share_vertices_and_far_ones_do_not():
    vertices, _, _ = _enclosing_simplices(torch.tensor([[0.1, 0.1001, 9.0], [0.2, 0.2, 9.0]]))
    assert vertices[:, 0].tolist() == vertices[:, 1].tolist()
    assert not set(vertices[:, 0].tolist()) & set(vertices[:, 2].tolist())


def test_a_constant_photo_becomes_the_mean_near_each_pixel(generator):
    """The scaling on both sides keeps the root of the row sums; here all rows are nearly alike."""
    values = torch.rand(300, 2, generator=generator)
    kernel = LatticeKernel(torch.zeros(300, 3))
    torch.testing.assert_close(kernel(values), values.mean(0).expand(300, 2))


@pytest.mark.parametrize(("dim", "bound"), [(1, 0.05), (2, 0.05), (5, 0.12)])
def test_filtering_is_near_the_exact_one(dim, bound, generator):
    features = 1.5 * torch.randn(400, dim, generator=generator)
    values = torch.rand(400, 3, generator=generator)
    exact = exact_kernel(features, values)
    error = (LatticeKernel(features)(values) - exact).abs()
    assert error.mean() / exact.mean() < bound
    far = exact_kernel(2 * features, values)
    assert (far - exact).abs().mean() > 2 * error.mean(), "it is not just any smoothing"


def test_columns_are_filtered_on_their_own(generator):
    features = torch.randn(50, 2, generator=generator)
    values = torch.rand(50, 4, generator=generator)
    kernel = LatticeKernel(features)
    torch.testing.assert_close(kernel(values)[:, 2:3], kernel(values[:, 2:3].contiguous()))


def test_one_pixel_is_itself():
    value = torch.tensor([[0.25, 0.75]])
    torch.testing.assert_close(LatticeKernel(torch.zeros(1, 5))(value), value)


def test_features_that_span_too_much_are_refused():
    with pytest.raises(ValueError, match="increase the standard"):
        LatticeKernel(torch.tensor([[0.0] * 5, [1e6] * 5]))


def test_the_last_vertex_is_a_neighbour_too():
    ((rows, weights),) = _neighbours(torch.tensor([0, 3]), [3])
    assert rows.tolist() == [[0, 1, 0], [1, 1, 0]]
    assert weights.tolist() == [[1.0, 0.5, 0.0], [1.0, 0.0, 0.5]]
