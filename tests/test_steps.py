"""Tests of the refinement steps: their registry, their order, odd photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dscnet.refine import crf, pamr, steps
from dscnet.refine.mask_proposals import merge_masks
from dscnet.refine.probabilities import label_probabilities, probable_label
from dscnet.refine.random_walk import random_walk
from dscnet.refine.steps import (
    RefinementStep,
    Step,
    find_steps,
    list_steps,
    refine_labels,
    register_step,
)


def half_masks(size: tuple[int, int]) -> list[np.ndarray]:
    left = np.zeros(size, dtype=bool)
    left[:, : max(1, size[1] // 2)] = True
    return [left, ~left]


def walk(probabilities: Tensor, photos: Tensor) -> Tensor:
    """A random walk by features that are the photo, pooled."""
    pooled = torch.nn.functional.avg_pool2d(photos.float(), 3, ceil_mode=True)
    return random_walk(probabilities, pooled)


def masks(probabilities: Tensor, photos: Tensor) -> Tensor:
    size = (photos.shape[-2], photos.shape[-1])
    return merge_masks(probabilities[0], half_masks(size), overlap=0.3)[None]


UNLEARNED: dict[str, Step] = {
    "pamr": pamr.STEP.open(None)(None),
    "crf": crf.STEP.open(None)(None),
    "walk": walk,
    "masks": masks,
}


def maps(classes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((classes, 12, 15)).astype(np.float32)


@pytest.mark.parametrize("names", [[*UNLEARNED], [*UNLEARNED][::-1], ["crf"], ["masks"], []])
def test_steps_run_in_the_order_asked_for(names):
    photo = torch.randint(0, 256, (3, 12, 15), dtype=torch.uint8)
    start = label_probabilities(maps(), bg_score=0.4)
    results = dict(refine_labels(start, photo, {name: UNLEARNED[name] for name in names}))
    assert list(results) == names
    before = start
    for name, after in results.items():
        torch.testing.assert_close(after, UNLEARNED[name](before[None], photo[None])[0])
        torch.testing.assert_close(after.sum(0), torch.ones(12, 15))
        before = after


@pytest.mark.parametrize("names", [["magic"], ["crf", "crf"]])
def test_unknown_or_repeated_steps_are_refused(names):
    with pytest.raises(ValueError, match="among pamr, crf, walk, masks, affinity, irn, none twice"):
        find_steps(names)


def test_every_step_has_the_name_that_it_is_found_by():
    assert [step.name for step in find_steps(list_steps())] == list_steps()


def test_a_step_is_registered_once(monkeypatch):
    monkeypatch.setattr(steps, "_REGISTERED", {})
    toy = RefinementStep("toy", lambda job: lambda sample: walk)
    register_step(toy)
    assert find_steps(["crf", "toy"])[1] is toy
    for name in ("toy", "crf"):
        with pytest.raises(ValueError, match=f"name must be new, got '{name}'"):
            register_step(RefinementStep(name, toy.open))


def test_a_photo_without_classes_stays_background():
    start = label_probabilities(maps(0), bg_score=0.4)
    never = {"never": lambda probabilities, photos: 1 / 0}
    (_, after), *_ = refine_labels(start, torch.zeros(3, 12, 15), never)
    assert torch.equal(after, torch.ones(1, 12, 15))


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
@pytest.mark.parametrize("classes", [0, 1, 20])
def test_tiny_constant_photos_go_through_all_steps(size, classes):
    cam = np.random.default_rng(0).random((classes, *size))
    photo = torch.zeros(3, *size, dtype=torch.uint8)
    for _, after in refine_labels(label_probabilities(cam, bg_score=0.4), photo, UNLEARNED):
        assert after.isfinite().all()
        labels = probable_label(after[1:].numpy(), range(classes))
        assert labels.shape == size


@pytest.mark.parametrize(("share", "taken"), [(0.5, True), (0.4, False)])
def test_a_mask_takes_a_label_that_half_of_its_pixels_have(share, taken):
    """A mask of ten pixels, of which background has 0.3 or 0.2 and each of two classes the rest."""
    labels = torch.zeros(10, dtype=torch.int64)
    labels[: round(10 * share)] = 1
    labels[-2:] = 2
    labels[round(10 * share) : -2] = 0 if taken else 3
    probabilities = torch.nn.functional.one_hot(labels, 4).T.float()[..., None]
    merged = merge_masks(probabilities, [np.ones((10, 1), dtype=bool)])
    assert (merged.argmax(0) == 1).all() == taken
    assert torch.equal(merged, probabilities) != taken


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(UNLEARNED))
def test_steps_on_a_gpu_equal_those_on_a_cpu(name):
    photo = torch.randint(0, 256, (1, 3, 60, 80), dtype=torch.uint8)
    start = label_probabilities(np.random.default_rng(0).random((3, 60, 80)), bg_score=0.4)[None]
    on_gpu = UNLEARNED[name](start.cuda(), photo.cuda()).cpu()
    torch.testing.assert_close(on_gpu, UNLEARNED[name](start, photo), atol=1e-3, rtol=0)


def test_unknown_names_are_looked_for_among_plugins(monkeypatch):
    asked = []
    monkeypatch.setattr(steps, "load_plugins", lambda: asked.append(True))
    find_steps(["crf"])
    assert asked == [], "known steps need no plugin"
    with pytest.raises(ValueError, match="none twice"):
        find_steps(["magic"])
    assert asked == [True]
