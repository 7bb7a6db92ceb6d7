"""Training objectives of AffinityNet and IRNet: affinities of pairs of cells."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dscnet.losses.affinity import affinity_loss
from dscnet.numerics import at_least_float32
from dscnet.refine.pairs import line_affinity, pair_affinity, pair_labels
from dscnet.types import Batch, LossTerms, ModelOutput


class AffinityObjective(nn.Module):
    """AffinityNet: the distance of features predicts whether a pair shares a label.

    Args:
        radius: Pairs are cells closer than this.
    """

    def __init__(self, radius: int = 5) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, output: ModelOutput, batch: Batch, progress: float = 1.0) -> LossTerms:
        """Terms of ``affinity_loss``; masks have one label per cell of the feature map."""
        if output.features is None or batch.mask is None:
            raise ValueError("AffinityObjective needs features and a batch with masks")
        if output.features.shape[-2:] != batch.mask.shape[-2:]:
            raise ValueError(
                f"masks must be {tuple(output.features.shape[-2:])}, as the feature map, got"
                f" {tuple(batch.mask.shape[-2:])}"
            )
        affinity = pair_affinity(at_least_float32(output.features), radius=self.radius)
        return affinity_loss(affinity, *pair_labels(batch.mask, radius=self.radius))


class BoundaryObjective(nn.Module):
    """IRNet: boundaries lie between cells with different labels.

    Args:
        radius: Pairs are cells closer than this.
    """

    def __init__(self, radius: int = 10) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, output: ModelOutput, batch: Batch, progress: float = 1.0) -> LossTerms:
        """Terms of ``affinity_loss``; masks have the size of the photo and are downsampled."""
        if output.boundary_logits is None or batch.mask is None:
            raise ValueError("BoundaryObjective needs boundary_logits and a batch with masks")
        boundary = at_least_float32(output.boundary_logits[:, 0]).sigmoid()
        labels = reduce_labels(batch.mask, (boundary.shape[-2], boundary.shape[-1]))
        affinity = line_affinity(boundary, radius=self.radius)
        return affinity_loss(affinity, *pair_labels(labels, radius=self.radius))


def reduce_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Downsample labels ``(B, H, W)`` by nearest neighbour."""
    # Integers cannot be interpolated; float32 represents labels exactly.
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0].long()
