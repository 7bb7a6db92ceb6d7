from __future__ import annotations

import numpy as np
import pytest
import torch

from dscnet.labels.pseudo_label import pseudo_label
from dscnet.refine.steps import (
    LEARNED,
    STEPS,
    as_probabilities,
    label_probabilities,
    label_scores,
    probable_label,
    refine_labels,
    refinement_steps,
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
        ({"bg_score": 0.4, "certainty": 0.5}, "certainty must be above 0.5"),
        ({"bg_score": 0.4, "bg_power": 0.0}, "bg_power must be > 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        label_probabilities(maps(), **settings)


UNLEARNED = tuple(name for name in STEPS if name not in LEARNED)


def features(photos):
    return torch.nn.functional.avg_pool2d(photos.float(), 3)


def masks():
    """Masks of the photos of 12 x 15 pixels."""
    left = np.zeros((12, 15), dtype=bool)
    left[:, :6] = True
    return [left, ~left]


@pytest.mark.parametrize("names", [UNLEARNED, UNLEARNED[::-1], ("crf",), ("masks",), ()])
def test_steps_run_in_the_order_asked_for(names):
    photo = torch.randint(0, 256, (3, 12, 15), dtype=torch.uint8)
    start = label_probabilities(maps(), bg_score=0.4)
    steps = refinement_steps(names, features, masks, mask_overlap=0.3)
    results = dict(refine_labels(start, photo, steps))
    assert tuple(results) == tuple(names)
    before = start
    for name, after in results.items():
        torch.testing.assert_close(after, steps[name](before[None], photo[None])[0])
        torch.testing.assert_close(after.sum(0), torch.ones(12, 15))
        before = after


@pytest.mark.parametrize("names", [["magic"], ["crf", "crf"]])
def test_unknown_or_repeated_steps_are_refused(names):
    with pytest.raises(ValueError, match="among pamr, crf, walk, masks, affinity, irn, none twice"):
        refinement_steps(names)


def test_a_walk_without_features_is_refused():
    steps = refinement_steps(["walk"])
    with pytest.raises(ValueError, match="needs a function from photos to features"):
        steps["walk"](torch.ones(1, 1, 4, 4), torch.zeros(1, 3, 4, 4))


def test_a_step_masks_without_masks_is_refused():
    with pytest.raises(ValueError, match="needs a function that gives the photo's masks"):
        refinement_steps(["masks"])["masks"](torch.ones(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))


def test_masks_decide_by_the_overlap_that_is_set():
    cam = np.zeros((1, 1, 4), dtype=np.float32)
    cam[..., 0] = 0.9
    start = label_probabilities(cam, bg_score=0.4)
    labels = {}
    for overlap in (0.25, 0.8):
        steps = refinement_steps(
            ["masks"], masks=lambda: [np.ones((1, 4), dtype=bool)], mask_overlap=overlap
        )
        ((_, after),) = refine_labels(start, torch.zeros(3, 1, 4), steps)
        labels[overlap] = probable_label(after[1:].numpy(), [6]).tolist()
    assert labels == {0.25: [[0, 0, 0, 0]], 0.8: [[7, 0, 0, 0]]}


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_step_runs_its_network_or_is_refused(name):
    arguments = torch.ones(1, 1, 4, 4), torch.zeros(1, 3, 4, 4)
    steps = refinement_steps([name], learned={name: lambda probabilities, photos: photos})
    assert steps[name](*arguments) is arguments[1]
    with pytest.raises(ValueError, match="need a trained network"):
        refinement_steps([name])[name](*arguments)


def test_scores_as_they_are():
    cam = np.array([[[0.8, 0.1, 0.0]], [[0.6, 0.2, 0.0]]], dtype=np.float32)
    scores = label_scores(cam, bg_power=2.0)
    expected = [[[0.04, 0.64, 1.0]], [[0.8, 0.1, 0.0]], [[0.6, 0.2, 0.0]]]
    torch.testing.assert_close(scores, torch.tensor(expected))
    assert label_scores(cam, bg_score=0.3)[0].tolist() == [[pytest.approx(0.3)] * 3]
    shares = as_probabilities(label_scores(cam))
    torch.testing.assert_close(shares[0], torch.tensor([[0.0, 0.0, 1.0]]))
    torch.testing.assert_close(shares.sum(0), torch.ones(1, 3))


def test_a_photo_without_classes_stays_background():
    start = label_probabilities(maps(0), bg_score=0.4)
    steps = {"never": lambda probabilities, photos: 1 / 0}
    (_, after), *_ = refine_labels(start, torch.zeros(3, 12, 15), steps)
    assert torch.equal(after, torch.ones(1, 12, 15))


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
@pytest.mark.parametrize("classes", [0, 1, 20])
def test_tiny_constant_photos_go_through_all_steps(size, classes):
    cam = np.random.default_rng(0).random((classes, *size))
    steps = refinement_steps(
        UNLEARNED, lambda photos: torch.ones(1, 4, 1, 1), lambda: [np.ones(size, dtype=bool)]
    )
    photo = torch.zeros(3, *size, dtype=torch.uint8)
    for _, after in refine_labels(label_probabilities(cam, bg_score=0.4), photo, steps):
        assert after.isfinite().all()
        labels = probable_label(after[1:].numpy(), range(classes))
        assert labels.shape == size


def test_background_wins_ties():
    assert probable_label(np.array([[[0.5, 0.51]]]), [4]).tolist() == [[0, 5]]


@pytest.mark.gpu
@pytest.mark.parametrize("name", UNLEARNED)
def test_steps_on_a_gpu_equal_those_on_a_cpu(name):
    photo = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8)
    start = label_probabilities(np.random.default_rng(0).random((3, 60, 80)), bg_score=0.4)[None]
    half = np.arange(80) < np.full((60, 1), 40)
    step = refinement_steps([name], features, lambda: [half])[name]
    on_gpu = step(start.cuda(), photo.cuda()).cpu()
    torch.testing.assert_close(on_gpu, step(start, photo), atol=1e-3, rtol=0)


@pytest.mark.parametrize("bg_score", [0.0, 1.0])
def test_a_background_score_may_be_0_or_1(bg_score):
    assert label_scores(maps(), bg_score=bg_score)[0].unique().tolist() == [bg_score]


@pytest.mark.parametrize(("share", "taken"), [(0.5, True), (0.4, False)])
def test_a_mask_takes_a_label_that_half_of_its_pixels_have(share, taken):
    """A mask of ten pixels, of which background has 0.3 or 0.2 and each of two classes the rest."""
    labels = torch.zeros(10, dtype=torch.int64)
    labels[: round(10 * share)] = 1
    labels[-2:] = 2
    labels[round(10 * share) : -2] = 0 if taken else 3
    probabilities = torch.nn.functional.one_hot(labels, 4).T.float()[..., None]
    mask = np.ones((10, 1), dtype=bool)
    step = refinement_steps(["masks"], masks=lambda: [mask])["masks"]
    merged = step(probabilities[None], torch.zeros(1, 3, 10, 1))[0]
    assert (merged.argmax(0) == 1).all() == taken
    assert torch.equal(merged, probabilities) != taken
