"""Tests of ``dscnet.losses.saliency``."""

from __future__ import annotations

import math

import pytest
import torch

from dscnet.losses import saliency_loss


def test_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    saliency = torch.rand(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    losses = []
    for score, salient in zip(logits.flatten().tolist(), saliency.flatten().tolist(), strict=True):
        probability = 1 / (1 + math.exp(-score))
        losses.append(-math.log(probability if salient > 0.5 else 1 - probability))
    assert float(saliency_loss(logits, saliency)) == pytest.approx(sum(losses) / len(losses))


def test_half_is_not_salient_and_zero_scores_cost_ln_2() -> None:
    high = torch.full((1, 1, 2, 2), 30.0)
    assert float(saliency_loss(high, torch.full_like(high, 0.5))) == pytest.approx(30)
    assert float(saliency_loss(high, torch.full_like(high, 0.51))) == pytest.approx(0, abs=1e-6)
    assert float(saliency_loss(torch.zeros_like(high), high)) == pytest.approx(math.log(2))


def test_gradient_is_finite_for_large_scores() -> None:
    logits = torch.tensor([[[[1e4, -1e4]]]], requires_grad=True)
    saliency_loss(logits, torch.tensor([[[[0.0, 1.0]]]])).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shape of saliency, got \(1, 1, 2, 2\) and \(1, 2, 2\)"):
        saliency_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2))
