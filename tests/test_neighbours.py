from __future__ import annotations

import torch

from dscnet.labels.neighbours import grid_neighbours, weighted_rows


def test_sums_are_a_matrix_product(generator):
    values = torch.rand(5, 3, generator=generator)
    indices = torch.tensor([[0, 4], [2, 2], [1, 0], [3, 1]])
    weights = torch.rand(4, 2, generator=generator)
    matrix = torch.zeros(4, 5).scatter_add(1, indices, weights)
    torch.testing.assert_close(weighted_rows(values, indices, weights), matrix @ values)
    starts = torch.tensor([0, 2, 4, 6])
    flat = weighted_rows(values, indices.flatten(), weights.flatten(), starts)
    torch.testing.assert_close(flat, matrix @ values)


def test_sums_of_different_lengths():
    values = torch.tensor([[1.0], [10.0], [100.0]])
    sums = weighted_rows(values, torch.tensor([0, 1, 2]), torch.ones(3), torch.tensor([0, 2]))
    assert sums.tolist() == [[11.0], [100.0]]


def test_neighbours_by_hand():
    indices, inside = grid_neighbours((2, 3), [(0, 1), (-1, 0)])
    assert indices[:, 0].tolist() == [1, 2, 2, 4, 5, 5]
    assert inside[:, 0].tolist() == [True, True, False, True, True, False]
    assert indices[:, 1].tolist() == [0, 1, 2, 0, 1, 2]
    assert inside[:, 1].tolist() == [False, False, False, True, True, True]
