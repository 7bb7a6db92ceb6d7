"""Class activation maps of photos: many scales, mirrored, normalised, and kept in files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dscnet.labels.files import whole_file
from dscnet.types import DataError

EPS = 1e-5
"""Scores this close to the smallest of their map count as nothing (SEAM's constant)."""

CLASSES = "classes"
"""Name of the array of class indices in a file of maps."""

Score = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Maps photos ``(B, 3, H, W)`` and tags ``(B, C)`` to named scores ``(B, C, h, w)`` >= 0."""


def multi_scale_cam(
    score: Score,
    images: Tensor,
    tags: Tensor,
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    flip: bool = True,
    views: Sequence[Tensor] | None = None,
    unstretched: Collection[str] = (),
    published_resize: bool = False,
    published_negatives: bool = False,
) -> dict[str, Tensor]:
    """Sum the maps of resized and mirrored photos and normalise them to [0, 1].

    SEAM's inference (Wang et al., CVPR 2020). A photo side of n pixels becomes
    ``round(n * scale)``, bicubic with antialiasing; :func:`sum_views` and :func:`normalise_scores`
    do the rest.

    Deviation: published code scales 8-bit photos, before it normalises them; hand in ``views`` made
    by :func:`scaled_photos` to do as it does.

    Args:
        score: As for :func:`sum_views`.
        images: Normalised photos of one size, ``(B, 3, H, W)``.
        tags: ``(B, C)`` in {0, 1}; the maps of absent classes are 0.
        scales: Sizes relative to the photo, each > 0; at least one.
        flip: As for :func:`sum_views`.
        views: The photos at their sizes, in the place of ``images`` resized by ``scales``.
        unstretched: Names of maps that are in [0, 1] already: instead of being stretched, they
            become the mean over the views.
        published_resize: As for :func:`sum_views`.
        published_negatives: As for :func:`normalise_scores`.

    Returns:
        One map ``(B, C, H, W)`` in [0, 1], float32 or finer, for each name that ``score`` gives.

    Raises:
        ValueError: If ``scales`` is empty or holds one that is not positive.
    """
    size = (images.shape[-2], images.shape[-1])
    if views is None:
        views = [_resize_photos(images, scaled) for scaled in _scaled_sizes(size, scales)]
    sums = sum_views(score, views, tags, size, flip=flip, published_resize=published_resize)
    seen = len(views) * (2 if flip else 1)
    present = tags.float()[:, :, None, None]
    return {
        name: (total / seen).clamp(0, 1) * present
        if name in unstretched
        else normalise_scores(total, tags, published_negatives=published_negatives)
        for name, total in sums.items()
    }


@torch.no_grad()
def sum_views(
    score: Score,
    views: Iterable[Tensor],
    tags: Tensor,
    size: tuple[int, int],
    *,
    flip: bool = True,
    published_resize: bool = False,
) -> dict[str, Tensor]:
    """Sum the maps of the same photos seen at several sizes.

    Every map is resized to ``size``, bilinear without aligned corners, mirrored back, and added to
    the sum of its name.

    Args:
        score: The network, from photos and tags to named foreground scores at any resolution. It is
            called once a view, and once more for the mirrored photos.
        views: Normalised photos at several sizes, ``(B, 3, *, *)`` each.
        tags: ``(B, C)`` in {0, 1}; handed to ``score``.
        size: Height and width of the sums.
        flip: Whether each view is also seen mirrored left to right.
        published_resize: Maps are first enlarged to their view with aligned corners, as SEAM's
            network does itself.

    Returns:
        One sum ``(B, C, *size)``, float32 or finer, for each name that ``score`` gives.
    """
    sums: dict[str, Tensor] = {}
    for view in views:
        for mirrored in (False, True) if flip else (False,):
            for name, scores in score(view.flip(3) if mirrored else view, tags).items():
                # The sums need single precision at least; double stays.
                maps = scores.to(torch.promote_types(scores.dtype, torch.float32))
                if published_resize:
                    maps = _resize_maps(maps, (view.shape[-2], view.shape[-1]), align_corners=True)
                resized = _resize_maps(maps, size, align_corners=False)
                resized = resized.flip(3) if mirrored else resized
                sums[name] = sums[name].add_(resized) if name in sums else resized
    return sums


def scaled_photos(photo: NDArray[np.uint8], scales: Sequence[float]) -> list[NDArray[np.uint8]]:
    """Scale an 8-bit photo as published code does: by Pillow, bicubic.

    Args:
        photo: ``(H, W, 3)`` uint8.
        scales: As for :func:`multi_scale_cam`.

    Returns:
        A photo ``(round(H * scale), round(W * scale), 3)`` uint8 a scale.

    Raises:
        ValueError: As for :func:`multi_scale_cam`.
    """
    image = Image.fromarray(photo)
    return [
        np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        for height, width in _scaled_sizes((photo.shape[0], photo.shape[1]), scales)
    ]


def normalise_scores(scores: Tensor, tags: Tensor, *, published_negatives: bool = False) -> Tensor:
    """Stretch the scores of each photo and class to [0, 1].

    SEAM: negative scores become 0, then with the smallest and largest value of the map, scores
    below ``min + 1e-5`` become 0 and the others ``(score - min - 1e-5) / (max - min + 1e-5)``. A
    constant map becomes 0.

    Deviation: in published code scores below ``min + 1e-5`` become 0 before and not after the
    stretching, hence slightly negative, or clearly where the smallest score is not 0, and absent
    classes become -1. Both are 0 here unless ``published_negatives`` is set; no label depends on it
    as long as the background score is not negative.

    Args:
        scores: ``(B, C, H, W)``.
        tags: ``(B, C)`` in {0, 1}.
        published_negatives: Return what published code does, negative values included.

    Returns:
        ``(B, C, H, W)`` in [0, 1]; 0 for absent classes.
    """
    positive = scores.relu()
    if published_negatives:
        positive = positive * tags.to(positive)[:, :, None, None]
    low = positive.amin((2, 3), keepdim=True)
    high = positive.amax((2, 3), keepdim=True)
    if published_negatives:
        kept = positive.masked_fill(positive < low + EPS, 0.0)
        return (kept - low - EPS) / (high - low + EPS)
    stretched = (positive - low - EPS).relu() / (high - low + EPS)
    return stretched * tags.to(stretched)[:, :, None, None]


def write_cam(
    path: Path,
    maps: Mapping[str, Tensor | NDArray[np.floating]],
    classes: Sequence[int] | NDArray[np.integer],
) -> None:
    """Write the maps of one photo as an ``.npz`` without objects, half precision, not compressed.

    Args:
        path: File to write; replaced if it exists.
        maps: Named maps of the present classes, each ``(C', H, W)`` in [0, 1].
        classes: Index of each of the C' classes, 0-based, foreground only; empty for a photo
            without tags.

    Raises:
        ValueError: If a map has another number of classes, or the reserved name ``classes``.
    """
    if CLASSES in maps:
        raise ValueError(f"maps must not hold the reserved name {CLASSES!r}")
    arrays: dict[str, Any] = {
        name: np.asarray(values).astype(np.float16) for name, values in maps.items()
    }
    for name, values in arrays.items():
        if values.ndim != 3 or len(values) != len(classes):
            raise ValueError(
                f"maps[{name!r}] must be ({len(classes)}, H, W), a map a class, got {values.shape}"
            )
    arrays[CLASSES] = np.asarray(classes, dtype=np.int64)
    with whole_file(path) as file:
        np.savez(file, **arrays)


def read_cam(path: Path) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Read what :func:`write_cam` wrote, or a file alike made elsewhere.

    Args:
        path: An ``.npz`` with ``classes`` ``(C',)`` and one or more maps ``(C', H, W)`` in [0, 1].

    Returns:
        The named maps, ``(C', H, W)`` float32, and the class indices ``(C',)`` int64.

    Raises:
        DataError: If the file is missing, damaged, or not of this form.
    """
    try:
        # A handle of our own, because numpy leaves its one open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of maps; make it by `dscnet cam`") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: not a readable .npz of plain arrays; make it anew by `dscnet cam`"
        ) from error
    classes = arrays.pop(CLASSES, None)
    fault = _fault(classes, arrays)
    if classes is None or fault:
        raise DataError(f"{path}: {fault}; make it anew by `dscnet cam`, or mend what made it")
    return {name: a.astype(np.float32) for name, a in arrays.items()}, classes.astype(np.int64)


def _fault(classes: NDArray[Any] | None, maps: Mapping[str, NDArray[Any]]) -> str:
    """What is wrong with the arrays of a file of maps; '' if nothing is."""
    if classes is None:
        return f"it holds no array {CLASSES!r} of class indices"
    if classes.ndim != 1 or (classes.size and classes.dtype.kind not in "iu"):
        return f"{CLASSES!r} is not a list of whole numbers"
    if len(np.unique(classes)) != len(classes) or (classes < 0).any():
        return f"{CLASSES!r} must hold different indices from 0 on, got {classes.tolist()}"
    if not maps:
        return "it holds no map"
    if len({values.shape[1:] for values in maps.values()}) > 1:
        return "its maps differ in size"
    for name, values in maps.items():
        if values.dtype.kind != "f" or values.ndim != 3 or len(values) != len(classes):
            form = f"({len(classes)}, H, W) floats"
            return f"map {name!r} is {values.dtype} {values.shape}, not {form}"
        # Written so that NaN fails too.
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            return f"map {name!r} holds values that are not in [0, 1]"
    return ""


def _scaled_sizes(size: tuple[int, int], scales: Sequence[float]) -> list[tuple[int, int]]:
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more positive numbers, got {tuple(scales)}")
    return [(max(1, round(size[0] * s)), max(1, round(size[1] * s))) for s in scales]


def _resize_photos(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize photos, bicubic; antialiased like the image libraries that published code uses."""
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)


def _resize_maps(maps: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=align_corners)
