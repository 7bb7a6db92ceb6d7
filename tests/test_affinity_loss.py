from __future__ import annotations

import math

import pytest
import torch

from dscnet.losses.affinity import affinity_loss


def kinds(shape, generator):
    """Three tables that exclude each other, and pairs of no kind."""
    kind = torch.randint(4, shape, generator=generator)
    return [kind == index for index in range(3)]


def test_the_loss_is_the_published_one(generator):
    affinity = torch.rand(2, 3, 5, generator=generator, dtype=torch.float64)
    tables = kinds(affinity.shape, generator)
    sums, counts = [0.0] * 3, [0] * 3
    for index, table in enumerate(tables):
        for value, chosen in zip(affinity.flatten(), table.flatten(), strict=True):
            if chosen:
                counts[index] += 1
                a = float(value)
                sums[index] -= math.log(1 + 1e-5 - a) if index == 2 else math.log(a + 1e-5)
    bg, fg, neg = (total / (count + 1e-5) for total, count in zip(sums, counts, strict=True))
    assert float(affinity_loss(affinity, *tables).total) == pytest.approx(bg / 4 + fg / 4 + neg / 2)


def test_the_loss_by_hand():
    yes, no = torch.tensor([True, False]), torch.tensor([False, True])
    terms = affinity_loss(torch.tensor([1.0, 1.0]), yes, torch.zeros_like(yes), no)
    assert float(terms.terms["aff_bg"]) == pytest.approx(0, abs=2e-5)
    assert float(terms.terms["aff_fg"]) == 0
    assert float(terms.terms["aff_neg"]) == pytest.approx(-math.log(1e-5), rel=1e-2)
    assert float(terms.total) == pytest.approx(-math.log(1e-5) / 2, rel=1e-2)


def test_gradient(generator):
    affinity = torch.rand(2, 6, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    tables = kinds(affinity.shape, generator)
    assert torch.autograd.gradcheck(
        lambda a: affinity_loss(a, *tables).total, affinity.requires_grad_()
    )


@pytest.mark.parametrize("shape", [(1, 34, 0), (2, 3, 4)])
def test_without_labels_there_is_nothing_to_learn(shape):
    affinity = torch.rand(shape, requires_grad=True)
    none = torch.zeros(shape, dtype=torch.bool)
    total = affinity_loss(affinity, none, none, none).total
    total.backward()
    assert float(total.detach()) == 0
    assert affinity.grad.abs().sum() == 0


def test_shapes_that_differ_are_refused():
    table = torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="must have the same shape"):
        affinity_loss(torch.rand(2, 3), table, table, table[:1])
