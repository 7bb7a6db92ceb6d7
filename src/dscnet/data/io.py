"""Photos and masks from disk as tensors, with messages that say what to do about a bad file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from dscnet.data.scale import with_long_side
from dscnet.files.label_images import read_labels
from dscnet.files.pictures import opened, read_plane, stored_as
from dscnet.types import DataError

_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA", *_SIXTEEN_BIT)
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_UNREAD = {"F": "floating-point values", "LAB": "CIELAB colours"}
# Tags of TIFF.
_PHOTOMETRIC, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 262, 277, 338

_PAGES = "pages after the first"
_BANDS = "bands beside those of the colours"
LOSSES = {
    _PAGES: "save each page that is a photo of its own as a file of its own",
    _BANDS: "if others than the first three show the objects, save those three as RGB",
}
"""What is not read of a photo, and what to do about it."""


def read_image(path: str | Path, long_side: int | None = None) -> Tensor:
    """Read a photo as RGB, turned upright by its EXIF orientation.

    Grey, palette and CMYK photos are converted; transparency is laid over white; 16 bits are scaled
    to 8. Of several pages the first is read, of more than three bands those of the colours.

    Args:
        path: The file.
        long_side: A photo whose longer side has more pixels is reduced to this while it is read,
            which takes a fraction of the time and memory; None = never.

    Returns:
        uint8 ``(3, H, W)``.

    Raises:
        DataError: If the file is missing, damaged, too large to be safe, of floating-point type or
            of colours that are not converted.
    """
    path = Path(path)
    with opened(path) as image:
        if image.mode in _UNREAD:
            raise DataError(f"{path}: holds {_UNREAD[image.mode]}; re-export it as RGB with 8 bits")
        target = None
        if long_side is not None and max(image.size) > long_side:
            target = with_long_side(image_size(path), long_side)
            # The decoder of JPEG reduces by 2, 4 or 8; what it leaves is twice as large as needed.
            image.draft(None, with_long_side(image.size, 2 * long_side))
        transparent = _is_transparent(image)
        inverted = image.mode in _SIXTEEN_BIT and _tag(image, _PHOTOMETRIC, 1) == 0
        rgb = _to_rgb(ImageOps.exif_transpose(image), transparent, inverted)
        if target is not None:
            rgb = rgb.resize(target[::-1], Image.Resampling.BICUBIC, reducing_gap=3.0)
        return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def image_size(path: str | Path) -> tuple[int, int]:
    """Read ``(H, W)`` of a photo as ``read_image`` will give it, from the header alone.

    Raises:
        DataError: If the file is missing or no image.
    """
    with opened(Path(path)) as image:
        width, height = _stored_size(image)
        # Orientations 5 to 8 swap the axes.
        return (width, height) if _orientation(image) >= 5 else (height, width)


def photo_traits(path: str | Path) -> tuple[str, ...]:
    """Say what ``read_image`` will have to convert; mostly nothing.

    The header tells, but for alpha, whose values are looked at.

    Raises:
        DataError: If the file is missing or no image.
    """
    with opened(Path(path)) as image:
        traits = {
            "grey": image.mode in _GREY,
            "16-bit": image.mode in _SIXTEEN_BIT or ";16" in stored_as(image),
            "CMYK": image.mode == "CMYK",
            "rotated by EXIF": _orientation(image) > 1,
            "transparent": _is_transparent(image),
        }
    return tuple(name for name, present in traits.items() if present)


def photo_losses(path: str | Path) -> tuple[str, ...]:
    """Say which keys of :data:`LOSSES` a photo holds that ``read_image`` does not; mostly none.

    Raises:
        DataError: If the file is missing or no image.
    """
    with opened(Path(path)) as image:
        losses = {
            # Phones and cameras keep previews and depth beside the photo as an MPO.
            _PAGES: getattr(image, "n_frames", 1) > 1 and image.format not in ("JPEG", "MPO"),
            _BANDS: _num_bands(image) > _num_colours(image) + _is_transparent(image),
        }
    return tuple(name for name, present in losses.items() if present)


def read_mask(path: str | Path) -> Tensor:
    """Read labels from a palette or grey PNG, as :func:`dscnet.files.label_images.read_labels` does.

    Returns:
        uint8 ``(H, W)``, 0 = background, 255 = ignore.

    Raises:
        DataError: If the file is missing, damaged or anything else, such as a picture in colours or
            a JPEG, whose values are no labels.
    """
    return torch.from_numpy(read_labels(Path(path)))


def read_saliency(path: str | Path) -> Tensor:
    """Read a saliency map from a grey PNG of up to 8 bits; the largest number of its depth is 1.

    Returns:
        float32 ``(1, H, W)`` in [0, 1].

    Raises:
        DataError: If the file is missing, damaged or anything else.
    """
    plane, highest = read_plane(Path(path), "saliency")
    return torch.from_numpy(plane.astype(np.float32))[None] / highest


def _to_rgb(image: Image.Image, transparent: bool, inverted: bool) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        image = _eight_bits(image, inverted)
    elif transparent:
        # Grey with colours multiplied by alpha has no other way to RGBA.
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image, inverted: bool) -> Image.Image:
    """Scale 16-bit grey, unless its values are those of 8 bits; ``inverted``: 0 is white."""
    values = np.asarray(image).astype(np.float32)
    if inverted:
        values = (2**16 - 1) - values
    elif values.max() <= 255:
        values = values * 257
    return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8))


def _is_transparent(image: ImageFile.ImageFile) -> bool:
    """Whether a photo has an alpha band, or a colour, that says where it is transparent.

    Alpha of nothing but zeros would leave nothing to see: it is a band that nobody filled. The
    fourth band of a TIFF is often another channel, such as near infrared, and many programs
    declare it alpha or nothing. True alpha is mostly opaque or nothing, with soft edges between.
    """
    if image.mode not in _WITH_ALPHA:
        return "transparency" in image.info
    tiff = isinstance(image, TiffImageFile)
    if tiff and _tag(image, _EXTRA_SAMPLES, 0) == 0:
        return False
    alpha = np.asarray(image.getchannel(image.getbands()[-1]))
    whole = int((alpha == 0).sum() + (alpha == 255).sum())
    return bool(alpha.any()) and not (tiff and 2 * whole < alpha.size)


def _num_colours(image: ImageFile.ImageFile) -> int:
    return sum(band not in ("A", "a", "X") for band in image.getbands())


def _num_bands(image: ImageFile.ImageFile) -> int:
    return int(_tag(image, _SAMPLES_PER_PIXEL, len(image.getbands())))


def _tag(image: ImageFile.ImageFile, tag: int, otherwise: int) -> int:
    """The first number of a TIFF's tag; ``otherwise`` if there is none."""
    value = image.tag_v2.get(tag, otherwise) if isinstance(image, TiffImageFile) else otherwise
    return int(value[0] if isinstance(value, tuple) else value)


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
