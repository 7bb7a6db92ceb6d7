"""Past groups of every category: positives that a small batch lacks, and what it is like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dscnet.context.numerics import full_precision, unit

SHRINKAGE = 0.5
"""How far the scatter is drawn to an even one: some labels are held by few groups."""

SMALLEST = 1e-6
"""Variance that counts as none, as of groups that are all alike."""


class GroupMemory(nn.Module):
    """The last group embeddings of each category, across images and steps.

    One ring buffer per label, without gradient, saved with the model's state.

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
        """Add groups; the oldest of their category make room.

        Args:
            embeddings: ``(M, E)``; stored without gradient.
            categories: ``(M,)`` int64 in [0, L); groups with -1 are left out.

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
        # Of more than ``size`` groups at once only the last are written, each slot just once.
        keep = rank >= (added - self.size)[labels]
        slots = (self.pushed[labels] + rank) % self.size
        newest = embeddings[known][order].to(self.embeddings)
        self.embeddings[labels[keep], slots[keep]] = newest[keep]
        self.pushed += added

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return a copy of all groups held: embeddings ``(M', E)`` and categories ``(M',)``."""
        slots = torch.arange(self.size, device=self.pushed.device)
        filled = slots < self.pushed[:, None]
        return self.embeddings[filled], filled.nonzero()[:, 0]

    @torch.no_grad()
    @full_precision
    def recall(self, embeddings: Tensor, present: Tensor, temperature: float) -> Tensor:
        """How much each pixel resembles what the memory holds of each label of its photo.

        [Reading] A linear discriminant (Fisher, 1936) of the groups held: pixels and the mean of
        each label's groups are seen from the mean of these means, in the metric of the groups'
        scatter about their own mean, so that what all labels share does not count. Then a softmax
        over the photo's labels of the cosine of the two. Background, which no CAM scores, is one of
        the labels.

        Args:
            embeddings: Of pixels, unit vectors ``(B, N, E)``.
            present: Labels of each photo, ``(B, L)`` bool.
            temperature: Divides the cosine, > 0.

        Returns:
            ``(B, N, L)``, rows that sum to 1 over the labels that are present and held; zero where
            there is none.
        """
        held = self.pushed > 0
        means, whitening = self._discriminant()
        middle = means.sum(0) / held.sum().clamp_min(1)  # those of labels not held are zero
        pixels = unit((embeddings.to(means) - middle) @ whitening)
        likeness = pixels @ unit((means - middle) @ whitening).mT / temperature
        known = (present & held)[:, None]
        # Not -inf: a photo none of whose labels is held would become nan.
        lowest = torch.finfo(likeness.dtype).min
        return likeness.masked_fill(~known, lowest).softmax(-1) * known

    def _discriminant(self) -> tuple[Tensor, Tensor]:
        """Mean of each label's groups, ``(L, E)``, and what whitens their scatter, ``(E, E)``."""
        groups, labels = self.contents()
        num_labels, _, dim = self.embeddings.shape
        count = self.pushed.clamp(max=self.size)
        means = torch.zeros_like(self.embeddings[:, 0]).index_add(0, labels, groups)
        means = means / count.clamp_min(1)[:, None]
        apart = groups - means[labels]
        scatter = apart.mT @ apart / max(1, len(groups))
        even = torch.eye(dim).to(scatter) * (scatter.trace() / dim).clamp_min(SMALLEST)
        chol = torch.linalg.cholesky(torch.lerp(scatter, even, SHRINKAGE))
        return means, torch.linalg.solve_triangular(chol, torch.eye(dim).to(chol), upper=False).mT
