"""The ring buffers against a deque for every category."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dscnet.context import GroupMemory
from dscnet.context.memory import SHRINKAGE


@pytest.mark.parametrize("size", [1, 3, 5])
def test_keeps_the_last_of_every_category(size, generator):
    memory = GroupMemory(num_labels=4, size=size, dim=2)
    expected = [deque(maxlen=size) for _ in range(4)]
    for _ in range(6):
        embeddings = torch.randn(9, 2, generator=generator)
        categories = torch.randint(-1, 3, (9,), generator=generator)
        memory.push(embeddings, categories)
        for embedding, category in zip(embeddings.tolist(), categories.tolist(), strict=True):
            if category >= 0:
                expected[category].append(tuple(embedding))
        held, labels = memory.contents()
        for label, queue in enumerate(expected):
            assert {tuple(row) for row in held[labels == label].tolist()} == set(queue)
        assert len(held) == sum(map(len, expected))
    assert not labels.eq(3).any()


def test_empty_at_first_and_after_pushing_nothing():
    memory = GroupMemory(num_labels=3, size=2, dim=4)
    for embeddings in (torch.zeros(0, 4), torch.ones(2, 4)):
        memory.push(embeddings, torch.full((len(embeddings),), -1))
        held, labels = memory.contents()
        assert held.shape == (0, 4) and labels.shape == (0,) and labels.dtype == torch.int64


def test_size_zero_is_off():
    memory = GroupMemory(num_labels=3, size=0, dim=4)
    memory.push(torch.ones(2, 4), torch.tensor([0, 1]))
    assert memory.contents()[0].shape == (0, 4)


def test_state_is_saved(generator):
    memory = GroupMemory(num_labels=3, size=2, dim=4)
    memory.push(torch.randn(5, 4, generator=generator), torch.tensor([0, 0, 0, 2, 1]))
    other = GroupMemory(num_labels=3, size=2, dim=4)
    other.load_state_dict(memory.state_dict())
    for mine, theirs in zip(memory.contents(), other.contents(), strict=True):
        assert torch.equal(mine, theirs)
    newest = torch.ones(1, 4)
    for each in (memory, other):
        each.push(newest, torch.tensor([0]))
    assert torch.equal(memory.embeddings, other.embeddings)


def test_no_gradient_and_contents_are_a_copy():
    memory = GroupMemory(num_labels=2, size=1, dim=2)
    memory.push(torch.ones(1, 2, requires_grad=True), torch.tensor([1]))
    held, _ = memory.contents()
    memory.push(torch.zeros(1, 2), torch.tensor([1]))
    assert not held.requires_grad
    assert held.tolist() == [[1.0, 1.0]]


def test_takes_half_precision():
    memory = GroupMemory(num_labels=2, size=1, dim=2)
    memory.push(torch.ones(1, 2, dtype=torch.bfloat16), torch.tensor([1]))
    assert memory.contents()[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("embeddings", "categories", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 1]), r"embeddings must be \(2, 4\)"),
        (torch.zeros(3, 4), torch.tensor([0, 1]), r"embeddings must be \(2, 4\)"),
        (torch.zeros(1, 4), torch.tensor([3]), r"categories must be < 3, got 3"),
    ],
)
def test_wrong_pushes(embeddings, categories, message):
    with pytest.raises(ValueError, match=message):
        GroupMemory(num_labels=3, size=2, dim=4).push(embeddings, categories)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="size=-1"):
        GroupMemory(num_labels=3, size=-1, dim=4)


def test_recall_against_the_discriminant(generator):
    memory = GroupMemory(num_labels=4, size=3, dim=5)
    groups = F.normalize(torch.randn(9, 5, generator=generator), dim=-1)
    memory.push(groups, torch.tensor([0, 1, 1, 3, 0, 0, 0, 3, 1]))
    pixels = F.normalize(torch.randn(2, 6, 5, generator=generator), dim=-1)
    present = torch.tensor([[True, True, True, False], [True, False, False, True]])
    recalled = memory.recall(pixels, present, temperature=0.3)
    held, labels = (x.double().numpy() for x in memory.contents())
    means = {label: held[labels == label].mean(0) for label in (0, 1, 3)}
    middle = sum(means.values()) / 3
    apart = [group - means[label] for group, label in zip(held, labels, strict=True)]
    scatter = sum(np.outer(x, x) for x in apart) / len(apart)
    metric = np.linalg.inv(
        (1 - SHRINKAGE) * scatter + SHRINKAGE * np.trace(scatter) / 5 * np.eye(5)
    )
    for photo, of_photo in enumerate(pixels.double().numpy()):
        # Label 2 is tagged, but the memory has not seen it yet.
        known = [label for label in means if present[photo, label]]
        for pixel, of_pixel in enumerate(of_photo - middle):
            likeness = {}
            for label in known:
                centre = means[label] - middle
                lengths = (of_pixel @ metric @ of_pixel) * (centre @ metric @ centre)
                likeness[label] = math.exp(of_pixel @ metric @ centre / math.sqrt(lengths) / 0.3)
            for label in range(4):
                expected = likeness.get(label, 0.0) / sum(likeness.values())
                assert recalled[photo, pixel, label].item() == pytest.approx(expected, abs=1e-5)


def test_what_all_labels_share_does_not_count(generator):
    # Groups of both labels vary widely in the first direction; the second tells them apart.
    memory = GroupMemory(num_labels=2, size=64, dim=2)
    wide = torch.randn(64, generator=generator)
    wide -= wide.mean()
    for label, sign in enumerate((-1.0, 1.0)):
        groups = torch.stack([wide + 0.02 * sign, torch.full((64,), 0.1 * sign)], dim=-1)
        memory.push(groups, torch.full((64,), label))
    pixels = torch.tensor([[[0.8, 0.1], [-0.8, 0.1], [0.8, -0.1], [-0.8, -0.1]]])
    recalled = memory.recall(pixels, torch.ones(1, 2, dtype=torch.bool), 0.1)
    assert recalled.argmax(-1).tolist() == [[1, 1, 0, 0]]


@pytest.mark.parametrize("labels", [[1], [1, 1], [0, 1]])
def test_groups_that_do_not_scatter_are_recalled_too(labels):
    memory = GroupMemory(num_labels=3, size=4, dim=3)
    memory.push(torch.eye(3)[labels], torch.tensor(labels))
    recalled = memory.recall(torch.eye(3)[None], torch.ones(1, 3, dtype=torch.bool), 0.1)
    assert torch.allclose(recalled.sum(-1), torch.ones(1, 3))
    assert recalled[0, 1].argmax() == 1


def test_an_empty_memory_recalls_nothing():
    memory = GroupMemory(num_labels=2, size=1, dim=2)
    assert memory.recall(torch.ones(1, 3, 2), torch.ones(1, 2, dtype=torch.bool), 0.1).sum() == 0
