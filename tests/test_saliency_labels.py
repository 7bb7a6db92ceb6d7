"""Tests of ``dscnet.labels.saliency``."""

from __future__ import annotations

import numpy as np
import pytest

from dscnet.data.io import read_saliency
from dscnet.labels.saliency import (
    fuse_saliency,
    refresh_saliency,
    saliency_from_cam,
    write_saliency,
)

PHOTO = np.zeros((1, 2, 3), dtype=np.uint8)


@pytest.mark.parametrize("classes", [[0], [3, 1], [0, 7, 19]])
def test_fusion_against_loops(classes: list[int]) -> None:
    rng = np.random.default_rng(0)
    cam, saliency = rng.random((len(classes), 6, 7)) * 0.4, rng.random((6, 7)) * 0.12
    labels = fuse_saliency(cam, classes, saliency, cam_score=0.2, saliency_score=0.06)
    for row in range(6):
        for column in range(7):
            scores = [cam[index, row, column] for index in range(len(classes))]
            active, salient = max(scores) > 0.2, saliency[row, column] > 0.06
            if active and salient:
                expected = classes[scores.index(max(scores))] + 1
            elif active or salient:
                expected = 255
            else:
                expected = 0
            assert labels[row, column] == expected
    assert {0, 255, classes[0] + 1} <= set(np.unique(labels))


def test_fusion_by_hand_and_its_thresholds_are_exclusive() -> None:
    cam = np.array([[[0.3, 0.3, 0.1, 0.1, 0.2]]])
    saliency = np.array([[0.5, 0.0, 0.5, 0.0, 0.06]])
    assert fuse_saliency(cam, [4], saliency).tolist() == [[5, 255, 255, 0, 0]]


def test_a_photo_without_classes_is_background_whatever_stands_out() -> None:
    labels = fuse_saliency(np.zeros((0, 2, 2)), [], np.ones((2, 2)))
    assert labels.dtype == np.uint8 and not labels.any()


def test_fusion_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"saliency must be \(1, 2\)"):
        fuse_saliency(np.zeros((1, 1, 2)), [0], np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"cam_score must be in \[0, 1\], got 2"):
        fuse_saliency(np.zeros((1, 1, 2)), [0], np.zeros((1, 2)), cam_score=2)


def test_the_stand_in_is_the_strongest_class() -> None:
    cam = np.array([[[0.1, 0.9]], [[0.4, 0.2]]])
    assert saliency_from_cam(cam).tolist() == [[0.4, 0.9]]
    assert saliency_from_cam(np.zeros((0, 1, 2))).tolist() == [[0, 0]]


def test_refreshed_saliency_is_the_mean_made_binary() -> None:
    predicted, initial = np.array([[0.9, 0.2]]), np.array([[0.2, 0.8]])
    assert refresh_saliency(predicted, initial, PHOTO).tolist() == [[1, 0]]
    assert refresh_saliency(predicted, initial, PHOTO, threshold=0.45).tolist() == [[1, 1]]


def test_a_refinement_sees_the_mean_and_the_photo_before_the_cut() -> None:
    seen = []

    def invert(mean: np.ndarray, photo: np.ndarray) -> np.ndarray:
        seen.append((mean.tolist(), photo is PHOTO))
        return 1 - mean

    labels = refresh_saliency(np.array([[1.0, 0.0]]), np.array([[1.0, 0.5]]), PHOTO, refine=invert)
    assert seen == [([[1.0, 0.25]], True)] and labels.tolist() == [[0, 1]]


def test_written_maps_are_read_again(tmp_path) -> None:
    saliency = np.array([[0, 51, 255]]) / 255
    write_saliency(tmp_path / "a.png", saliency)
    np.testing.assert_allclose(read_saliency(tmp_path / "a.png")[0].numpy(), saliency, atol=1e-6)
