"""Memory bank of past groups: positives that a small batch lacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupMemory(nn.Module):
    """The most recent group embeddings of each category, across images and steps.

    One ring buffer per label; no gradient; saved in the state dict.

    Args:
        num_labels: L, background included.
        size: Groups kept per label; 0 = off.
        dim: E, the length of an embedding.

    Example:
        >>> memory = GroupMemory(num_labels=2, size=4, dim=3)
        >>> memory.push(torch.eye(3), torch.tensor([1, -1, 1]))
        >>> memory.contents()[1]
        tensor([1, 1])
    """

    embeddings: Tensor
    pushed: Tensor

    def __init__(self, num_labels: int, size: int, dim: int) -> None:
        super().__init__()
        if num_labels < 1 or size < 0 or dim < 1:
            raise ValueError(
                "num_labels and dim must be >= 1 and size >= 0, "
                f"got num_labels={num_labels}, dim={dim}, size={size}"
            )
        self.size = size
        self.register_buffer("embeddings", torch.zeros(num_labels, size, dim))
        self.register_buffer("pushed", torch.zeros(num_labels, dtype=torch.int64))

    @torch.no_grad()
    def push(self, embeddings: Tensor, categories: Tensor) -> None:
        """Add groups; they replace the oldest of their category.

        Args:
            embeddings: ``(M, E)``; stored without gradient.
            categories: ``(M,)`` int64 in [0, L); groups with -1 are skipped.

        Raises:
            ValueError: If the lengths differ or a category is not below L.
        """
        num_labels, _, dim = self.embeddings.shape
        if embeddings.shape != (len(categories), dim):
            raise ValueError(
                f"embeddings must be ({len(categories)}, {dim}), got {tuple(embeddings.shape)}"
            )
        if len(categories) and int(categories.max()) >= num_labels:
            raise ValueError(f"categories must be < {num_labels}, got {int(categories.max())}")
        known = categories >= 0
        if self.size == 0:
            return
        labels, order = categories[known].sort(stable=True)
        added = torch.bincount(labels, minlength=num_labels)
        rank = torch.arange(len(labels), device=labels.device) - (added.cumsum(0) - added)[labels]
        # If more than ``size`` groups arrive at once, only the last are written, one per slot.
        keep = rank >= (added - self.size)[labels]
        slots = (self.pushed[labels] + rank) % self.size
        newest = embeddings[known][order].to(self.embeddings)
        self.embeddings[labels[keep], slots[keep]] = newest[keep]
        self.pushed += added

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return a copy of all stored groups: embeddings ``(M', E)`` and categories ``(M',)``."""
        slots = torch.arange(self.size, device=self.pushed.device)
        filled = slots < self.pushed[:, None]
        return self.embeddings[filled], filled.nonzero()[:, 0]
