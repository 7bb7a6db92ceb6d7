"""Opens images with helpful error messages, and reads label images as stored."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from dscnet.files.archives import open_file
from dscnet.types import DataError

LARGEST = 2**29
"""Maximum number of pixels of an image, about 23,000 x 23,000."""

_GREY = ("1", "L", "LA")
PLANES = {
    "labels": (
        (*_GREY, "P", "I;16", "I"),
        "save labels as an 8-bit palette or grey PNG whose pixel values are the labels",
    ),
    "saliency": (_GREY, "save saliency as an 8-bit grey PNG"),
}
"""Content of single-channel images: Pillow modes that can store it, and a remedy."""

# Pillow rejects images with more than twice this many pixels before it allocates memory. Its
# default is too low for orthophotos and panoramas. The limit is raised for the whole process:
# restoring it after each image would break other threads.
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, LARGEST // 2)

# Exceptions of Pillow's decoders for damaged files.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# Bits per pixel of PNGs other than 8, by Pillow's raw mode.
_BITS = {"1": 1, "L;2": 2, "L;4": 4, "I;16B": 16}


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image; pixels are read on demand.

    Raises:
        DataError: If the file is missing, damaged, not an image or has more than :data:`LARGEST`
            pixels; also for errors when pixels are read inside the block.
    """
    try:
        # Pillow warns about unusual metadata and large photos; both are readable.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not by path: Pillow would memory-map plain TIFFs and rotate them incorrectly.
            with open_file(path) as file, Image.open(file) as image:
                yield image
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; add it or remove references to it") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: has more than the maximum of {LARGEST:,} pixels; scale it down or cut it into"
            " parts"
        ) from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory; scale it down") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path}: cannot be decoded (not a known image format); re-export or remove it"
        ) from error
    except _UNDECODABLE as error:
        if isinstance(error, OSError) and error.errno:  # the decoder's errors have no errno
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); check its permissions or remove it"
            ) from error
        raise DataError(f"{path}: cannot be decoded ({error}); re-export or remove it") from error


def stored_as(image: ImageFile.ImageFile) -> str:
    """Pillow's raw mode of a file, such as ``RGB;16B``; available before loading."""
    if not image.tile:
        return image.mode
    arguments = image.tile[0][3]
    name = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return str(name)


def read_plane(path: Path, what: str) -> tuple[NDArray[np.integer], int]:
    """Read a single-channel PNG as stored.

    An alpha channel is dropped; pixels that are not opaque must be 0.

    Args:
        path: The file.
        what: A key of :data:`PLANES`.

    Returns:
        The values ``(H, W)``, and the maximum for the bit depth.

    Raises:
        DataError: If the file is missing, damaged or not such a PNG.
    """
    modes, remedy = PLANES[what]
    with opened(path) as image:
        stored, mode = stored_as(image), image.mode
        if image.format != "PNG" or mode not in modes:
            raise DataError(
                f"{path}: {image.format} image of mode {mode} cannot store {what}; {remedy}"
            )
        values: NDArray[np.integer] = np.array(image.convert("L") if mode == "1" else image)
    if mode == "LA":
        values, alpha = np.moveaxis(values, 2, 0)
        if values[alpha != 255].any():
            raise DataError(f"{path}: has transparent pixels with {what}; {remedy}")
    highest = 2 ** _BITS.get(stored, 8) - 1
    if highest < 255:  # Pillow scales these to 0..255
        values //= 255 // highest
    return values, highest
