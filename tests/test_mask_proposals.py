from __future__ import annotations

import numpy as np
import pytest
import torch

from dscnet.refine.mask_proposals import merge_masks


def merge_by_loops(probabilities, masks, overlap):
    """The rule, pixel by pixel, in float64."""
    count, height, width = probabilities.shape
    pixels = [(y, x) for y in range(height) for x in range(width)]
    label_of = {}
    for y, x in pixels:
        best = 0
        for label in range(count):
            if probabilities[label, y, x] > probabilities[best, y, x]:
                best = label
        label_of[y, x] = best
    accepted = []
    for mask in masks:
        inside = [p for p in pixels if mask[p]]
        if not inside:
            continue
        shares = [sum(label_of[p] == c for p in inside) / len(inside) for c in range(count)]
        label = shares.index(max(shares))
        if shares[label] >= overlap:
            voters = [p for p in inside if label_of[p] == label]
            mean = [
                sum(float(probabilities[c][p]) for p in voters) / len(voters) for c in range(count)
            ]
            accepted.append((len(inside), mask, mean))
    merged = np.array(probabilities, dtype=np.float64)
    for p in pixels:
        covering = [(area, mean) for area, mask, mean in accepted if mask[p]]
        if covering:
            merged[(slice(None), *p)] = min(covering, key=lambda item: item[0])[1]
    return merged


def some_masks(rng, count, height, width):
    """Rectangles of all sizes that overlap, one of them empty, one the whole photo."""
    masks = [np.zeros((height, width), dtype=bool), np.ones((height, width), dtype=bool)]
    for _ in range(count):
        y, x = rng.integers(0, height), rng.integers(0, width)
        mask = np.zeros((height, width), dtype=bool)
        mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
        masks.append(mask)
    return masks


@pytest.mark.parametrize("labels", [1, 2, 4])
@pytest.mark.parametrize("overlap", [0.01, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 5)])
def test_merge_equals_loops(labels, overlap, size):
    rng = np.random.default_rng(labels)
    start = rng.dirichlet(np.ones(labels), size=size).transpose(2, 0, 1)
    masks = some_masks(rng, 12, *size)
    merged = merge_masks(torch.from_numpy(start), masks, overlap=overlap)
    np.testing.assert_allclose(merged.numpy(), merge_by_loops(start, masks, overlap), atol=1e-12)
    np.testing.assert_allclose(merged.sum(0).numpy(), 1)


def trusted(labels, count=3, certainty=0.7):
    """Probabilities of labels that are all trusted alike."""
    labels = torch.tensor(labels)
    start = torch.full((count, *labels.shape), (1 - certainty) / (count - 1), dtype=torch.float64)
    return start.scatter_(0, labels[None], certainty)


def labels_of(probabilities):
    return probabilities.argmax(0).tolist()


def test_merge_by_hand():
    start = trusted([[1, 1, 2, 0, 0, 0]])
    most_of_one = np.array([[True, True, True, False, False, False]])
    undecided = np.array([[False, True, True, True, False, False]])
    background = np.array([[False, False, True, True, True, False]])
    merged = merge_masks(start, [most_of_one, undecided])
    assert labels_of(merged) == [[1, 1, 1, 0, 0, 0]]
    assert merged[:, 0, 2].tolist() == pytest.approx([0.15, 0.7, 0.15]), "as certain as before"
    assert labels_of(merge_masks(start, [background])) == [[1, 1, 0, 0, 0, 0]]
    assert torch.equal(merge_masks(start, [undecided]), start)


def test_smaller_masks_lie_over_larger_ones_in_any_order():
    start = trusted([[1, 1, 1, 1, 2, 2]])
    large = np.ones((1, 6), dtype=bool)
    small = np.array([[False, False, False, True, True, True]])
    for masks in ([large, small], [small, large]):
        assert labels_of(merge_masks(start, masks)) == [[1, 1, 1, 2, 2, 2]]


def test_of_equal_masks_and_of_equal_labels_the_first_counts():
    start = trusted([[2, 2, 1, 1]])
    left, right = (np.array([[i, True, j, False]]) for i, j in ((True, False), (False, True)))
    assert labels_of(merge_masks(start, [np.ones((1, 4), dtype=bool)])) == [[1, 1, 1, 1]]
    assert labels_of(merge_masks(start, [right, left]))[0][1] == 1
    assert labels_of(merge_masks(start, [left, right]))[0][1] == 2


def test_half_of_a_mask_is_enough_and_less_is_not():
    start = trusted([[1, 1, 2, 0]])
    assert labels_of(merge_masks(start, [np.ones((1, 4), dtype=bool)])) == [[1, 1, 1, 1]]
    assert torch.equal(merge_masks(start, [np.ones((1, 4), dtype=bool)], overlap=0.51), start)
    # Three of ten: 0.3 as it is written, whatever its binary digits.
    start = trusted([[1, 1, 1, 0, 0, 2, 2, 3, 3, 4]], count=5)
    mask = np.ones((1, 10), dtype=bool)
    assert labels_of(merge_masks(start, [mask], overlap=0.3)) == [[1] * 10]


def test_without_masks_nothing_changes():
    start = trusted([[0, 1], [2, 2]])
    assert torch.equal(merge_masks(start, []), start)


@pytest.mark.parametrize("overlap", [0.0, -1.0, 1.01])
def test_a_wrong_overlap(overlap):
    with pytest.raises(ValueError, match="overlap must be above 0"):
        merge_masks(trusted([[1]]), [], overlap=overlap)


def test_a_mask_of_another_size():
    with pytest.raises(ValueError, match=r"masks must be \(1, 2\), got \(2, 1\)"):
        merge_masks(trusted([[1, 0]]), [np.ones((2, 1), dtype=bool)])
