"""Photos and masks from disk as tensors, with messages that say what to do about a bad file."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from dscnet.data.scale import with_long_side
from dscnet.types import DataError

# What Pillow's decoders raise on damaged files.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA", *_SIXTEEN_BIT)


def read_image(path: str | Path, long_side: int | None = None) -> Tensor:
    """Read a photo as RGB, turned upright by its EXIF orientation.

    Grey, palette and CMYK photos are converted; transparency is laid over white; 16-bit grey is
    scaled to 8 bits.

    Args:
        path: The file.
        long_side: A photo whose longer side has more pixels is reduced to this while it is read,
            which takes a fraction of the time and memory; None = never.

    Returns:
        uint8 ``(3, H, W)``.

    Raises:
        DataError: If the file is missing, damaged, too large to be safe or of floating-point type.
    """
    path = Path(path)
    with _opened(path) as image:
        if image.mode == "F":
            raise DataError(f"{path}: holds floating-point values; re-export it with 8 bits")
        target = None
        if long_side is not None and max(image.size) > long_side:
            target = with_long_side(image_size(path), long_side)
            # The decoder of JPEG reduces by 2, 4 or 8; what it leaves is twice as large as needed.
            image.draft(None, with_long_side(image.size, 2 * long_side))
        rgb = _to_rgb(ImageOps.exif_transpose(image))
        if target is not None:
            rgb = rgb.resize(target[::-1], Image.Resampling.BICUBIC, reducing_gap=3.0)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def image_size(path: str | Path) -> tuple[int, int]:
    """Read ``(H, W)`` of a photo as ``read_image`` will give it, from the header alone.

    Raises:
        DataError: If the file is missing or no image.
    """
    with _opened(Path(path)) as image:
        width, height = _stored_size(image)
        # Orientations 5 to 8 swap the axes.
        return (width, height) if _orientation(image) >= 5 else (height, width)


def photo_traits(path: str | Path) -> tuple[str, ...]:
    """Say what ``read_image`` will have to convert, from the header alone; mostly nothing.

    Raises:
        DataError: If the file is missing or no image.
    """
    with _opened(Path(path)) as image:
        traits = {
            "grey": image.mode in _GREY,
            "16-bit": image.mode in _SIXTEEN_BIT,
            "CMYK": image.mode == "CMYK",
            "transparent": _has_transparency(image),
            "rotated by EXIF": _orientation(image) > 1,
        }
    return tuple(name for name, present in traits.items() if present)


def read_mask(path: str | Path) -> Tensor:
    """Read labels from a palette or 8-bit grey PNG; the palette's colours do not matter.

    Returns:
        uint8 ``(H, W)``, 0 = background, 255 = ignore.

    Raises:
        DataError: If the file is missing, damaged or anything else, such as an RGB picture or
            a JPEG, whose values are no labels.
    """
    return _read_plane(Path(path), ("P", "L"), "save labels as an 8-bit palette or grey PNG")


def read_saliency(path: str | Path) -> Tensor:
    """Read a saliency map from an 8-bit grey PNG.

    Returns:
        float32 ``(1, H, W)`` in [0, 1].

    Raises:
        DataError: If the file is missing, damaged or anything else.
    """
    plane = _read_plane(Path(path), ("L",), "save saliency as an 8-bit grey PNG")
    return plane[None].float() / 255


def _read_plane(path: Path, modes: tuple[str, ...], remedy: str) -> Tensor:
    with _opened(path) as image:
        # Pillow stretches grey PNGs of 2 or 4 bits to 0..255, which would change labels.
        stretched = image.mode == "L" and any(tile[3] != "L" for tile in image.tile)
        if image.format != "PNG" or image.mode not in modes or stretched:
            found = f"{image.format} of mode {image.mode}" + (" below 8 bits" * stretched)
            raise DataError(f"{path}: is a {found}; {remedy}")
        return torch.from_numpy(np.array(image))


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        # Pillow warns of odd metadata and of photos above 90 megapixels; both are readable.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                yield image
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; add it or remove what refers to it") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise DataError(f"{path}: has too many pixels ({error}); scale it down") from error
    except _UNDECODABLE as error:
        raise DataError(f"{path}: cannot be decoded ({error}); re-export or remove it") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.float64)
        if values.max() > 255:
            values = values / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if _has_transparency(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _has_transparency(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as the file stores them, before its orientation turns them."""
    if isinstance(image, TiffImageFile):
        # Some versions of Pillow give the size of a TIFF as it is when turned, others do not.
        tags = image.tag_v2
        return int(tags[ExifTags.Base.ImageWidth]), int(tags[ExifTags.Base.ImageLength])
    return image.size


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
