"""Float32 arithmetic under autocast, and unit vectors that survive zeros."""

from __future__ import annotations

import pytest
import torch

from dscnet.numerics import full_precision, softmax_of_rows, unit, upsample


@full_precision
def product(left, right):
    return left @ right


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(dtype, generator):
    left = torch.randn(4, 300, generator=generator).to(dtype)
    expected = left.float() @ left.float().mT
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = product(left, right=left.mT)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_float64_stays(generator):
    left = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    assert product(left, left).dtype == torch.float64


def test_unit_by_hand():
    result = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0], [0.03, -0.04]]))
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0], [0.6, -0.8]])
    torch.testing.assert_close(result, expected)


def test_norms_up_to_the_floor_count_as_zero():
    result = unit(torch.tensor([[0.5, 0.0], [2.0, 0.0]]), floor=torch.tensor([[0.5], [0.5]]))
    assert result.tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_a_zero_vector_gets_zero_gradient(generator):
    vectors = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    vectors[1] = 0
    vectors.requires_grad_()
    unit(vectors)[:, 0].sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()
    assert (vectors.grad[1] == 0).all()
    assert (vectors.grad[0] != 0).any()


def test_unit_gradient(generator):
    vectors = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, vectors)


def test_a_function_keeps_its_name():
    assert product.__name__ == "product"


def test_what_is_not_half_precision_arrives_as_it_is():
    @full_precision
    def given(*args, **kwargs):
        return args, kwargs

    ids = torch.tensor([1, 2])
    (first, second), named = given(ids, "text", mask=ids > 1, count=3)
    assert first is ids and second == "text"
    assert named["mask"].dtype == torch.bool and named["count"] == 3


def test_vectors_lie_along_the_last_dimension(generator):
    vectors = torch.randn(2, 3, 4, generator=generator)
    torch.testing.assert_close(unit(vectors).norm(dim=-1), torch.ones(2, 3))


def test_matrices_kept_from_inference_mode_are_used_in_training():
    maps = torch.rand(1, 1, 3, 3)
    with torch.inference_mode():
        expected = upsample(maps, (19, 23)).clone()
    maps.requires_grad_()
    enlarged = upsample(maps, (19, 23))
    enlarged.sum().backward()
    assert torch.equal(enlarged.detach(), expected)
    assert float(maps.grad.sum()) == pytest.approx(19 * 23)


@pytest.mark.parametrize("columns", [1, 4, 15, 16, 21])
def test_softmax_of_rows_of_any_length(columns, generator):
    """Rows shorter than 16 take another way: findings/softmax_of_few_columns.sh."""
    values = 5 * torch.randn(2, 7, columns, generator=generator)
    values[0, 0, 0] = -torch.inf if columns > 1 else 0.0
    own, plain = values.clone().requires_grad_(), values.clone().requires_grad_()
    ours, expected = softmax_of_rows(own), plain.softmax(-1)
    torch.testing.assert_close(ours, expected)
    assert ours.is_contiguous()
    ours.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(own.grad, plain.grad)
