"""The ring buffers against a deque for every category."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from dscnet.context import GroupMemory


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
