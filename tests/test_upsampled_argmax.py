from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional

from dscnet.labels import upsampled_argmax as enlarge
from dscnet.labels.upsampled_argmax import label_at
from helpers import peak_bytes

SIZES = [((3, 4), (7, 9)), ((5, 3), (5, 3)), ((4, 6), (3, 2)), ((1, 1), (4, 5)), ((1, 5), (6, 20))]


def places(length, wanted):
    """For each pixel: the two it lies between and the share of the second, by definition."""
    for pixel in range(wanted):
        place = max(0.0, (pixel + 0.5) * length / wanted - 0.5)
        before = int(place)
        yield before, min(before + 1, length - 1), place - before


def oracle(scores, size):
    """Plain float64 loops: bilinear without aligned corners, then the first largest label."""
    scores = scores.double().tolist()
    labels = np.zeros(size, dtype=np.uint8)
    height, width = len(scores[0]), len(scores[0][0])
    columns = list(places(width, size[1]))
    for y, (top, bottom, down) in enumerate(places(height, size[0])):
        for x, (left, right, along) in enumerate(columns):
            values = [
                (1 - down) * ((1 - along) * s[top][left] + along * s[top][right])
                + down * ((1 - along) * s[bottom][left] + along * s[bottom][right])
                for s in scores
            ]
            labels[y, x] = values.index(max(values))
    return labels


def scores_of(labels, size, seed=0):
    return torch.randn(labels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("small", "size"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_are_those_of_resized_scores(small, size, dtype):
    for seed, labels in product(range(3), (1, 2, 5)):
        scores = scores_of(labels, small, seed).to(dtype)
        found = label_at(scores, size)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, oracle(scores, size))
        resized = functional.interpolate(scores[None], size, mode="bilinear", align_corners=False)
        np.testing.assert_array_equal(found, resized[0].argmax(0).numpy())


@pytest.mark.parametrize("block_bytes", [1, 100, 1000, 3000])
def test_blocks_change_nothing(block_bytes):
    scores = scores_of(6, (9, 7))
    whole = label_at(scores, (50, 60), block_bytes=2**30)
    np.testing.assert_array_equal(label_at(scores, (50, 60), block_bytes=block_bytes), whole)


def test_a_label_that_is_largest_at_no_small_pixel_can_win_between_two():
    scores = torch.tensor([[[1.0, 0.0]], [[0.9, 0.9]], [[0.0, 1.0]]])
    labels = label_at(scores, (1, 8))
    assert labels.tolist() == [[0, 0, 1, 1, 1, 1, 2, 2]]


def test_labels_that_cannot_win_are_not_resized(monkeypatch):
    resized = []
    original = enlarge._resized
    monkeypatch.setattr(
        enlarge, "_resized", lambda score, *rest: resized.append(score) or original(score, *rest)
    )
    scores = torch.full((50, 8, 8), -0.1)
    scores[[7, 9]] = 0
    scores[7, :, :4] = scores[9, :, 4:] = 1
    labels = label_at(scores, (64, 64))
    assert (labels[:, :32] == 7).all() and (labels[:, 32:] == 9).all()
    assert len(resized) == 2


def test_the_first_of_equals_wins_and_half_precision_is_taken():
    assert not label_at(torch.full((3, 2, 2), 0.1), (5, 7)).any()
    scores = scores_of(4, (5, 5))
    np.testing.assert_array_equal(
        label_at(scores.half(), (20, 20)), label_at(scores.half().float(), (20, 20))
    )


@pytest.mark.parametrize(
    ("shape", "size"), [((0, 2, 2), (4, 4)), ((257, 1, 1), (4, 4)), ((2, 2), (4, 4))]
)
def test_other_scores_are_refused(shape, size):
    with pytest.raises(ValueError, match="scores must be"):
        label_at(torch.zeros(shape), size)
    with pytest.raises(ValueError, match="size positive"):
        label_at(torch.zeros(2, 2, 2), (0, 3))


def test_memory_does_not_grow_with_the_labels_at_full_size():
    """A million pixels of 100 labels would take 400 MB."""
    scores = torch.randn(100, 50, 50)
    assert peak_bytes(lambda: label_at(scores, (1000, 1000))) < 50 * 2**20


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_rounding_is_relative_to_the_largest_score(size):
    """A label within a millionth of the largest score may still win, one farther below may not."""
    scores = size * torch.tensor([1.0, 1 - 6e-7, 1 - 3e-6]).view(3, 1, 1)
    assert enlarge._possible(scores).flatten().tolist() == [True, True, False]


def test_scores_of_the_size_of_the_labels_need_no_resizing(monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr("dscnet.labels.upsampled_argmax._possible", refuse)
    scores = torch.tensor([[[0.0, 1.0, 2.0]], [[1.0, 1.0, 0.0]], [[1.0, 0.5, 2.0]]])
    assert label_at(scores, (1, 3)).tolist() == [[1, 0, 0]]
