"""Readers of class-agnostic mask proposals: PNGs, index maps, COCO RLE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dscnet.files.atomic import read_json
from dscnet.files.image_files import opened
from dscnet.refine.mask_proposals import Mask
from dscnet.types import DataError, DscnetError

Size = tuple[int, int]

PLANE_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow modes with one integer per pixel."""

_REMEDY = "export the masks again"


@dataclass(frozen=True)
class _Stored:
    """One or more stored masks: location, size and reader."""

    place: str
    size: Size
    read: Callable[[], Iterator[Mask]]


class ExternalMasks:
    """Mask proposals of photos, in a folder or a JSON file.

    A folder contains, for each photo, one of: a subfolder ``ID/`` of PNGs, one per mask, nonzero =
    inside; ``ID.png``, an index map of 8 or 16 bits, 0 = in no mask; ``ID.json``, a list of COCO
    annotations, or an object with such a list under ``annotations``. A single JSON file for all
    photos has the same content; each annotation refers to its photo by ``file_name`` or
    ``image_id``, or by the ``id`` of an entry in ``images``. Annotations are run-length encoded:
    ``segmentation`` is ``{"size": [height, width], "counts": ...}``.

    Args:
        path: The folder or the file.

    Raises:
        DataError: If there is no such folder or file, or the file is invalid.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise DataError(f"{self.path}: no such folder or JSON file of masks; correct the path")
        self.by_photo = None if self.path.is_dir() else _annotations_by_photo(self.path)

    def __contains__(self, image_id: str) -> bool:
        """Whether there is an entry for a photo, possibly without masks."""
        if self.by_photo is not None:
            return image_id in self.by_photo
        return self._source(image_id) is not None

    def check(self, image_id: str, size: Size) -> None:
        """Validate the masks of a photo without reading pixels.

        Args:
            image_id: The photo; it may have no masks.
            size: Height and width of the photo, after EXIF rotation.

        Raises:
            DataError: If a file is invalid or a mask has another size.
            DscnetError: If a required package is missing.
        """
        self._fitting(image_id, size)

    def read(self, image_id: str, size: Size) -> Iterator[Mask]:
        """Iterate over the masks of a photo; none if there is no entry.

        Args:
            image_id: The photo.
            size: Height and width of the photo, after EXIF rotation.

        Raises:
            DataError: As for :meth:`check`, and if the pixels of a mask cannot be read.
        """
        for stored in self._fitting(image_id, size):
            yield from stored.read()

    def _fitting(self, image_id: str, size: Size) -> list[_Stored]:
        found = list(self._stored(image_id))
        for stored in found:
            if stored.size != size:
                raise DataError(
                    f"{stored.place}: the mask is {stored.size[0]} x {stored.size[1]}, photo"
                    f" '{image_id}' is {size[0]} x {size[1]} (height x width); create masks at"
                    " the size of the photo after EXIF rotation"
                )
        return found

    def _stored(self, image_id: str) -> Iterator[_Stored]:
        if self.by_photo is not None:
            yield from _encoded(self.by_photo.get(image_id, []), f"{self.path}, photo '{image_id}'")
            return
        source = self._source(image_id)
        if source is None:
            return
        if source.is_dir():
            for path in sorted(source.glob("*.png")):
                yield _Stored(str(path), _plane_size(path), partial(_binary, path))
        elif source.suffix == ".png":
            yield _Stored(str(source), _plane_size(source), partial(_segments, source))
        else:
            yield from _encoded(_annotations(read_json(source, _REMEDY), source), str(source))

    def _source(self, image_id: str) -> Path | None:
        folder = self.path / image_id
        files = [self.path / f"{image_id}.{ending}" for ending in ("png", "json")]
        found = [folder] if folder.is_dir() and any(folder.glob("*.png")) else []
        found += [file for file in files if file.is_file()]
        if len(found) > 1:
            names = " and ".join(str(path) for path in found)
            raise DataError(f"{names} both contain masks of photo '{image_id}'; remove one of them")
        return found[0] if found else None


def decode_rle(segmentation: Mapping[str, Any]) -> Mask:
    """Decode a mask in COCO's run-length encoding.

    Runs alternate between outside and inside, starting outside, in column-major order.

    Args:
        segmentation: ``size`` (height, width), and ``counts``: a list of run lengths, or COCO's
            compressed string, which pycocotools decodes.

    Returns:
        Mask of shape ``size``.

    Raises:
        ValueError: If the runs do not fill the mask, or are invalid.
        DscnetError: If pycocotools is needed and missing.
    """
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, str):
        encoded = {"size": [height, width], "counts": counts.encode()}
        inside: Mask = _pycocotools().decode(encoded).astype(bool)
        return inside
    runs = np.asarray(counts, dtype=np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"counts must be runs that fill {height} x {width} pixels")
    flat: Mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DscnetError(
            "compressed COCO run lengths need the package pycocotools: pip install 'dscnet[coco]';"
            " or store counts as a list of numbers, or masks as PNGs"
        ) from error
    return mask


def _encoded(annotations: list[Mapping[str, Any]], place: str) -> Iterator[_Stored]:
    for index, annotation in enumerate(annotations):
        where = f"{place}, annotation {index}"
        segmentation = annotation.get("segmentation")
        if not _is_rle(segmentation):
            raise DataError(
                f"{where}: 'segmentation' must be run lengths, an object with 'size' [height,"
                " width] and 'counts'; export masks as COCO RLE, not as polygons"
            )
        if isinstance(segmentation["counts"], str):
            _pycocotools()
        height, width = segmentation["size"]
        yield _Stored(where, (height, width), partial(_decoded, segmentation, where))


def _is_rle(segmentation: Any) -> TypeGuard[dict[str, Any]]:
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("size"), list):
        return False
    size, counts = segmentation["size"], segmentation.get("counts")
    whole = all(type(number) is int and number > 0 for number in size)
    return len(size) == 2 and whole and isinstance(counts, str | list)


def _decoded(segmentation: Mapping[str, Any], place: str) -> Iterator[Mask]:
    try:
        yield decode_rle(segmentation)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{place}: cannot be decoded ({error}); {_REMEDY}") from error


def _annotations(content: Any, path: Path) -> list[Mapping[str, Any]]:
    found = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(
            f"{path}: must contain a list of COCO annotations, or an object with one under"
            f" 'annotations', got {type(content).__name__}; {_REMEDY}"
        )
    return found


def _annotations_by_photo(path: Path) -> dict[str, list[Mapping[str, Any]]]:
    content = read_json(path, _REMEDY)
    images = content.get("images", []) if isinstance(content, dict) else []
    try:
        names = {image["id"]: _photo_id(image["file_name"]) for image in images}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: 'images' must be objects with 'id' and 'file_name'") from error
    by_photo: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names.values()}
    for index, entry in enumerate(_annotations(content, path)):
        file_name, image_id = entry.get("file_name"), entry.get("image_id")
        if isinstance(file_name, str):
            name = _photo_id(file_name)
        elif isinstance(image_id, str | int):
            name = names.get(image_id, str(image_id))
        else:
            raise DataError(
                f"{path}, annotation {index}: has no photo; add 'file_name' or 'image_id', or"
                " use a folder with one file per photo"
            )
        by_photo.setdefault(name, []).append(entry)
    return by_photo


def _photo_id(file_name: str) -> str:
    """Image id as in data sets: without ending, folders joined by ``__``."""
    path = PureWindowsPath(file_name)  # handles slashes and backslashes
    return "__".join(path.with_suffix("").parts[bool(path.anchor) :])


def _plane_size(path: Path) -> Size:
    with _opened(path) as image:
        return image.height, image.width


def _plane(path: Path) -> NDArray[Any]:
    with _opened(path) as image:
        return np.array(image)


def _binary(path: Path) -> Iterator[Mask]:
    yield _plane(path) != 0


def _segments(path: Path) -> Iterator[Mask]:
    indices = _plane(path)
    for index in np.unique(indices[indices != 0]):
        yield indices == index


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with opened(path) as image:
        if image.mode not in PLANE_MODES:
            raise DataError(
                f"{path}: image mode {image.mode} cannot store masks; save it as a grey PNG of 8"
                " or 16 bits"
            )
        yield image
