"""Class prototypes over all photos, compared in the metric of shrinkage LDA."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.numerics import full_precision, softmax_of_rows, unit

SHRINKAGE = 0.5
"""Shrinkage of the within-class scatter towards a multiple of the identity."""

SMALLEST = 1e-6
"""Lower bound of the mean variance, for pixels that are all alike."""


class ShrinkageLDA(nn.Module):
    """Linear discriminant analysis (LDA) with shrinkage, fitted on labelled pixel embeddings.

    [Reading] PGCL pulls the embeddings of a category together across photos, but the paper uses
    them in the loss only. Here they are used at inference: pixels are compared with the mean of
    each label (its prototype) in the metric of the within-class scatter (Fisher, 1936), so that
    directions in which every label varies count little. Only sums are stored, as buffers; no
    gradient.

    Args:
        num_labels: L, background included.
        dim: E, the length of an embedding.

    Example:
        >>> lda = ShrinkageLDA(num_labels=2, dim=3)
        >>> lda.add(torch.eye(3), torch.tensor([0, 1, 1]))
        >>> lda(torch.eye(3)[None], torch.tensor([[True, True]]), 0.1).argmax(-1)
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
        """Whether any pixel has been added."""
        return bool(self.pixels.any())

    @torch.no_grad()
    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Add labelled pixels, many at a time: float32 cannot count VOC's pixels one by one.

        For data sets of that size, convert to ``double()`` until all pixels have been added.

        Args:
            embeddings: Unit vectors, ``(M, E)``.
            labels: ``(M,)`` int64 in [0, L).

        Raises:
            ValueError: If the shapes do not match.
            IndexError: If a label is not in [0, L); nothing is added then.
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
        """Class similarity: probability of each present label, for each pixel.

        Softmax over the present labels of the cosine between pixel and prototype, both whitened and
        centred on the mean of the prototypes. Background is one of the labels.

        Args:
            embeddings: Unit vectors of pixels, ``(B, N, E)``.
            present: Labels of each photo, ``(B, L)`` bool.
            temperature: Divides the cosine, > 0.

        Returns:
            ``(B, N, L)``; rows sum to 1 over the labels that are present and have been added, and
            are zero if there is none.
        """
        known = self.pixels > 0
        means = self.total / self.pixels.clamp_min(1)[:, None]
        middle = means.sum(0) / known.sum().clamp_min(1)  # labels without pixels are zero
        whitening = self._whitening(means)
        labels = unit((means - middle) @ whitening)
        similarity = unit((embeddings.to(means) - middle) @ whitening) @ labels.mT / temperature
        present = (present & known)[:, None]
        # Not -inf: a photo without any known label would become nan.
        lowest = torch.finfo(similarity.dtype).min
        return softmax_of_rows(similarity.masked_fill(~present, lowest)) * present

    def _whitening(self, means: Tensor) -> Tensor:
        """``(E, E)``: makes the shrunk within-class scatter the identity."""
        dim = len(self.squares)
        between = (means * self.pixels[:, None]).mT @ means
        scatter = (self.squares - between) / self.pixels.sum().clamp_min(1)
        identity = torch.eye(dim).to(scatter)
        even = identity * (scatter.trace() / dim).clamp_min(SMALLEST)
        root = torch.linalg.cholesky(torch.lerp(scatter, even, SHRINKAGE))
        inverse: Tensor = torch.linalg.solve_triangular(root, identity, upper=False)
        return inverse.mT
