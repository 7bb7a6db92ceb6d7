"""SEAM: a CAM network with equivariance across two scales (Wang et al., CVPR 2020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dscnet.models.cam import PlainCam
from dscnet.models.pcm import PixelCorrelation
from dscnet.numerics import resize
from dscnet.types import ModelOutput


def view_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the size of SEAM's second view, rounded down, at least one pixel.

    Example:
        >>> view_size((448, 448), 0.3)
        (134, 134)
    """
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


class Seam(PlainCam):
    """A CAM with the pixel correlation module and, in training, a second smaller view.

    The module refines the final CAM: the context's if it fuses, else the plain one.

    Args:
        backbone: As for :class:`PlainCam`.
        num_classes: Foreground classes C, >= 1.
        view_scale: Size of the second view relative to the first, > 0 (published: 0.3).
        **shared: As for :class:`PlainCam`; the context runs on both views, and dropout is drawn
            separately for each.

    Raises:
        ValueError: As for :class:`PlainCam`, or if ``view_scale`` is not positive.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        view_scale: float = 0.3,
        **shared: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **shared)
        if view_scale <= 0:
            raise ValueError(f"view_scale must be positive, got {view_scale}")
        self.view_scale = view_scale
        self.pixel_correlation = PixelCorrelation(*self.channels[:2])

    def forward(self, image: Tensor, tags: Tensor | None = None) -> ModelOutput:
        """Score the pixels of photos, in training at two sizes.

        Args:
            image: Normalised photos, ``(B, 3, H, W)``.
            tags: ``(B, C)`` in {0, 1}; used by the context only. None = unknown.

        Returns:
            The output with ``features``, ``cam_logits`` and ``cam_refined``, the last two
            ``(B, L, h, w)``; in training ``second`` holds the same for the photos resized to
            ``view_size((H, W), view_scale)``.
        """
        output = self.one_view(image, tags)
        if self.training:
            size = view_size((image.shape[-2], image.shape[-1]), self.view_scale)
            output.second = self.one_view(resize(image, size), tags)
            output.second.size = size
        return output

    def refine(self, cam_logits: Tensor, image: Tensor, low: Tensor, mid: Tensor) -> Tensor:
        """Return the CAM ``(B, L, h, w)`` in [0, 1] after the pixel correlation module."""
        refined: Tensor = self.pixel_correlation(cam_logits, image, low, mid)
        return refined
