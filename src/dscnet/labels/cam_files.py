"""Files of class activation maps: one ``.npz`` a photo, without objects."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dscnet.files.atomic import whole_file
from dscnet.types import DataError

CLASSES = "classes"
"""Name of the array of class indices in a file of maps."""

SCALES = "scales"
"""Name of the array of the coarse maps of single scales in a file of maps, where they are kept."""

SCALE_STEP = 4
"""Photo pixels a pixel of these, along either side."""


def coarse_maps(maps: Tensor) -> Tensor:
    """Maps of a scale as they are kept: means of cells of 4 x 4 pixels, in 8 bits.

    Args:
        maps: ``(B, C, H, W)`` in [0, 1].

    Returns:
        ``(B, C, ceil(H / 4), ceil(W / 4))`` uint8, 255 = 1; cells at the border may be smaller.
    """
    cells = functional.avg_pool2d(maps, SCALE_STEP, ceil_mode=True)
    return (255 * cells).round().to(torch.uint8)


def write_cam(
    path: Path,
    maps: Mapping[str, Tensor | NDArray[np.floating]],
    classes: Sequence[int] | NDArray[np.integer],
    *,
    scales: Tensor | NDArray[np.uint8] | None = None,
) -> None:
    """Write the maps of one photo as an ``.npz`` without objects, half precision, not compressed.

    Args:
        path: File to write; replaced if it exists.
        maps: Named maps of the present classes, each ``(C', H, W)`` in [0, 1].
        classes: Index of each of the C' classes, 0-based, foreground only; empty for a photo
            without tags.
        scales: Coarse maps of single scales, ``(S, C', h, w)`` uint8, 255 = 1; None = not kept.

    Raises:
        ValueError: If a map has another number of classes, or a reserved name, ``classes`` or
            ``scales``.
    """
    if reserved := {CLASSES, SCALES} & maps.keys():
        raise ValueError(f"maps must not hold the reserved name {reserved.pop()!r}")
    arrays: dict[str, Any] = {
        name: np.asarray(values).astype(np.float16) for name, values in maps.items()
    }
    for name, values in arrays.items():
        if values.ndim != 3 or len(values) != len(classes):
            raise ValueError(
                f"maps[{name!r}] must be ({len(classes)}, H, W), a map a class, got {values.shape}"
            )
    arrays[CLASSES] = np.asarray(classes, dtype=np.int64)
    if scales is not None:
        arrays[SCALES] = np.asarray(scales)
        if fault := _scales_fault(arrays[SCALES], len(classes)):
            raise ValueError(fault)
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
    arrays = _read_arrays(path)
    arrays.pop(SCALES, None)
    classes = arrays.pop(CLASSES, None)
    fault = _fault(classes, arrays)
    if classes is None or fault:
        raise DataError(f"{path}: {fault}; make it anew by `dscnet cam`, or mend what made it")
    return {name: a.astype(np.float32) for name, a in arrays.items()}, classes.astype(np.int64)


def read_scales(path: Path) -> NDArray[np.float32] | None:
    """Read the coarse maps of single scales that a file of maps may hold.

    Args:
        path: As for :func:`read_cam`.

    Returns:
        ``(S, C', h, w)`` float32 in [0, 1]; None where they were not kept.

    Raises:
        DataError: If the file is missing, damaged, or not of this form.
    """
    arrays = _read_arrays(path, only=(CLASSES, SCALES))
    scales = arrays.get(SCALES)
    if scales is None:
        return None
    if fault := _scales_fault(scales, len(arrays.get(CLASSES, ()))):
        raise DataError(f"{path}: {fault}; make it anew by `dscnet cam`, or mend what made it")
    shares: NDArray[np.float32] = scales.astype(np.float32) / np.float32(255)
    return shares


def _read_arrays(path: Path, only: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    try:
        # A handle of our own, because numpy leaves its one open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if only is None or name in only}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of maps; make it by `dscnet cam`") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: not a readable .npz of plain arrays; make it anew by `dscnet cam`"
        ) from error


def _scales_fault(scales: NDArray[Any], num_classes: int) -> str:
    """What is wrong with coarse maps of single scales; '' if nothing is."""
    if scales.dtype == np.uint8 and scales.ndim == 4 and scales.shape[1] == num_classes:
        return ""
    form = f"(S, {num_classes}, h, w) uint8, a map a scale and class"
    return f"{SCALES!r} must be {form}, got {scales.dtype} {scales.shape}"


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
