from __future__ import annotations

import pytest
import torch

from dscnet.refine import neighbours
from dscnet.refine.neighbours import grid_neighbours, weighted_rows


def test_sums_are_a_matrix_product(generator):
    values = torch.rand(5, 3, generator=generator)
    indices = torch.tensor([[0, 4], [2, 2], [1, 0], [3, 1]])
    weights = torch.rand(4, 2, generator=generator)
    matrix = torch.zeros(4, 5).scatter_add(1, indices, weights)
    torch.testing.assert_close(weighted_rows(values, indices, weights), matrix @ values)
    starts = torch.tensor([0, 2, 4, 6])
    flat = weighted_rows(values, indices.flatten(), weights.flatten(), starts)
    torch.testing.assert_close(flat, matrix @ values)


@pytest.mark.parametrize("block", [1, 4, 9, 50])
def test_sums_in_blocks_are_the_same(block, generator, monkeypatch):
    values = torch.rand(9, 3, generator=generator)
    indices = torch.randint(0, 9, (11, 4), generator=generator)
    weights = torch.rand(11, 4, generator=generator)
    whole = weighted_rows(values, indices, weights)
    monkeypatch.setattr(neighbours, "BLOCK", block)
    assert torch.equal(weighted_rows(values, indices, weights), whole)


@pytest.mark.parametrize("block", [1, 50])
def test_sums_of_different_lengths(block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    values = torch.tensor([[1.0], [10.0], [100.0]])
    sums = weighted_rows(values, torch.tensor([0, 1, 2]), torch.ones(3), torch.tensor([0, 2]))
    assert sums.tolist() == [[11.0], [100.0]]


def test_neighbours_by_hand():
    indices, inside = grid_neighbours((2, 3), [(0, 1), (-1, 0)])
    assert indices[:, 0].tolist() == [1, 2, 2, 4, 5, 5]
    assert inside[:, 0].tolist() == [True, True, False, True, True, False]
    assert indices[:, 1].tolist() == [0, 1, 2, 0, 1, 2]
    assert inside[:, 1].tolist() == [False, False, False, True, True, True]
    assert (indices.dtype, inside.dtype) == (torch.int64, torch.bool)


def test_neighbours_against_loops():
    size, offsets = (4, 5), [(0, 0), (2, -1), (-3, 4), (9, -9)]
    indices, inside = grid_neighbours(size, offsets)
    for pixel in range(20):
        for column, (down, right) in enumerate(offsets):
            y, x = pixel // 5 + down, pixel % 5 + right
            assert inside[pixel, column] == (0 <= y < 4 and 0 <= x < 5)
            assert indices[pixel, column] == min(max(y, 0), 3) * 5 + min(max(x, 0), 4)


@pytest.mark.parametrize(
    ("block", "terms"), [(1, [2] * 5), (5, [4, 4, 2]), (9, [8, 2]), (10, [10])]
)
def test_no_more_terms_than_a_block_are_added_at_once(block, terms, monkeypatch):
    """Five sums of two terms; a block holds one of them at least."""
    added, real = [], neighbours._sums

    def counted(values, indices, *rest):
        added.append(indices.numel())
        return real(values, indices, *rest)

    monkeypatch.setattr(neighbours, "BLOCK", block)
    monkeypatch.setattr(neighbours, "_sums", counted)
    weighted_rows(torch.ones(3, 1), torch.zeros(5, 2, dtype=torch.int64), torch.ones(5, 2))
    assert added == terms
