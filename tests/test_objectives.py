from __future__ import annotations

import pytest
import torch

from dscnet.losses.affinity import affinity_loss
from dscnet.refine.objectives import AffinityObjective, BoundaryObjective, reduce_labels
from dscnet.refine.pairs import line_affinity, pair_affinity, pair_labels
from dscnet.types import Batch, ModelOutput


def batch(mask):
    return Batch(torch.zeros(len(mask), 3, 4, 4), torch.zeros(len(mask), 1), ["x"], mask=mask)


def test_affinities_are_learned_from_the_labels_of_cells(generator):
    features = torch.randn(1, 5, 6, 9, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (1, 6, 9), generator=generator)
    terms = AffinityObjective(3)(ModelOutput(features=features), batch(labels))
    expected = affinity_loss(pair_affinity(features, radius=3), *pair_labels(labels, radius=3))
    assert float(terms.total) == pytest.approx(float(expected.total), rel=1e-12)


def test_boundaries_are_learned_from_the_labels_of_pixels(generator):
    logits = torch.randn(1, 1, 6, 9, generator=generator, dtype=torch.float64)
    mask = torch.randint(3, (1, 24, 35), generator=generator)
    terms = BoundaryObjective(3)(ModelOutput(boundary_logits=logits), batch(mask))
    labels = reduce_labels(mask, (6, 9))
    affinity = line_affinity(logits[:, 0].sigmoid(), radius=3)
    expected = affinity_loss(affinity, *pair_labels(labels, radius=3))
    assert float(terms.total) == pytest.approx(float(expected.total), rel=1e-12)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_what_autocast_made_small_is_learned_from_in_float32(kind):
    output = ModelOutput(features=torch.zeros(1, 5, 6, 9, dtype=kind))
    terms = AffinityObjective(3)(output, batch(torch.zeros(1, 6, 9, dtype=torch.long)))
    assert terms.total.dtype is torch.float32


def test_reduced_labels_are_those_of_the_middle():
    labels = torch.arange(64).view(1, 8, 8)
    labels[0, 2, 2] = 255
    assert reduce_labels(labels, (2, 2)).tolist() == [[[255, 22], [50, 54]]]


def test_descent_parts_the_features_of_two_labels(generator):
    features = torch.randn(1, 8, 8, 10, generator=generator, requires_grad=True)
    labels = torch.zeros(1, 8, 10, dtype=torch.long)
    labels[:, :, 5:] = 1
    optimiser = torch.optim.Adam([features], lr=0.1)
    objective = AffinityObjective(3)
    totals = []
    for _ in range(40):
        optimiser.zero_grad()
        total = objective(ModelOutput(features=features), batch(labels)).total
        total.backward()
        optimiser.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.3 * totals[0]


@pytest.mark.parametrize(
    ("objective", "output", "message"),
    [
        (AffinityObjective(), ModelOutput(), "needs features"),
        (BoundaryObjective(), ModelOutput(), "needs boundary_logits"),
        (AffinityObjective(), ModelOutput(features=torch.zeros(1, 2, 3, 3)), "as the feature map"),
    ],
)
def test_what_is_missing_is_named(objective, output, message):
    with pytest.raises(ValueError, match=message):
        objective(output, batch(torch.zeros(1, 4, 4, dtype=torch.long)))


def test_a_batch_without_masks_is_refused():
    with pytest.raises(ValueError, match="a batch with masks"):
        AffinityObjective()(ModelOutput(features=torch.zeros(1, 2, 3, 3)), batch_without())


def batch_without():
    return Batch(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1), ["x"])


def test_radii_are_the_published_ones():
    assert (AffinityObjective().radius, BoundaryObjective().radius) == (5, 10)


def test_masks_of_another_size_are_named_with_both_sizes():
    output = ModelOutput(features=torch.zeros(1, 2, 4, 5))
    with pytest.raises(ValueError, match=r"masks must be \(4, 5\).*got \(6, 7\)"):
        AffinityObjective()(output, batch(torch.zeros(1, 6, 7).long()))
