"""CAM files: one ``.npz`` per photo, without pickled objects."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dscnet.files.atomic import whole_file
from dscnet.types import DataError

CLASSES = "classes"
"""Name of the array of class indices."""

SCALES = "scales"
"""Name of the optional array of coarse single-scale CAMs."""

_REMEDY = "recreate it with `dscnet cam`, or fix the program that wrote it"

Choice = Callable[[Sequence[str]], Iterable[str]]

SCALE_STEP = 4
"""Stride of the coarse CAMs."""


def coarse_maps(maps: Tensor) -> Tensor:
    """CAMs of a scale as stored: 4 x 4 average pooling, 8 bits.

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
    """Write the CAMs of one photo as an uncompressed half-precision ``.npz`` without objects.

    Args:
        path: File to write; replaced if it exists.
        maps: Named CAMs of the present classes, each ``(C', H, W)`` in [0, 1].
        classes: Index of each of the C' classes, 0-based, foreground only; empty for a photo
            without tags.
        scales: Coarse single-scale CAMs, ``(S, C', h, w)`` uint8, 255 = 1; None = not stored.

    Raises:
        ValueError: If a CAM has another number of classes, or a reserved name (``classes``,
            ``scales``).
    """
    if reserved := {CLASSES, SCALES} & maps.keys():
        raise ValueError(f"maps must not have the reserved name {reserved.pop()!r}")
    arrays: dict[str, Any] = {
        name: np.asarray(values).astype(np.float16) for name, values in maps.items()
    }
    for name, values in arrays.items():
        if values.ndim != 3 or len(values) != len(classes):
            raise ValueError(
                f"maps[{name!r}] must be ({len(classes)}, H, W), one map per class, got"
                f" {values.shape}"
            )
    arrays[CLASSES] = np.asarray(classes, dtype=np.int64)
    if scales is not None:
        arrays[SCALES] = np.asarray(scales)
        if fault := _scales_fault(arrays[SCALES], len(classes)):
            raise ValueError(fault)
    with whole_file(path) as file:
        np.savez(file, **arrays)


class CamFile(NamedTuple):
    """Content of a CAM file."""

    maps: dict[str, NDArray[np.float32]]
    """Named CAMs, ``(C', H, W)`` in [0, 1]."""
    classes: NDArray[np.int64]
    """Class indices, ``(C',)``."""
    scales: NDArray[np.float32] | None
    """Coarse single-scale CAMs, ``(S, C', h, w)`` in [0, 1]; None if not stored or not read."""


def read_cam(path: Path) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Read the CAMs of a file from :func:`write_cam`, or of an external file in this format.

    Args:
        path: An ``.npz`` with ``classes`` ``(C',)`` and one or more maps ``(C', H, W)`` in [0, 1].

    Returns:
        The named CAMs, ``(C', H, W)`` float32, and the class indices ``(C',)`` int64.

    Raises:
        DataError: If the file is missing, damaged, or has another format.
    """
    content = read_cam_file(path, lambda names: [name for name in names if name != SCALES])
    return content.maps, content.classes


def read_scales(path: Path) -> NDArray[np.float32] | None:
    """Read the optional coarse single-scale CAMs of a file.

    Args:
        path: As for :func:`read_cam`.

    Returns:
        ``(S, C', h, w)`` float32 in [0, 1]; None if not stored.

    Raises:
        DataError: If the file is missing, damaged, or has another format.
    """
    arrays = _read_arrays(path, lambda names: [SCALES])
    return _scales_of(path, arrays, len(arrays.get(CLASSES, ())))


def read_cam_file(path: Path, choose: Choice = lambda names: names) -> CamFile:
    """Read a file, or some of its arrays, at once.

    Args:
        path: As for :func:`read_cam`.
        choose: From the names of the arrays to those that are read besides ``classes``; at least
            one CAM.

    Raises:
        DataError: If the file is missing, damaged, or has another format.
    """
    arrays = _read_arrays(path, choose)
    classes = arrays.get(CLASSES)
    maps = {name: a for name, a in arrays.items() if name not in (CLASSES, SCALES)}
    fault = _fault(classes, maps)
    floats = {} if fault else {name: _single(values) for name, values in maps.items()}
    fault = fault or _range_fault(floats)
    if classes is None or fault:
        raise DataError(f"{path}: {fault}; {_REMEDY}")
    return CamFile(floats, classes.astype(np.int64), _scales_of(path, arrays, len(classes)))


def _scales_of(
    path: Path, arrays: Mapping[str, NDArray[Any]], num_classes: int
) -> NDArray[np.float32] | None:
    scales = arrays.get(SCALES)
    if scales is None:
        return None
    if fault := _scales_fault(scales, num_classes):
        raise DataError(f"{path}: {fault}; {_REMEDY}")
    values: NDArray[np.float32] = scales.astype(np.float32) / np.float32(255)
    return values


def _read_arrays(path: Path, choose: Choice) -> dict[str, NDArray[Any]]:
    try:
        # Our own handle, because NumPy leaves its handle open if the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            chosen = {CLASSES, *choose(stored.files)}
            return {name: stored[name] for name in stored.files if name in chosen}
    except FileNotFoundError:
        raise DataError(f"{path}: no such CAM file; create it with `dscnet cam`") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: not a readable .npz of plain arrays; recreate it with `dscnet cam`"
        ) from error


def _single(values: NDArray[np.floating]) -> NDArray[np.float32]:
    if values.dtype == np.float16:  # several times faster than by NumPy
        return torch.from_numpy(values).float().numpy()
    return values.astype(np.float32, copy=False)


def _scales_fault(scales: NDArray[Any], num_classes: int) -> str:
    """Error in coarse single-scale CAMs; '' if there is none."""
    if scales.dtype == np.uint8 and scales.ndim == 4 and scales.shape[1] == num_classes:
        return ""
    form = f"(S, {num_classes}, h, w) uint8, one map per scale and class"
    return f"{SCALES!r} must be {form}, got {scales.dtype} {scales.shape}"


def _fault(classes: NDArray[Any] | None, maps: Mapping[str, NDArray[Any]]) -> str:
    """Error in the arrays of a CAM file; '' if there is none."""
    if classes is None:
        return f"it has no array {CLASSES!r} of class indices"
    if classes.ndim != 1 or (classes.size and classes.dtype.kind not in "iu"):
        return f"{CLASSES!r} is not a list of integers"
    if len(np.unique(classes)) != len(classes) or (classes < 0).any():
        return f"{CLASSES!r} must be distinct indices >= 0, got {classes.tolist()}"
    if not maps:
        return "it has no CAM"
    if len({values.shape[1:] for values in maps.values()}) > 1:
        return "its CAMs differ in size"
    for name, values in maps.items():
        if values.dtype.kind != "f" or values.ndim != 3 or len(values) != len(classes):
            form = f"({len(classes)}, H, W) floats"
            return f"map {name!r} is {values.dtype} {values.shape}, not {form}"
    return ""


def _range_fault(maps: Mapping[str, NDArray[np.float32]]) -> str:
    for name, values in maps.items():
        # Written so that NaN fails too.
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            return f"map {name!r} has values outside [0, 1]"
    return ""
