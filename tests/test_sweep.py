from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dscnet.metrics.confusion import confusion_matrix
from dscnet.metrics.sweep import GRID, SweepCounts, num_below


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=16), max_size=8),
    st.lists(st.floats(0, 1, width=16), min_size=1, max_size=8),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_number_of_bounds_below_a_value(bounds, values, dtype):
    bounds, values = np.array(sorted(bounds), dtype), np.array(values, dtype)
    assert num_below(bounds, values).tolist() == [int((bounds < v).sum()) for v in values]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_beside_the_edges_of_cells(dtype):
    edges = np.array([0, 1 / GRID, 2 / GRID, 0.5, 1 - 1 / GRID, 1], dtype)
    values = np.unique(
        np.concatenate([edges, np.nextafter(edges, dtype(2)), np.nextafter(edges, dtype(-1))])
    )
    values = values[(values >= 0) & (values <= 1)]
    crowded = np.concatenate([values, values])  # several bounds in a cell, and equal ones
    crowded.sort()
    np.testing.assert_array_equal(num_below(crowded, values), np.searchsorted(crowded, values))


def test_matrices_equal_labels_at_each_threshold():
    rng = np.random.default_rng(0)
    counts, expected = SweepCounts(4, [0.7, 0.2, 0.25]), dict.fromkeys([0.2, 0.25, 0.7], 0)
    for _ in range(3):
        cam = rng.integers(0, 11, (2, 5, 4)) / 10
        gt = rng.choice([0, 1, 2, 3, 255], (5, 4)).astype(np.uint8)
        counts.add(cam, [2, 0], gt)
        for score in expected:
            labels = np.where(cam.max(0) > score, np.where(cam[0] >= cam[1], 3, 1), 0)
            expected[score] += confusion_matrix(labels, gt, 4)
    found = counts.matrices()
    assert list(found) == [0.2, 0.25, 0.7]
    for score, matrix in found.items():
        np.testing.assert_array_equal(matrix.counts, expected[score])
