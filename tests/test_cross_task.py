"""Tests of ``dscnet.models.cross_task``."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dscnet.models import cross_task as affinities
from dscnet.models.cross_task import CrossTaskAffinity, NonLocal, affinity


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make(rows: int = 512, *, quirk: bool = False) -> CrossTaskAffinity:
    torch.manual_seed(0)
    module = CrossTaskAffinity(rows=rows, published_row_quirk=quirk).double()
    with torch.no_grad():  # far from the nearly constant weights of a fresh start
        module.mix.weight.mul_(20)
        module.weigh.weight.mul_(5)
    return module


def affinity_by_loops(query: Tensor, key: Tensor) -> list[list[float]]:
    """``S_ij = exp(q_i . k_j) / sum_j exp(q_i . k_j)`` of one photo."""
    rows = []
    for q in query.tolist():
        dots = [math.exp(sum(a * b for a, b in zip(q, k, strict=True))) for k in key.tolist()]
        rows.append([dot / sum(dots) for dot in dots])
    return rows


def weighed_by_loops(module: CrossTaskAffinity, pair: list[list[list[float]]]) -> list[list[float]]:
    """``A_ij = sum_t w_tij S_tij``: a 3x3 convolution, relu, a 1x1 convolution and a softmax."""
    count = len(pair[0])
    mix, weigh, bias = (
        t.detach().tolist() for t in (module.mix.weight, module.weigh.weight, module.weigh.bias)
    )

    def at(task: int, i: int, j: int) -> float:
        return pair[task][i][j] if 0 <= i < count and 0 <= j < count else 0.0

    joined = []
    for i in range(count):
        row = []
        for j in range(count):
            hidden = [
                max(
                    0.0,
                    sum(
                        mix[out][task][di + 1][dj + 1] * at(task, i + di, j + dj)
                        for task in range(2)
                        for di in (-1, 0, 1)
                        for dj in (-1, 0, 1)
                    ),
                )
                for out in range(2)
            ]
            scores = [
                math.exp(bias[o] + sum(weigh[o][c][0][0] * hidden[c] for c in range(2)))
                for o in range(2)
            ]
            row.append(sum(scores[t] / sum(scores) * pair[t][i][j] for t in range(2)))
        joined.append(row)
    return joined


def test_affinity_against_loops() -> None:
    query, key = draw(2, 3, 4), draw(2, 5, 4, seed=1)
    expected = torch.tensor(
        [affinity_by_loops(q, k) for q, k in zip(query, key, strict=True)], dtype=torch.float64
    )
    torch.testing.assert_close(affinity(query, key), expected)


def test_affinity_by_hand() -> None:
    """Dot products 0 and ln 3 have the shares 1/4 and 3/4."""
    key = torch.tensor([[[0.0], [math.log(3)]]])
    torch.testing.assert_close(affinity(torch.ones(1, 1, 1), key), torch.tensor([[[0.25, 0.75]]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_every_affinity_sum_to_one(dtype: torch.dtype) -> None:
    query, key = (40 * draw(2, 2, 12, 4, seed=1)).to(dtype).unbind(1), draw(2, 2, 12, 4).to(dtype)
    rows = affinity(query[0], key[:, 0]).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    joined = make().float().matrix(torch.stack(query, 1), key).sum(-1)
    torch.testing.assert_close(joined, torch.ones_like(joined))


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 100])
@pytest.mark.parametrize("quirk", [False, True])
def test_spread_maps_against_loops_whole_and_in_blocks(rows: int, quirk: bool) -> None:
    module = make(rows, quirk=quirk)
    queries, keys, maps = draw(2, 2, 6, 3), draw(2, 2, 6, 3, seed=1), draw(2, 4, 2, 3, seed=2)
    spread = module(queries, keys, maps)
    for photo in range(2):
        pair = [affinity_by_loops(queries[photo, t], keys[photo, t]) for t in range(2)]
        matrix = torch.tensor(weighed_by_loops(module, pair), dtype=torch.float64)
        if not quirk:
            matrix = matrix / matrix.sum(1, keepdim=True)
        expected = torch.stack([matrix @ one.flatten() for one in maps[photo]]).view(4, 2, 3)
        torch.testing.assert_close(spread[photo], expected)


def test_gradients_do_not_depend_on_the_blocks() -> None:
    gradients = []
    for rows in (2, 100):
        module = make(rows)
        inputs = [draw(1, 2, 6, 3), draw(1, 2, 6, 3, seed=1), draw(1, 4, 2, 3, seed=2)]
        for tensor in inputs:
            tensor.requires_grad_()
        module(*inputs).square().sum().backward()
        gradients.append([t.grad for t in (*inputs, *module.parameters())])
    for blocks, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(blocks, whole)
        assert whole.abs().max() > 0


def test_gradcheck_in_blocks() -> None:
    module = make(3)
    inputs = [draw(1, 2, 4, 2), draw(1, 2, 4, 2, seed=1), draw(1, 2, 2, 2, seed=2)]
    assert torch.autograd.gradcheck(module, [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("rows", [64, 100_000])
def test_no_matrix_of_all_pixels_is_kept_for_the_gradient(rows: int) -> None:
    """What the backward pass will read: linear in the pixels in blocks, quadratic without."""
    side, kept = 24, []
    module = make(rows).float()
    layer = NonLocal(8)
    features = draw(1, 8, side, side).float().requires_grad_()

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mixed, query, key = layer(features)
        pair = torch.stack([query, query], 1), torch.stack([key, key], 1)
        module(*pair, mixed).sum().backward()
    assert (max(kept) >= side**4) == (rows > side**2)


@pytest.mark.parametrize("rows", [1, 7, 24, 50])
def test_without_gradient_large_photos_have_fewer_rows_a_block(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, blocks = make(), []
    inputs = draw(1, 2, 24, 3), draw(1, 2, 24, 3, seed=1), draw(1, 4, 4, 6, seed=2)
    expected = module(*inputs)
    monkeypatch.setattr(affinities, "BLOCK_BYTES", rows * 2 * 24 * 8)
    original = affinities.affinity
    monkeypatch.setattr(
        affinities, "affinity", lambda q, k: blocks.append(q.shape[2]) or original(q, k)
    )
    with torch.no_grad():
        torch.testing.assert_close(module(*inputs), expected)
    assert max(blocks) <= rows + 2
    blocks.clear()
    module(*inputs)
    assert blocks == [24]  # the crop bounds what training takes


def test_non_local_features_against_the_matrix() -> None:
    torch.manual_seed(0)
    layer, features = NonLocal(5).double(), draw(2, 5, 2, 4)
    mixed, query, key = layer(features)
    value = layer.value(features).flatten(2).mT
    expected = features + layer.out((affinity(query, key) @ value).mT.reshape(2, 5, 2, 4))
    torch.testing.assert_close(mixed, expected)


def test_rows_must_be_positive() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        CrossTaskAffinity(rows=0)
