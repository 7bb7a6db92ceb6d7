from __future__ import annotations

import numpy as np
import pytest
import torch

from dscnet.refine.affinity_labels import merge_labels, merge_scores, power_marginals, score_labels
from dscnet.refine.crf import dense_crf


def test_merged_scores_by_hand():
    """Columns: sure foreground, neither, sure background, nothing at all, both at once."""
    low = torch.tensor(
        [[[0.2, 0.6, 0.9, 0.0, 0.1]], [[0.7, 0.4, 0.1, 0.0, 0.2]], [[0.1] * 3 + [0, 0.9]]]
    )
    high = torch.tensor(
        [[[0.1, 0.1, 0.8, 0.0, 0.9]], [[0.8, 0.8, 0.1, 0.0, 0.1]], [[0.1] * 3 + [0, 0.0]]]
    )
    assert merge_scores(low, high).tolist() == [[1, 255, 0, 255, 0]]


def test_merged_scores_follow_the_rule_cell_by_cell(generator):
    low, high = torch.rand(2, 4, 6, 7, generator=generator) ** 2
    low[:, 0], high[:, 0] = 0, 0
    merged = merge_scores(low, high)
    for y in range(6):
        for x in range(7):
            one = max(range(4), key=lambda label: float(low[label, y, x]))
            two = max(range(4), key=lambda label: float(high[label, y, x]))
            label = one if one != 0 else 255
            label = 0 if two == 0 else label
            if max(float(low[:, y, x].max()), float(high[:, y, x].max())) < 1e-5:
                label = 255
            assert int(merged[y, x]) == label
    assert {0, 255} < set(merged.unique().tolist())


def test_marginals_are_the_published_crf_of_scores(generator):
    cam = np.random.default_rng(0).random((2, 9, 8)).astype(np.float32)
    # Colours near each other, so that the width of their kernel matters.
    photo = torch.randint(100, 125, (3, 9, 8), generator=generator, dtype=torch.uint8)
    for power in (4.0, 24.0):
        background = (1 - torch.from_numpy(cam).amax(0, keepdim=True)) ** power
        expected = dense_crf(
            torch.cat([background, torch.from_numpy(cam)])[None],
            photo[None],
            iterations=10,
            gaussian_std=3,
            gaussian_weight=3,
            bilateral_std=80,
            color_std=13,
            bilateral_weight=10,
        )[0]
        torch.testing.assert_close(power_marginals(cam, photo, power=power), expected)


def test_a_lower_power_gives_the_background_more():
    cam = np.linspace(0, 1, 24, dtype=np.float32).reshape(1, 4, 6)
    photo = torch.full((3, 4, 6), 128, dtype=torch.uint8)
    low, high = (power_marginals(cam, photo, power=power)[0] for power in (4.0, 24.0))
    assert (low >= high - 1e-6).all()
    assert low.sum() > high.sum()


def test_labels_at_a_score_keep_their_classes():
    cam = np.zeros((2, 12, 12), dtype=np.float32)
    cam[0, :, :6], cam[1, :, 6:] = 0.9, 0.2
    photo = torch.zeros(3, 12, 12, dtype=torch.uint8)
    photo[:, :, 6:] = 255
    classes = np.array([4, 7])
    assert np.unique(score_labels(cam, classes, photo, bg_score=0.05)[:, :5]).tolist() == [5]
    assert np.unique(score_labels(cam, classes, photo, bg_score=0.05)[:, 7:]).tolist() == [8]
    assert np.unique(score_labels(cam, classes, photo, bg_score=0.3)[:, 7:]).tolist() == [0]


def test_merged_labels_by_hand():
    sure = np.array([[3, 0, 0, 5]], dtype=np.uint8)
    likely = np.array([[3, 3, 0, 0]], dtype=np.uint8)
    merged = merge_labels(sure, likely)
    assert merged.tolist() == [[3, 255, 0, 5]]
    assert merged.dtype == np.uint8


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_photos_of_no_class_are_background(size):
    cam, photo = np.zeros((0, *size), dtype=np.float32), torch.zeros(3, *size, dtype=torch.uint8)
    marginals = power_marginals(cam, photo, power=4.0)
    torch.testing.assert_close(marginals, torch.ones(1, *size))
    assert (merge_scores(marginals, marginals) == 0).all()
    assert (score_labels(cam, np.zeros(0, dtype=int), photo, bg_score=0.3) == 0).all()


def test_cells_with_the_least_score_that_counts_have_a_label():
    low = torch.tensor([[[0.0, 0.0]], [[1e-5, 0.9e-5]]])
    assert merge_scores(low, low).tolist() == [[1, 255]]
