"""Saliency maps of photos by a ready-made network, where a data set comes without them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from PIL import Image

from dscnet.data import open_photos, read_image, refuse_overwriting_photos, write_failure
from dscnet.files.label_images import write_saliency
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

_SEVERAL_MAPS = {
    "u2net_cloth_seg": "gives a map for each of three kinds of clothes",
    "sam": "gives a mask for each point or box that it is told",
}
"""Networks of rembg that answer another question."""


def make_saliency(photos: str | Path, out: str | Path, *, model: str = "u2net") -> list[str]:
    """Write ``OUT/ID.png``, 8-bit grey, for every photo of a folder, by a network of rembg.

    Such networks learned from pixel masks of salient objects: what is trained on their maps is
    supervised by more than tags. A photo that cannot be read does not stop the others.

    Args:
        photos: Folder of photos, or a single one.
        out: Folder for the maps; ``saliency/`` of a data set is where training looks. It may lie
            among the photos.
        model: Name of a network that rembg knows; it fetches the weights once.

    Returns:
        What went wrong, a line a photo.

    Raises:
        DataError: If there is no photo, or a map would replace one.
        DscnetError: If rembg is missing or cannot provide the network, or the network is known to
            give several maps a photo.
    """
    # Maps of an earlier call are none of the photos.
    photo_set = open_photos(photos, apart_from=(Path(out),))
    samples = photo_set.samples
    targets = {sample.image_id: Path(out) / f"{sample.image_id}.png" for sample in samples}
    refuse_overwriting_photos(samples, targets.values())
    if model in _SEVERAL_MAPS:
        raise DscnetError(
            f"--model {model} {_SEVERAL_MAPS[model]}, not one map of what stands out: choose"
            " another, such as u2net or isnet-general-use"
        )
    try:
        import rembg
    # It ends the program where it finds no runtime for its networks.
    except (ImportError, SystemExit) as error:
        raise DscnetError(
            "saliency maps need rembg: pip install 'dscnet[saliency]';"
            " or put maps made elsewhere, 8-bit grey PNGs named as the photos, into the folder"
            " saliency/ of the data set"
        ) from error
    try:
        session = rembg.new_session(model)
    except (OSError, ValueError) as error:
        raise DscnetError(f"rembg cannot provide its network '{model}': {error}") from error
    for note in photo_set.notes:
        log.warning("%s", note)
    failures = []
    for sample in samples:
        try:
            photo = Image.fromarray(read_image(sample.image_path).permute(1, 2, 0).numpy())
            found = rembg.remove(photo, session=session, only_mask=True).convert("L")
            if found.size != photo.size:
                raise DscnetError(
                    f"{sample.image_path}: is {photo.width} x {photo.height} pixels, and network"
                    f" '{model}' made {found.width} x {found.height} of it, not one map of its"
                    " size; name another --model"
                )
            write_saliency(targets[sample.image_id], np.asarray(found) / 255)
        except DscnetError as error:
            failures.append(str(error))
        except OSError as error:
            failures.append(write_failure(sample, error))
    return failures
