"""What a label looks like across all photos: a linear discriminant of the embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.numerics import full_precision, unit

SHRINKAGE = 0.5
"""How far the scatter is drawn to an even one, so that few pixels do not make it singular."""

SMALLEST = 1e-6
"""Variance that counts as none, as of pixels that are all alike."""


class LabelDiscriminant(nn.Module):
    """Likeness of a pixel to each label, learned from the labels of many photos' pixels.

    [Reading] PGCL draws the embeddings of a category together across photos, and the paper reads
    them in its loss alone. This reads them in inference: pixels are compared with the mean of each
    label, after Fisher (1936) in the metric of the pixels' scatter about these means, so that the
    directions in which every label varies count little. Only sums are kept, in the model's state;
    no gradient passes.

    Args:
        num_labels: L, background included.
        dim: E, the length of an embedding.

    Example:
        >>> discriminant = LabelDiscriminant(num_labels=2, dim=3)
        >>> discriminant.add(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> discriminant(torch.eye(3)[None], torch.tensor([[True, True]]), 0.1).argmax(-1)
        tensor([[0, 1, 1]])
    """

    pixels: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, num_labels: int, dim: int) -> None:
        super().__init__()
        if num_labels < 1 or dim < 1:
            raise ValueError(f"num_labels and dim must be >= 1, got {num_labels} and {dim}")
        self.register_buffer("pixels", torch.zeros(num_labels))
        self.register_buffer("total", torch.zeros(num_labels, dim))
        self.register_buffer("squares", torch.zeros(dim, dim))

    @property
    def fitted(self) -> bool:
        """Whether any pixel was added."""
        return bool(self.pixels.any())

    @torch.no_grad()
    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add pixels, many at a time: VOC's photos have more than float32 can count one by one.

        For a data set of that size let the discriminant be ``double()`` until all are added.

        Args:
            embeddings: Unit vectors, ``(M, E)``.
            labels: ``(M,)`` int64 in [0, L).

        Raises:
            ValueError: If the shapes do not fit.
            IndexError: If a label is not in [0, L); then nothing is added.
        """
        if embeddings.shape != (len(labels), self.total.shape[1]):
            raise ValueError(
                f"embeddings must be ({len(labels)}, {self.total.shape[1]}), "
                f"got {tuple(embeddings.shape)}"
            )
        num_labels = len(self.pixels)
        if not bool(((labels >= 0) & (labels < num_labels)).all()):
            lowest, highest = int(labels.min()), int(labels.max())
            raise IndexError(f"labels must be in [0, {num_labels}), got {lowest} to {highest}")
        added = embeddings.to(self.total)
        members = F.one_hot(labels, num_labels).to(added)
        self.pixels += members.sum(0)
        self.total += members.mT @ added
        self.squares += added.mT @ added

    @torch.no_grad()
    @full_precision
    def forward(self, embeddings: Tensor, present: Tensor, temperature: float) -> Tensor:
        """How much each pixel is like each label of its photo.

        A softmax over these labels of the cosine between pixel and label, both seen from the mean
        of the labels. Background, which no CAM scores, is one of them.

        Args:
            embeddings: Of pixels, unit vectors ``(B, N, E)``.
            present: Labels of each photo, ``(B, L)`` bool.
            temperature: Divides the cosine, > 0.

        Returns:
            ``(B, N, L)``, rows that sum to 1 over the labels that are present and were added; zero
            where there is none.
        """
        known = self.pixels > 0
        means = self.total / self.pixels.clamp_min(1)[:, None]
        middle = means.sum(0) / known.sum().clamp_min(1)  # labels not known are zero
        whitening = self._whitening(means)
        labels = unit((means - middle) @ whitening)
        likeness = unit((embeddings.to(means) - middle) @ whitening) @ labels.mT / temperature
        present = (present & known)[:, None]
        # Not -inf: a photo none of whose labels is known would become nan.
        lowest = torch.finfo(likeness.dtype).min
        return likeness.masked_fill(~present, lowest).softmax(-1) * present

    def _whitening(self, means: Tensor) -> Tensor:
        """``(E, E)``: after it pixels scatter about their label's mean alike in all directions."""
        dim = len(self.squares)
        between = (means * self.pixels[:, None]).mT @ means
        scatter = (self.squares - between) / self.pixels.sum().clamp_min(1)
        identity = torch.eye(dim).to(scatter)
        even = identity * (scatter.trace() / dim).clamp_min(SMALLEST)
        root = torch.linalg.cholesky(torch.lerp(scatter, even, SHRINKAGE))
        inverse: Tensor = torch.linalg.solve_triangular(root, identity, upper=False)
        return inverse.mT
