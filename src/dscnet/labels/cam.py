"""Class activation maps of photos: many scales, mirrored, normalised, and kept in files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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


@torch.no_grad()
def multi_scale_cam(
    score: Score,
    images: Tensor,
    tags: Tensor,
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    flip: bool = True,
) -> dict[str, Tensor]:
    """Sum the maps of resized and mirrored photos and normalise them to [0, 1].

    SEAM's inference (Wang et al., CVPR 2020). A photo side of n pixels becomes
    ``round(n * scale)``, bicubic with antialiasing; every map is resized to the photo's size,
    bilinear without aligned corners, mirrored back, and added to the sum of its name.
    :func:`normalise_scores` does the rest.

    Args:
        score: The network, from photos and tags to named foreground scores at any resolution. It is
            called once a scale, and once more for the mirrored photos.
        images: Normalised photos of one size, ``(B, 3, H, W)``.
        tags: ``(B, C)`` in {0, 1}; the maps of absent classes are 0.
        scales: Sizes relative to the photo, each > 0; at least one.
        flip: Whether each scale is also seen mirrored left to right.

    Returns:
        One map ``(B, C, H, W)`` float32 in [0, 1] for each name that ``score`` gives.

    Raises:
        ValueError: If ``scales`` is empty or holds one that is not positive.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one or more positive numbers, got {tuple(scales)}")
    height, width = images.shape[-2:]
    sums: dict[str, Tensor] = {}
    # Most photos show few of the classes, and resizing maps that end as 0 takes its time.
    order = _present_first(tags)
    for scale in scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        view = _resize_photos(images, size)
        for mirrored in (False, True) if flip else (False,):
            for name, scores in score(view.flip(3) if mirrored else view, tags).items():
                resized = functional.interpolate(
                    _pick(scores, order).float(),
                    (height, width),
                    mode="bilinear",
                    align_corners=False,
                )
                resized = resized.flip(3) if mirrored else resized
                sums[name] = sums[name].add_(resized) if name in sums else resized
    present = tags.gather(1, order)
    everything = images.new_zeros((*tags.shape, height, width), dtype=torch.float32)
    place = order[:, :, None, None].expand(-1, -1, height, width)
    return {
        name: everything.scatter(1, place, normalise_scores(total, present))
        for name, total in sums.items()
    }


def _present_first(tags: Tensor) -> Tensor:
    """Classes of each photo, its own first, ``(B, K)``; K is the most that a photo has, >= 1."""
    most = max(1, int(tags.count_nonzero(1).max())) if len(tags) else 1
    return tags.argsort(dim=1, descending=True, stable=True)[:, :most]


def _pick(maps: Tensor, order: Tensor) -> Tensor:
    """Maps ``(B, C, h, w)`` of the classes in ``order`` ``(B, K)``, ``(B, K, h, w)``."""
    height, width = maps.shape[-2:]
    return maps.gather(1, order[:, :, None, None].expand(-1, -1, height, width))


def normalise_scores(scores: Tensor, tags: Tensor) -> Tensor:
    """Stretch the scores of each photo and class to [0, 1].

    SEAM: negative scores become 0, then with the smallest and largest value of the map, scores
    below ``min + 1e-5`` become 0 and the others ``(score - min - 1e-5) / (max - min + 1e-5)``. A
    constant map becomes 0.

    Deviation: published code leaves negative values where the smallest score is positive, and
    stores -1 for absent classes; both are 0 here.

    Args:
        scores: ``(B, C, H, W)``.
        tags: ``(B, C)`` in {0, 1}.

    Returns:
        ``(B, C, H, W)`` in [0, 1]; 0 for absent classes.
    """
    positive = scores.relu()
    low = positive.amin((2, 3), keepdim=True)
    high = positive.amax((2, 3), keepdim=True)
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


def _resize_photos(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize photos, bicubic; antialiased like the image libraries that published code uses."""
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True)
