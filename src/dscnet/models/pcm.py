"""The pixel correlation module of SEAM: a CAM refined by low-level feature similarity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dscnet.numerics import resize

EPS = 1e-5
"""SEAM's constant in divisions and cut-offs."""

BLOCK_BYTES = 2**26
"""Maximum size at inference of the correlations held at once, bytes; at least one pixel's."""


@torch.no_grad()
def pcm_input(cam: Tensor) -> Tensor:
    """Turn raw CAM scores into the nearly one-hot map that the correlation propagates.

    SEAM (Wang et al., CVPR 2020): each label is divided by its maximum over the image, background
    is 1 - the strongest foreground, and foreground values below the pixel's foreground maximum are
    set to 0. The labels of a pixel then sum to 1 unless foreground labels tie.

    Args:
        cam: Raw scores, ``(B, L, h, w)``, label 0 = background, L >= 2. Background is
            ignored.

    Returns:
        ``(B, L, h, w)`` in [0, 1], without gradient. All background where no foreground score
        exceeds 1e-5.
    """
    positive = cam[:, 1:].relu()
    peak = positive.amax((2, 3), keepdim=True)
    foreground = (positive - EPS).relu() / (peak + EPS)
    strongest = foreground.amax(1, keepdim=True)
    foreground = foreground.masked_fill(foreground < strongest, 0.0)
    return torch.cat([1 - strongest, foreground], dim=1)


def propagate(pcm_map: Tensor, features: Tensor) -> Tensor:
    """Propagate label scores along the rectified cosine similarity of pixels.

    SEAM: ``A_ij = relu(cos(f_i, f_j))``, columns scaled to sum to 1; the new score of pixel j is
    ``sum_i P_i A_ij``.

    Without gradients, A is computed in blocks of columns of at most ``BLOCK_BYTES``. In training it
    is held as a whole: the crop size bounds it.

    Args:
        pcm_map: Label scores, ``(B, L, h, w)``.
        features: Pixel features, ``(B, F, h, w)``. A zero feature has zero similarity.

    Returns:
        ``(B, L, h, w)``; between 0 and the largest score if none is negative.
    """
    pixels = features.flatten(2)
    length: Tensor = torch.linalg.vector_norm(pixels, dim=1, keepdim=True)
    pixels = pixels / (length + EPS)
    maps = pcm_map.flatten(2)
    if pixels.requires_grad or maps.requires_grad:
        return _spread(maps, pixels, pixels).view_as(pcm_map)
    column_bytes = pixels.shape[0] * pixels.shape[2] * pixels.element_size()
    blocks = torch.split(pixels, max(1, BLOCK_BYTES // column_bytes), dim=2)
    return torch.cat([_spread(maps, pixels, block) for block in blocks], 2).view_as(pcm_map)


def _spread(maps: Tensor, pixels: Tensor, block: Tensor) -> Tensor:
    """Propagated scores ``(B, L, c)`` of the pixels in ``block`` ``(B, F, c)``."""
    affinity = (pixels.transpose(1, 2) @ block).relu_()
    # Scaling after the product instead of scaling the columns saves an N x N division.
    return (maps @ affinity) / (affinity.sum(1, keepdim=True) + EPS)


class PixelCorrelation(nn.Module):
    """SEAM's pixel correlation module.

    Compares pixels by a learned mixture of colour and two intermediate feature maps of the
    backbone. Only its three 1x1 convolutions receive gradients: the CAM and the feature maps are
    detached.

    Deviation: in the published backbone all feature maps have the resolution of the CAM; here
    others are resized to it before their convolution.

    Args:
        low_channels: Channels of the shallow feature map (published: conv4, 512).
        mid_channels: Channels of the deeper feature map (published: conv5, 1024).
        low_out: Reduced channels of the shallow feature map.
        mid_out: Reduced channels of the deeper feature map.
        out: Channels in which pixels are compared.
    """

    def __init__(
        self,
        low_channels: int,
        mid_channels: int,
        low_out: int = 64,
        mid_out: int = 128,
        out: int = 192,
    ) -> None:
        super().__init__()
        self.squeeze_low = nn.Conv2d(low_channels, low_out, 1, bias=False)
        self.squeeze_mid = nn.Conv2d(mid_channels, mid_out, 1, bias=False)
        self.mix = nn.Conv2d(3 + low_out + mid_out, out, 1, bias=False)
        nn.init.kaiming_normal_(self.squeeze_low.weight)
        nn.init.kaiming_normal_(self.squeeze_mid.weight)
        nn.init.xavier_uniform_(self.mix.weight, gain=4)

    def forward(self, cam_logits: Tensor, image: Tensor, low: Tensor, mid: Tensor) -> Tensor:
        """Refine a CAM.

        Args:
            cam_logits: Raw CAM, ``(B, L, h, w)``.
            image: The normalised input photos, ``(B, 3, H, W)``.
            low: Shallow feature map, ``(B, low_channels, *, *)``.
            mid: Deeper feature map, ``(B, mid_channels, *, *)``.

        Returns:
            ``(B, L, h, w)`` in [0, 1].
        """
        size = (cam_logits.shape[-2], cam_logits.shape[-1])
        parts = [
            resize(image, size),
            self.squeeze_low(resize(low.detach(), size)).relu(),
            self.squeeze_mid(resize(mid.detach(), size)).relu(),
        ]
        return propagate(pcm_input(cam_logits), self.mix(torch.cat(parts, dim=1)))
