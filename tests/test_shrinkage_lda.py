"""What labels look like across photos: against dense algebra, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dscnet.context import ShrinkageLDA
from dscnet.context.shrinkage_lda import SHRINKAGE

BOTH = torch.ones(1, 2, dtype=torch.bool)


def test_likeness_against_fishers_metric(generator):
    pixels = F.normalize(torch.randn(30, 5, generator=generator), dim=-1)
    labels = torch.arange(30) % 3
    labels[labels == 2] = 3  # no pixel has label 2
    lda = ShrinkageLDA(num_labels=4, dim=5)
    for part in (slice(0, 11), slice(11, 30)):
        lda.add(pixels[part], labels[part])
    asked = F.normalize(torch.randn(2, 6, 5, generator=generator), dim=-1)
    present = torch.tensor([[True, True, True, False], [True, False, False, True]])
    answer = lda(asked, present, temperature=0.3)

    seen = pixels.double().numpy()
    means = {label: seen[labels.numpy() == label].mean(0) for label in (0, 1, 3)}
    middle = sum(means.values()) / 3
    apart = [pixel - means[int(label)] for pixel, label in zip(seen, labels, strict=True)]
    scatter = sum(np.outer(x, x) for x in apart) / 30
    even = np.trace(scatter) / 5 * np.eye(5)
    metric = np.linalg.inv((1 - SHRINKAGE) * scatter + SHRINKAGE * even)
    for photo, of_photo in enumerate(asked.double().numpy() - middle):
        known = [label for label in means if present[photo, label]]
        for place, pixel in enumerate(of_photo):
            similarity = {}
            for label in known:
                centre = means[label] - middle
                lengths = (pixel @ metric @ pixel) * (centre @ metric @ centre)
                similarity[label] = math.exp(pixel @ metric @ centre / math.sqrt(lengths) / 0.3)
            for label in range(4):
                expected = similarity.get(label, 0.0) / sum(similarity.values())
                assert answer[photo, place, label].item() == pytest.approx(expected, abs=1e-5)


def test_directions_in_which_every_label_varies_count_little(generator):
    wide = torch.randn(64, generator=generator)
    wide -= wide.mean()
    lda = ShrinkageLDA(num_labels=2, dim=2)
    for label, sign in enumerate((-1.0, 1.0)):
        pixels = torch.stack([wide + 0.02 * sign, torch.full((64,), 0.1 * sign)], dim=-1)
        lda.add(pixels, torch.full((64,), label))
    asked = torch.tensor([[[0.8, 0.1], [-0.8, 0.1], [0.8, -0.1], [-0.8, -0.1]]])
    assert lda(asked, BOTH, 0.1).argmax(-1).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("labels", [[1], [1, 1], [0, 1]])
def test_pixels_that_do_not_scatter(labels):
    lda = ShrinkageLDA(num_labels=3, dim=3)
    lda.add(torch.eye(3)[labels], torch.tensor(labels))
    answer = lda(torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool), 0.1)
    torch.testing.assert_close(answer.sum(-1), torch.ones(1, 3))
    assert answer[0, 1].argmax() == 1


def test_before_it_is_fitted_it_says_nothing():
    lda = ShrinkageLDA(num_labels=2, dim=2)
    assert not lda.fitted
    assert lda(torch.ones(1, 3, 2), BOTH, 0.1).eq(0).all()
    lda.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert not lda.fitted


def test_the_order_of_labels_and_pixels_does_not_matter(generator):
    pixels = F.normalize(torch.randn(40, 6, generator=generator), dim=-1)
    labels = torch.randint(0, 4, (40,), generator=generator)
    turned = torch.tensor([2, 0, 3, 1])
    order = torch.randperm(40, generator=generator)
    one, other = (ShrinkageLDA(num_labels=4, dim=6) for _ in range(2))
    one.add(pixels, labels)
    other.add(pixels[order], turned[labels[order]])
    present = torch.tensor([[True, True, False, True]])
    answer = one(pixels[None], present, 0.2)
    again = other(pixels[None], present[:, turned.argsort()], 0.2)
    torch.testing.assert_close(again[..., turned], answer)


def test_what_is_refused():
    with pytest.raises(ValueError, match="num_labels and dim must be >= 1"):
        ShrinkageLDA(num_labels=0, dim=3)
    lda = ShrinkageLDA(num_labels=2, dim=3)
    with pytest.raises(ValueError, match=r"embeddings must be \(2, 3\)"):
        lda.add(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(IndexError, match=r"labels must be in \[0, 2\), got 0 to 2"):
        lda.add(torch.ones(2, 3), torch.tensor([0, 2]))
    with pytest.raises(IndexError, match=r"labels must be in \[0, 2\), got -1 to 1"):
        lda.add(torch.ones(2, 3), torch.tensor([-1, 1]))
    assert not lda.fitted


def test_nothing_is_trained_through_it(generator):
    lda = ShrinkageLDA(num_labels=2, dim=3)
    lda.add(torch.randn(6, 3, generator=generator), torch.arange(6) % 2)
    asked = torch.randn(1, 4, 3, generator=generator, requires_grad=True)
    assert not lda(asked, BOTH, 0.2).requires_grad


def test_one_label_and_one_channel_are_enough():
    lda = ShrinkageLDA(num_labels=1, dim=1)
    lda.add(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))
    answer = lda(torch.ones(1, 3, 1), torch.ones(1, 1, dtype=torch.bool), 0.2)
    assert answer.flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_pixels_than_float32_can_count_one_by_one(generator, dtype):
    past = 2.0**24
    lda = ShrinkageLDA(num_labels=2, dim=3).to(dtype)
    lda.pixels[0] = lda.total[0, 0] = lda.squares[0, 0] = past
    lda.add(torch.eye(3)[[0] * 64 + [1]], torch.tensor([0] * 64 + [1]))
    assert lda.pixels.tolist() == [past + 64, 1]
    assert lda.total[:, 0].tolist() == [past + 64, 0]
    assert lda.squares[0, 0] == past + 64


def test_it_is_kept_with_the_weights(generator):
    pixels = torch.randn(9, 3, generator=generator)
    one, other = (ShrinkageLDA(num_labels=2, dim=3) for _ in range(2))
    one.add(pixels, torch.arange(9) % 2)
    other.load_state_dict(one.state_dict())
    asked = torch.randn(1, 4, 3, generator=generator)
    torch.testing.assert_close(other(asked, BOTH, 0.1), one(asked, BOTH, 0.1))


def test_in_double_precision_it_is_the_same(generator):
    pixels = F.normalize(torch.randn(20, 4, generator=generator), dim=-1)
    single, double = ShrinkageLDA(2, 4), ShrinkageLDA(2, 4).double()
    for one in (single, double):
        one.add(pixels, torch.arange(20) % 2)
    asked = F.normalize(torch.randn(1, 5, 4, generator=generator), dim=-1)
    answer = double(asked, BOTH, 0.2)
    assert answer.dtype == torch.float64
    torch.testing.assert_close(answer.float(), single(asked, BOTH, 0.2))
