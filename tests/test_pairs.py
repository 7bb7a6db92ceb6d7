from __future__ import annotations

import math

import pytest
import torch

from dscnet.refine.pairs import line_affinity, line_cells, pair_affinity, pair_labels, pair_offsets


def pairs_by_hand(height, width, radius):
    """Offsets and, for each, its pairs of cells, in loops over the published ranges."""
    offsets = [(0, x) for x in range(1, radius)]
    for y in range(1, radius):
        for x in range(-radius + 1, radius):
            if math.hypot(y, x) < radius:
                offsets.append((y, x))
    anchors = [
        (y, x) for y in range(height - radius + 1) for x in range(radius - 1, width - radius + 1)
    ]
    return offsets, anchors


def test_the_published_radius_has_34_offsets_each_pair_once():
    offsets = pair_offsets(5)
    assert len(offsets) == len(set(offsets)) == 34
    assert not {(-y, -x) for y, x in offsets} & set(offsets)
    assert offsets == pairs_by_hand(9, 12, 5)[0]
    assert all(y * y + x * x < 25 for y, x in offsets)


@pytest.mark.parametrize("radius", [-1, 0, 1])
def test_a_radius_without_pairs_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be at least 2"):
        pair_offsets(radius)


@pytest.mark.parametrize(("size", "radius"), [((5, 6), 2), ((6, 9), 3), ((7, 11), 5)])
def test_affinity_is_the_distance_of_features(size, radius, generator):
    features = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)
    offsets, anchors = pairs_by_hand(*size, radius)
    expected = torch.zeros(2, len(offsets), len(anchors), dtype=torch.float64)
    for b in range(2):
        for k, (dy, dx) in enumerate(offsets):
            for m, (y, x) in enumerate(anchors):
                total = 0.0
                for c in range(4):
                    total += abs(
                        float(features[b, c, y, x]) - float(features[b, c, y + dy, x + dx])
                    )
                expected[b, k, m] = math.exp(-total / 4)
    torch.testing.assert_close(pair_affinity(features, radius=radius), expected)
    with torch.no_grad():
        torch.testing.assert_close(pair_affinity(features, radius=radius), expected)


def test_affinity_by_hand():
    features = torch.zeros(1, 2, 2, 3)
    features[0, :, 0, 1] = torch.tensor([1.0, 3.0])
    affinity = pair_affinity(features, radius=2)
    assert affinity.flatten().tolist() == pytest.approx([math.exp(-2)] * 4)


def test_gradient_of_the_affinity(generator):
    features = torch.randn(1, 2, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: pair_affinity(f, radius=2), features)


@pytest.mark.parametrize("size", [(1, 1), (4, 20), (20, 8), (3, 3)])
def test_a_small_map_has_no_pairs(size):
    features = torch.randn(2, 3, *size, requires_grad=True)
    affinity = pair_affinity(features)
    assert affinity.shape == (2, 34, 0)
    affinity.sum().backward()
    assert line_affinity(torch.rand(2, *size), radius=5).shape == (2, 34, 0)
    assert all(t.shape == (2, 34, 0) for t in pair_labels(torch.zeros(2, *size), radius=5))


def test_constant_features_are_alike():
    assert torch.equal(pair_affinity(torch.full((1, 3, 6, 10), 7.0)), torch.ones(1, 34, 2 * 2))


def distance_to_line(y, x, dy, dx):
    """Of a point to the infinite line from the origin through (dy, dx), by projection."""
    length = math.hypot(dy, dx)
    along = (y * dy + x * dx) / length
    return math.hypot(y - along * dy / length, x - along * dx / length)


@pytest.mark.parametrize("offset", [*pair_offsets(5), (3, 4), (9, -3), (0, 9), (9, 0), (4, 7)])
def test_a_line_holds_the_cells_next_to_it(offset):
    dy, dx = offset
    expected = {
        (y, x)
        for y in range(dy + 1)
        for x in range(min(0, dx), max(0, dx) + 1)
        if distance_to_line(y, x, dy, dx) < 1 - 1e-9
    }
    cells = line_cells(offset)
    assert set(cells) == expected
    assert len(set(cells)) == len(cells)
    assert {(0, 0), offset} <= expected


def test_lines_by_hand():
    assert line_cells((0, 3)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert line_cells((1, -1)) == [(0, -1), (0, 0), (1, -1), (1, 0)]


@pytest.mark.parametrize(("size", "radius"), [((6, 9), 3), ((7, 11), 5)])
def test_line_affinity_is_one_minus_the_strongest_boundary_between(size, radius, generator):
    boundary = torch.rand(2, *size, generator=generator, dtype=torch.float64)
    offsets, anchors = pairs_by_hand(*size, radius)
    expected = torch.zeros(2, len(offsets), len(anchors), dtype=torch.float64)
    for b in range(2):
        for k, (dy, dx) in enumerate(offsets):
            for m, (y, x) in enumerate(anchors):
                strongest = 0.0
                for ly in range(dy + 1):
                    for lx in range(min(0, dx), max(0, dx) + 1):
                        if distance_to_line(ly, lx, dy, dx) < 1 - 1e-9:
                            strongest = max(strongest, float(boundary[b, y + ly, x + lx]))
                expected[b, k, m] = 1 - strongest
    torch.testing.assert_close(line_affinity(boundary, radius=radius), expected)


def test_gradient_of_the_line_affinity(generator):
    boundary = torch.rand(1, 4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: line_affinity(b, radius=3), boundary)


@pytest.mark.parametrize("radius", [2, 3])
def test_labels_of_pairs(radius, generator):
    values = torch.tensor([0, 1, 2, 255])
    labels = values[torch.randint(4, (2, 6, 8), generator=generator)]
    offsets, anchors = pairs_by_hand(6, 8, radius)
    found = pair_labels(labels, radius=radius)
    for b in range(2):
        for k, (dy, dx) in enumerate(offsets):
            for m, (y, x) in enumerate(anchors):
                one, two = int(labels[b, y, x]), int(labels[b, y + dy, x + dx])
                known = 255 not in (one, two)
                expected = (
                    one == two == 0,
                    known and one == two and one > 0,
                    known and one != two,
                )
                assert tuple(bool(table[b, k, m]) for table in found) == expected
    assert all(table.any() for table in found)


def test_without_labels_no_pair_teaches():
    assert not any(table.any() for table in pair_labels(torch.full((1, 6, 9), 255), radius=3))
