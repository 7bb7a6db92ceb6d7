from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex

from dscnet.metrics import confusion
from dscnet.metrics.confusion import ConfusionMatrix, confusion_matrix, invalid_labels


def count_by_loops(pred, gt, num_labels):
    counts = [[0] * (num_labels + 1) for _ in range(num_labels)]
    for row in range(len(gt)):
        for column in range(len(gt[0])):
            if gt[row][column] != 255:
                guess = pred[row][column]
                counts[gt[row][column]][num_labels if guess == 255 else guess] += 1
    return counts


def iou_by_loops(pred, gt, num_labels):
    """IoU of each label from the pixels themselves; nan where neither side holds it."""
    result = []
    for label in range(num_labels):
        both = either = 0
        for guess, true in zip(pred.ravel().tolist(), gt.ravel().tolist(), strict=True):
            if true == 255:
                continue
            both += guess == label and true == label
            either += guess == label or true == label
        result.append(both / either if either else math.nan)
    return result


@st.composite
def label_pairs(draw):
    num_labels = draw(st.integers(1, 5))
    size = draw(st.integers(1, 12))
    labels = st.lists(st.sampled_from([*range(num_labels), 255]), min_size=size, max_size=size).map(
        lambda values: np.array([values], dtype=np.uint8)
    )
    return draw(labels), draw(labels), num_labels


@pytest.mark.parametrize("block", [1, 7, 20, 60])
def test_counts_do_not_depend_on_the_blocks(block, monkeypatch):
    pred, gt = np.random.default_rng(0).choice([0, 1, 2, 255], (2, 6, 10)).astype(np.uint8)
    monkeypatch.setattr(confusion, "BLOCK", block)
    assert confusion_matrix(pred, gt, 3).tolist() == count_by_loops(pred, gt, 3)
    # Labels of a part of a picture, as they lie.
    assert confusion_matrix(pred[:, ::2], gt[:, ::2], 3).tolist() == count_by_loops(
        pred[:, ::2], gt[:, ::2], 3
    )


@settings(max_examples=60, deadline=None)
@given(label_pairs())
def test_everything_equals_loops(case):
    pred, gt, num_labels = case
    counts = confusion_matrix(pred, gt, num_labels)
    assert counts.tolist() == count_by_loops(pred.tolist(), gt.tolist(), num_labels)
    matrix = ConfusionMatrix(num_labels)
    matrix.update(pred, gt)
    expected = iou_by_loops(pred, gt, num_labels)
    np.testing.assert_allclose(matrix.iou(), expected)
    known = [value for value in expected if not math.isnan(value)]
    assert matrix.miou() == pytest.approx(
        sum(known) / len(known) if known else math.nan, nan_ok=True
    )
    counted = [(p, g) for p, g in zip(pred[0].tolist(), gt[0].tolist(), strict=True) if g != 255]
    accuracy = sum(p == g for p, g in counted) / len(counted) if counted else math.nan
    assert matrix.pixel_accuracy() == pytest.approx(accuracy, nan_ok=True)


def test_by_hand():
    gt = np.array([[0, 0, 1, 1, 255]])
    pred = np.array([[0, 1, 1, 255, 2]])
    matrix = ConfusionMatrix(4)
    matrix.update(pred, gt)
    # Label 2 is predicted on an ignored pixel only and label 3 nowhere: neither counts.
    np.testing.assert_allclose(matrix.iou(), [1 / 2, 1 / 3, np.nan, np.nan])
    assert matrix.miou() == pytest.approx(5 / 12)
    assert matrix.pixel_accuracy() == pytest.approx(2 / 4)


def test_predicted_but_never_true_counts_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([2, 0]), np.array([0, 0]))
    np.testing.assert_allclose(matrix.iou(), [0.5, np.nan, 0.0])
    assert matrix.miou() == pytest.approx(0.25)


@pytest.mark.parametrize("num_labels", [2, 3, 21, 81])
def test_equals_torchmetrics(num_labels):
    rng = np.random.default_rng(num_labels)
    matrix = ConfusionMatrix(num_labels)
    judge = MulticlassJaccardIndex(num_labels, ignore_index=255, average="macro")
    for _ in range(3):
        # Labels above two thirds are absent from the truth, those above five sixths from both.
        gt = rng.integers(0, math.ceil(num_labels * 2 / 3), (11, 9))
        pred = rng.integers(0, math.ceil(num_labels * 5 / 6), (11, 9))
        gt[rng.random(gt.shape) < 0.2] = 255
        matrix.update(pred, gt)
        judge.update(torch.from_numpy(pred), torch.from_numpy(gt))
    assert matrix.miou() == pytest.approx(judge.compute().item(), abs=1e-6)


def test_one_matrix_a_set_and_merging():
    rng = np.random.default_rng(0)
    pred, gt = rng.integers(0, 4, (2, 6, 8, 8))
    whole = ConfusionMatrix(4)
    whole.update(pred, gt)
    parts = [ConfusionMatrix(4), ConfusionMatrix(4)]
    for index in range(6):
        parts[index % 2].update(pred[index], gt[index])
    parts[0].merge(parts[1])
    np.testing.assert_array_equal(parts[0].counts, whole.counts)
    np.testing.assert_array_equal(parts[1].counts.sum(), 3 * 64)


def test_nothing_counted():
    matrix = ConfusionMatrix(2)
    matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert np.isnan(matrix.iou()).all()
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.pixel_accuracy())


def test_strange_labels():
    labels = np.array([0, 2, 255, 254, 7, 7])
    assert invalid_labels(labels, 3).tolist() == [7, 254]
    assert invalid_labels(np.array([-1, 0]), 3).tolist() == [-1]


@pytest.mark.parametrize(
    ("pred", "gt", "message"),
    [
        ([0, 1], [0], r"the same shape, got \(2,\) and \(1,\)"),
        ([3], [0], r"pred must be in \[0, 3\) or 255, got \[3\]"),
        ([0], [254], r"gt must be in \[0, 3\) or 255, got \[254\]"),
        ([-1], [0], r"pred must be in \[0, 3\) or 255, got \[-1\]"),
    ],
)
def test_wrong_labels(pred, gt, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(pred), np.array(gt), 3)


def test_matrices_of_other_labels_do_not_merge():
    with pytest.raises(ValueError, match="3 labels, got 4"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))


def test_pixels_are_whole_numbers_from_the_start():
    matrix = ConfusionMatrix(2)
    assert matrix.counts.dtype == np.int64
    matrix.update(np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.uint8))
    assert matrix.counts.dtype == np.int64
