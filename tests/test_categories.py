"""Labels of images, pixels and groups, by hand and against loops."""

from __future__ import annotations

import pytest
import torch

from dscnet.context import (
    PixelGroups,
    group_categories,
    normalise_cam,
    predicted_labels,
    present_labels,
    pseudo_labels,
)


def test_present_labels_are_tags_and_background():
    tags = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert present_labels(tags).tolist() == [[True, False, True, True], [True, False, False, False]]


def test_predicted_labels_are_classes_with_a_positive_mean():
    logits = torch.zeros(1, 4, 1, 2)
    logits[0, :, 0] = torch.tensor([[-9.0, -9.0], [3.0, -2.0], [1.0, -1.5], [0.0, 0.0]])
    assert predicted_labels(logits).tolist() == [[True, True, False, False]]


def test_normalise_cam_by_hand():
    logits = torch.tensor([[[[7.0, 7.0]], [[2.0, 4.0]], [[-1.0, -2.0]], [[5.0, 1.0]]]])
    present = torch.tensor([[True, True, True, False]])
    cam = normalise_cam(logits, present, 0.25)
    expected = torch.tensor([[[[0.25, 0.25]], [[0.5, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]]]])
    torch.testing.assert_close(cam, expected, atol=1e-5, rtol=0)
    tags = present[:, 1:].float()
    assert torch.equal(normalise_cam(logits, tags, 0.25), cam)


def test_normalise_cam_against_loops(generator):
    logits = torch.randn(3, 4, 2, 5, generator=generator, dtype=torch.float64)
    tags = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    cam = normalise_cam(logits, tags, 0.3)
    for b in range(3):
        for label in range(4):
            values = [max(v, 0.0) for v in logits[b, label].flatten().tolist()]
            if label == 0:
                expected = [0.3] * 10
            else:
                on = float(tags[b, label - 1])
                expected = [on * v / (on * max(values) + 1e-5) for v in values]
            assert cam[b, label].flatten().tolist() == pytest.approx(expected)


def test_normalise_cam_does_not_read_the_background_channel(generator):
    logits = torch.randn(1, 3, 4, 4, generator=generator)
    other = logits.clone()
    other[:, 0] = 100
    tags = torch.ones(1, 2)
    assert torch.equal(normalise_cam(logits, tags, 0.2), normalise_cam(other, tags, 0.2))


def test_normalise_cam_is_finite_in_bf16(generator):
    cam = normalise_cam(
        torch.randn(1, 3, 4, 4, generator=generator).bfloat16(), torch.ones(1, 2), 0
    )
    assert cam.dtype == torch.float32
    assert cam.isfinite().all() and cam.max() <= 1 and cam.min() >= 0


@pytest.mark.parametrize(
    ("present", "bg_score", "message"),
    [
        (torch.ones(1, 2), 1.5, r"bg_score must be in \[0, 1\], got 1.5"),
        (torch.ones(1, 4), 0.2, r"present must be \(1, 3\), or tags \(1, 2\)"),
        (torch.ones(2, 3), 0.2, r"present must be"),
    ],
)
def test_normalise_cam_refuses(present, bg_score, message):
    with pytest.raises(ValueError, match=message):
        normalise_cam(torch.zeros(1, 3, 2, 2), present, bg_score)


def test_pseudo_labels_by_hand():
    cam = torch.tensor([[[[0.2, 0.2, 0.2]], [[0.1, 0.9, 0.6]], [[0.0, 0.3, 0.55]]]])
    assert pseudo_labels(cam).tolist() == [[[0, 1, 1]]]
    assert pseudo_labels(cam, margin=0.1).tolist() == [[[0, 1, 255]]]
    assert pseudo_labels(cam, margin=0.15).tolist() == [[[255, 1, 255]]]
    assert pseudo_labels(cam[:, :1], margin=0.1).tolist() == [[[0, 0, 0]]]


def test_a_photo_without_tags_is_background(generator):
    logits = torch.randn(2, 4, 3, 3, generator=generator) * 50
    assert pseudo_labels(normalise_cam(logits, torch.zeros(2, 3), 0.2)).eq(0).all()


def naive_category(cam, ids, group, present, rule):
    """Category of one group of one image, pixel by pixel; -1 if it has no pixel."""
    labels = [label for label, on in enumerate(present) if on]
    members = [n for n, i in enumerate(ids) if i == group]
    if not members or not labels:
        return -1
    if rule == "mean_cam":
        scores = {c: sum(cam[c][n] for n in members) / len(members) for c in labels}
    else:
        winners = [max(labels, key=lambda c: (cam[c][n], -c)) for n in members]
        scores = {c: winners.count(c) for c in labels}
    return max(labels, key=lambda c: (scores[c], -c))


@pytest.mark.parametrize("rule", ["mean_cam", "majority"])
def test_group_categories_against_loops(rule, generator):
    cam = torch.rand(20, 4, 2, 4, generator=generator)
    ids = torch.randint(0, 3, (20, 8), generator=generator)
    present = torch.rand(20, 4, generator=generator) > 0.4
    present[0] = False
    categories = group_categories(cam, PixelGroups(ids, 4), present, rule=rule)
    for b in range(20):
        maps = cam[b].flatten(1).tolist()
        for k in range(4):
            expected = naive_category(maps, ids[b].tolist(), k, present[b].tolist(), rule)
            assert int(categories[b, k]) == expected
    assert categories[:, 3].eq(-1).all()
    assert categories[0].eq(-1).all()


def test_rules_by_hand():
    # One bright pixel of label 1 and two dim ones of label 0: the mean says 1, the majority 0.
    cam = torch.tensor([[[[0.3, 0.3, 0.3]], [[1.0, 0.2, 0.1]]]])
    groups = PixelGroups(torch.zeros(1, 3, dtype=torch.int64), 1)
    present = torch.ones(1, 2, dtype=torch.bool)
    assert group_categories(cam, groups, present).tolist() == [[1]]
    assert group_categories(cam, groups, present, rule="majority").tolist() == [[0]]
    assert group_categories(cam, groups, present, margin=0.1).tolist() == [[1]]
    assert group_categories(cam, groups, present, margin=0.2).tolist() == [[-1]]
    alone = torch.tensor([[True, False]])
    assert group_categories(cam, groups, alone, margin=0.9).tolist() == [[0]]


def test_an_unknown_rule_is_named():
    groups = PixelGroups(torch.zeros(1, 1, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="rule must be one of mean_cam, majority, got 'max'"):
        group_categories(torch.zeros(1, 2, 1, 1), groups, torch.ones(1, 2).bool(), rule="max")


@pytest.mark.parametrize("rule", ["mean_cam", "majority"])
def test_a_group_that_leads_by_just_the_margin_keeps_its_category(rule):
    # Mean scores 0.25 and 0.75; three of four pixels are of label 1.
    cam = torch.tensor([[[[0.25] * 4], [[1.0, 1.0, 1.0, 0.0]]]])
    groups = PixelGroups(torch.zeros(1, 4, dtype=torch.int64), 1)
    present = torch.ones(1, 2, dtype=torch.bool)
    assert group_categories(cam, groups, present, rule=rule, margin=0.5).tolist() == [[1]]
    assert group_categories(cam, groups, present, rule=rule, margin=0.51).tolist() == [[-1]]
