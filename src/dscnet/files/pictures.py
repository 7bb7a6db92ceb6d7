"""Pictures opened, with messages that say what to do, and labels read as they are stored."""

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

from dscnet.types import DataError

LARGEST = 2**29
"""Most pixels that a picture may have: some 23,000 x 23,000."""

_GREY = ("1", "L", "LA")
PLANES = {
    "labels": (
        (*_GREY, "P", "I;16", "I"),
        "save labels as an 8-bit palette or grey PNG whose pixel values are the labels",
    ),
    "saliency": (_GREY, "save saliency as an 8-bit grey PNG"),
}
"""What pictures of one number a pixel hold: Pillow's modes that may store it, and a remedy."""

# Pillow refuses what has more than twice this many, before it takes memory. Its own limit, which
# an orthophoto or a stitched panorama exceeds, is raised for the process and never lowered: to put
# it back after each picture would fail another thread that is reading one.
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, LARGEST // 2)

# What Pillow's decoders raise on damaged files.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
# Bits a pixel of PNGs below and above 8, by Pillow's names of how the file stores them.
_BITS = {"1": 1, "L;2": 2, "L;4": 4, "I;16B": 16}


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open a picture; its pixels are read when they are asked for.

    Raises:
        DataError: If the file is missing, damaged, no picture or has more than :data:`LARGEST`
            pixels, be it here or when the pixels are read inside the block.
    """
    try:
        # Pillow warns of odd metadata and of large photos; both are readable.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Not by its name: Pillow would map plain TIFFs into memory and turn them wrongly.
            with path.open("rb") as file, Image.open(file) as image:
                yield image
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; add it or remove what refers to it") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: says that it has more than {LARGEST:,} pixels, which are the most that are"
            " read; scale it down or cut it into parts"
        ) from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory; scale it down") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path}: cannot be decoded (no picture of a known kind); re-export or remove it"
        ) from error
    except _UNDECODABLE as error:
        if isinstance(error, OSError) and error.errno:  # not the decoder's, which has no number
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); allow it to be, or remove it"
            ) from error
        raise DataError(f"{path}: cannot be decoded ({error}); re-export or remove it") from error


def stored_as(image: ImageFile.ImageFile) -> str:
    """Pillow's name of how a file stores its pixels, such as ``RGB;16B``; known before loading."""
    if not image.tile:
        return image.mode
    arguments = image.tile[0][3]
    name = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return str(name)


def read_plane(path: Path, what: str) -> tuple[NDArray[np.integer], int]:
    """Read the one number a pixel of a PNG, as the file stores it.

    Alpha beside grey values is left out where it says nothing: what is not opaque must be 0.

    Args:
        path: The file.
        what: A key of :data:`PLANES`, which says how a PNG may store them.

    Returns:
        The numbers ``(H, W)``, and the largest that the file's depth can hold.

    Raises:
        DataError: If the file is missing, damaged or anything else.
    """
    modes, remedy = PLANES[what]
    with opened(path) as image:
        stored, mode = stored_as(image), image.mode
        if image.format != "PNG" or mode not in modes:
            raise DataError(
                f"{path}: image mode {mode} of a {image.format} holds no {what}; {remedy}"
            )
        values: NDArray[np.integer] = np.array(image.convert("L") if mode == "1" else image)
    if mode == "LA":
        values, alpha = np.moveaxis(values, 2, 0)
        if values[alpha != 255].any():
            raise DataError(f"{path}: is transparent where it holds {what}; {remedy}")
    highest = 2 ** _BITS.get(stored, 8) - 1
    if highest < 255:  # which Pillow stretches to 0..255
        values //= 255 // highest
    return values, highest
