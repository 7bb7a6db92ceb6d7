"""Records and constants shared by all packages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dscnet.context import ContextOutput

IGNORE_INDEX = 255
"""Label of pixels ignored in training and evaluation."""

BACKGROUND = 0
"""Label of the background; foreground class ``c`` (0-based) has label ``c + 1``."""


MAX_CLASSES = IGNORE_INDEX - 1
"""Maximum number of foreground classes in an 8-bit mask."""


class DscnetError(Exception):
    """An error the user can fix; the message says what is wrong, where, and what to do."""


class DataError(DscnetError):
    """Photos, tags or masks that cannot be used as they are."""


def check_class_count(count: int, where: str) -> None:
    """Reject more foreground classes than masks have labels for.

    Args:
        count: Number of classes.
        where: The file or data set that lists them, for the message.

    Raises:
        DataError: If there are more than ``MAX_CLASSES``.
    """
    if count > MAX_CLASSES:
        raise DataError(
            f"{where}: {count} classes, but masks have room for {MAX_CLASSES} besides"
            f" {BACKGROUND} = background and {IGNORE_INDEX} = ignore; merge some, or list only the"
            " classes that photos are tagged with in classes.txt"
        )


@dataclass
class Batch:
    """A training batch.

    Attributes:
        image: Normalised photos, ``(B, 3, H, W)`` float32.
        tags: Image-level labels, ``(B, C)`` float32 in {0, 1}; all zero for a negative photo.
        ids: One image id per photo.
        mask: Labels, ``(B, H, W)`` int64 with 0 = background and 255 = ignore; None without masks.
        saliency: Saliency of each pixel, ``(B, 1, H, W)`` float32 in [0, 1]; None without saliency
            maps.
    """

    image: Tensor
    tags: Tensor
    ids: list[str]
    mask: Tensor | None = None
    saliency: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """A copy with tensors on ``device``."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            image=move(self.image),
            tags=move(self.tags),
            mask=None if self.mask is None else move(self.mask),
            saliency=None if self.saliency is None else move(self.saliency),
        )


@dataclass
class ModelOutput:
    """Output of every model; branches that a model lacks are None.

    Attributes:
        features: Backbone features X, or AffinityNet's F, ``(B, D, h, w)``; None for segmenters.
        cam_logits: Raw CAM P of Eq. (1), ``(B, L, h, w)``, channel 0 = background,
            unsupervised.
        cam_refined: CAM after the pixel correlation module or the cross-task affinity, and after
            DSCNet's streams if they refine it; ``(B, L, h, w)`` in [0, 1].
        context: Output of DSCNet's streams for this view.
        tag_logits: Tag scores ``(B, C)`` of a model with its own pooling; None = the mean of the
            CAM upsampled to the photo.
        plain_tag_logits: Tag scores of P, if the context changes the CAM or scores the tags itself.
        seg_logits: Segmentation scores at image size, ``(B, L, H, W)``.
        seg_initial: The same before refinement by the cross-task affinity.
        saliency_logits: Saliency scores at image size, ``(B, 1, H, W)``.
        saliency_initial: The same before refinement by the cross-task affinity.
        boundary_logits: Scores of class boundaries, ``(B, 1, h, w)``.
        size: Height and width of the input photo, pixels; None = that of the batch.
        second: Output for SEAM's second, smaller view; in training only.
    """

    features: Tensor | None = None
    cam_logits: Tensor | None = None
    cam_refined: Tensor | None = None
    context: ContextOutput | None = None
    tag_logits: Tensor | None = None
    plain_tag_logits: Tensor | None = None
    seg_logits: Tensor | None = None
    seg_initial: Tensor | None = None
    saliency_logits: Tensor | None = None
    saliency_initial: Tensor | None = None
    boundary_logits: Tensor | None = None
    size: tuple[int, int] | None = None
    second: ModelOutput | None = None

    @property
    def final_logits(self) -> Tensor:
        """The CAM logits to use: P~ of Eq. (11) with DSCL, else P of Eq. (1)."""
        if self.context is not None and self.context.cam_logits is not None:
            return self.context.cam_logits
        if self.cam_logits is None:
            raise ValueError("this model has no class activation maps")
        return self.cam_logits


@dataclass
class LossTerms:
    """Named scalar losses and their weights; the default weight is 1.

    Example:
        >>> import torch
        >>> LossTerms({"cls": torch.tensor(2.0), "pgcl": torch.tensor(4.0)}, {"pgcl": 0.5}).total
        tensor(4.)
    """

    terms: dict[str, Tensor]
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """Weighted sum of the terms."""
        values = [self.weights.get(name, 1.0) * term for name, term in self.terms.items()]
        if not values:
            raise ValueError("LossTerms has no terms")
        return sum(values[1:], values[0])
