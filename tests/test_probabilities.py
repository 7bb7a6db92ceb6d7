from __future__ import annotations

import numpy as np
import pytest
import torch

from dscnet.labels.pseudo_label import pseudo_label
from dscnet.refine.probabilities import (
    as_probabilities,
    label_probabilities,
    label_scores,
    probable_label,
)


def maps(classes=3, seed=0):
    return np.random.default_rng(seed).random((classes, 12, 15)).astype(np.float32)


@pytest.mark.parametrize("settings", [{}, {"certainty": None}, {"certainty": 1.0}])
@pytest.mark.parametrize("classes", [0, 1, 2, 80])
def test_the_start_has_the_labels_of_the_background_score(settings, classes):
    cam = maps(classes)
    start = label_probabilities(cam, bg_score=0.4, **settings)
    torch.testing.assert_close(start.sum(0), torch.ones(12, 15))
    expected = pseudo_label(cam, range(classes), bg_score=0.4)
    np.testing.assert_array_equal(probable_label(start[1:].numpy(), range(classes)), expected)
    np.testing.assert_array_equal(start.argmax(0).numpy(), expected)


def test_the_start_by_hand():
    cam = np.array([[[0.8, 0.1]], [[0.2, 0.2]]], dtype=np.float32)
    trusted = label_probabilities(cam, bg_score=0.4, certainty=0.7)
    assert trusted[:, 0, 0].tolist() == pytest.approx([0.15, 0.7, 0.15])
    assert trusted[:, 0, 1].tolist() == pytest.approx([0.7, 0.15, 0.15])
    scores = label_probabilities(cam, bg_score=0.4, certainty=None)
    assert scores[:, 0, 0].tolist() == pytest.approx([0.4 / 1.4, 0.8 / 1.4, 0.2 / 1.4])
    power = label_probabilities(cam, bg_score=0.4, bg_power=2.0, certainty=None)
    assert power[:, 0, 0].tolist() == pytest.approx([0.04 / 1.04, 0.8 / 1.04, 0.2 / 1.04])


def test_where_no_score_is_left_all_is_background():
    start = label_probabilities(np.zeros((2, 1, 1)), bg_score=0.0, certainty=None)
    assert start.flatten().tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bg_score": 1.5}, "bg_score must be in"),
        ({"bg_score": 0.4, "certainty": 0.5}, "certainty must be in \\(0.5, 1\\]"),
        ({"bg_score": 0.4, "bg_power": 0.0}, "bg_power must be > 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        label_probabilities(maps(), **settings)


def test_scores_as_they_are():
    cam = np.array([[[0.8, 0.1, 0.0]], [[0.6, 0.2, 0.0]]], dtype=np.float32)
    scores = label_scores(cam, bg_power=2.0)
    expected = [[[0.04, 0.64, 1.0]], [[0.8, 0.1, 0.0]], [[0.6, 0.2, 0.0]]]
    torch.testing.assert_close(scores, torch.tensor(expected))
    assert label_scores(cam, bg_score=0.3)[0].tolist() == [[pytest.approx(0.3)] * 3]
    shares = as_probabilities(label_scores(cam))
    torch.testing.assert_close(shares[0], torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(shares.sum(0), torch.ones(1, 3))


def test_background_wins_ties():
    assert probable_label(np.array([[[0.5, 0.51]]]), [4]).tolist() == [[0, 5]]


@pytest.mark.parametrize("bg_score", [0.0, 1.0])
def test_a_background_threshold_may_be_0_or_1(bg_score):
    assert label_scores(maps(), bg_score=bg_score)[0].unique().tolist() == [bg_score]
