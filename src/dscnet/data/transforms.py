"""Transforms of photos, masks and saliency maps to network input, for training and inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tvf

from dscnet.data.scale import with_long_side
from dscnet.types import IGNORE_INDEX


class TrainTransform:
    """Random scale, flip, colour jitter and crop, as in SEAM.

    Uses torch's global generator. The longer side, or a scale factor, is drawn uniformly; the photo
    is flipped with probability 1/2 and cropped. Photos smaller than the crop are placed at a random
    offset and padded with zeros (the mean colour after normalisation), masks with 255.

    Deviation: bilinear instead of bicubic scaling, on 8-bit values, and colour jitter after the
    crop, so that contrast is relative to the crop's mean grey; this takes a third of the time.

    Args:
        crop_size: Side of the square crop, pixels.
        long_side: Closed range of the longer side after scaling, pixels (SEAM: 448 to 768); None
            with ``scale_range``.
        scale_range: Closed range of a scale factor, instead of ``long_side``.
        jitter: Strength of brightness, contrast, saturation and hue changes, each 0 or more, hue
            at most 0.5; one number sets the first three. Hue takes most of the time.
        flip: Whether photos are flipped with probability 1/2.
        mask_fill: Label of the padding.
        mean: Channel means, for values in [0, 1].
        std: Channel standard deviations.

    Raises:
        ValueError: If a size is not positive, a range is reversed, not exactly one range is given,
            or a channel is missing.
    """

    def __init__(
        self,
        crop_size: int,
        *,
        long_side: tuple[int, int] | None = None,
        scale_range: Sequence[float] | None = None,
        jitter: float | Sequence[float] = (0.3, 0.3, 0.3, 0.1),
        flip: bool = True,
        mask_fill: int = IGNORE_INDEX,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        if crop_size < 1:
            raise ValueError(f"crop_size must be at least 1, got {crop_size}")
        if (long_side is None) == (scale_range is None):
            raise ValueError("exactly one of long_side and scale_range must be given")
        if long_side is not None and not 1 <= long_side[0] <= long_side[1]:
            raise ValueError(f"long_side must be an ascending range from 1, got {long_side}")
        if scale_range is not None:
            check_scale_range(scale_range)
        strengths = (jitter, jitter, jitter, 0.0) if isinstance(jitter, int | float) else jitter
        if len(strengths) != 4:
            raise ValueError(f"jitter must be one number or four, got {jitter}")
        self.crop_size = crop_size
        self.long_side, self.scale_range = long_side, scale_range
        self.flip, self.mask_fill = flip, mask_fill
        self.jitter = v2.ColorJitter(*strengths) if any(strengths) else None
        self._normalise = _Normalise(mean, std)

    @property
    def read_side(self) -> int | None:
        """Longer side that a photo can be reduced to when read; None = no limit.

        Twice the maximum long side, so that scaling still averages over pixels.
        """
        return None if self.long_side is None else 2 * self.long_side[1]

    def __call__(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Augment one photo.

        Args:
            image: uint8 ``(3, H, W)``.
            mask: uint8 ``(H, W)``, or None.

        Returns:
            float32 ``(3, crop_size, crop_size)`` and int64 ``(crop_size, crop_size)`` or None.
        """
        crop, labels, _ = self.joint(image, mask, None)
        return crop, labels

    def joint(
        self, image: Tensor, mask: Tensor | None, saliency: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Augment one photo and its maps consistently.

        Args:
            image: uint8 ``(3, H, W)``.
            mask: uint8 ``(H, W)``, or None.
            saliency: float32 ``(1, H, W)`` in [0, 1], or None; resized like the photo, padded with
                0.

        Returns:
            As for a call, and float32 ``(1, crop_size, crop_size)`` or None.
        """
        _check_pair(image, mask)
        size = _scaled_size(image, self._draw_long_side(image))
        rows, columns = (_draw_window(length, self.crop_size) for length in size)
        mirrored = self.flip and bool(torch.rand(()) < 0.5)

        def view(plane: Tensor) -> Tensor:
            part = plane[:, rows.source, columns.source]
            return part.flip(-1) if mirrored else part

        crop = view(resize_photo(image, size))
        crop = self._normalise(crop if self.jitter is None else self.jitter(crop))
        crop = self._place(crop, rows, columns, fill=0.0)
        labels = salient = None
        if mask is not None:
            part = view(resize_labels(mask, size)[None])
            labels = self._place(part, rows, columns, fill=self.mask_fill)[0].long()
        if saliency is not None:
            part = view(resize_photo(saliency, size)).clamp(0, 1)
            salient = self._place(part, rows, columns, fill=0.0)
        return crop, labels, salient

    def _draw_long_side(self, image: Tensor) -> int:
        if self.long_side is not None:
            low, high = self.long_side
            return int(torch.randint(low, high + 1, ()))
        assert self.scale_range is not None
        least, most = self.scale_range
        factor = least + (most - least) * float(torch.rand(()))
        return max(1, round(factor * max(image.shape[-2:])))

    def _place(self, part: Tensor, rows: _Window, columns: _Window, fill: float) -> Tensor:
        side = self.crop_size
        if part.shape[-2:] == (side, side):
            return part
        canvas = part.new_full((len(part), side, side), fill)
        canvas[:, rows.target, columns.target] = part
        return canvas


def check_scale_range(scale_range: Sequence[float]) -> tuple[float, float]:
    """Validate a scale range and return it.

    Raises:
        ValueError: If there are not two ascending numbers above 0.
    """
    if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1]:
        raise ValueError(f"scale_range must be an ascending range above 0, got {scale_range}")
    return scale_range[0], scale_range[1]


class EvalTransform:
    """Normalise a photo and optionally scale it; deterministic.

    Args:
        mean: Channel means, for values in [0, 1].
        std: Channel standard deviations.
        long_side: Longer side after scaling, pixels; None keeps the size.

    Raises:
        ValueError: If ``long_side`` is not positive or a channel is missing.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], long_side: int | None = None
    ) -> None:
        if long_side is not None and long_side < 1:
            raise ValueError(f"long_side must be at least 1, got {long_side}")
        self.long_side = long_side
        self._normalise = _Normalise(mean, std)

    def __call__(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Prepare one photo.

        Args:
            image: uint8 ``(3, H, W)``.
            mask: uint8 ``(H, W)``, or None; scaled with the photo.

        Returns:
            float32 ``(3, H', W')`` and int64 ``(H', W')`` or None.
        """
        _check_pair(image, mask)
        if self.long_side is not None:
            size = _scaled_size(image, self.long_side)
            image = resize_photo(image, size)
            mask = None if mask is None else resize_labels(mask, size)
        return self._normalise(image), None if mask is None else mask.long()


class _Normalise:
    """Normalises 8-bit colours to zero mean and unit standard deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std must be three numbers, std > 0, got {mean} and {std}")
        self.mean = torch.tensor(mean).view(3, 1, 1) * 255
        self.scale = 1 / (torch.tensor(std).view(3, 1, 1) * 255)

    def __call__(self, image: Tensor) -> Tensor:
        return image.float().sub_(self.mean).mul_(self.scale)


class _Window(NamedTuple):
    """Part of a side that is kept, and its position in the crop."""

    source: slice
    target: slice


def _draw_window(length: int, crop_size: int) -> _Window:
    kept = min(length, crop_size)
    offset = int(torch.randint(abs(length - crop_size) + 1, ()))
    shifted, fixed = slice(offset, offset + kept), slice(0, kept)
    return _Window(shifted, fixed) if length > crop_size else _Window(fixed, shifted)


def _scaled_size(image: Tensor, long_side: int) -> tuple[int, int]:
    return with_long_side((image.shape[-2], image.shape[-1]), long_side)


def resize_photo(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``(..., H, W)``, bilinear with antialiasing; uint8 stays uint8."""
    resized: Tensor = tvf.resize_image(
        image, list(size), InterpolationMode.BILINEAR, antialias=True
    )
    return resized


def resize_labels(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize labels ``(H, W)`` by nearest neighbour."""
    # Not NEAREST: its grid is shifted by half a pixel against that of the bilinear photo.
    resized: Tensor = tvf.resize_image(mask[None], list(size), InterpolationMode.NEAREST_EXACT)
    return resized[0]


def _check_pair(image: Tensor, mask: Tensor | None) -> None:
    if not isinstance(image, Tensor):
        found = f"{type(image).__module__}.{type(image).__qualname__}"
        raise ValueError(
            f"image must be uint8 (3, H, W) as torch.Tensor, got {found};"
            " dscnet.data.read_image returns one"
        )
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image must be uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    if mask is not None and (mask.dtype != torch.uint8 or mask.shape != image.shape[1:]):
        raise ValueError(
            f"mask must be uint8 of the image's size {tuple(image.shape[1:])}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
