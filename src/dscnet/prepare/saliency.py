"""Saliency maps by a pretrained network, for data sets without them."""

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
    "u2net_cloth_seg": "returns a map for each of three kinds of clothes",
    "sam": "returns a mask for each point or box that it is given",
}
"""Networks of rembg that do not predict saliency."""


def make_saliency(photos: str | Path, out: str | Path, *, model: str = "u2net") -> list[str]:
    """Write saliency maps ``OUT/ID.png``, 8-bit grey, by a network of rembg.

    Such networks are trained on pixel masks of salient objects, so training on their maps uses more
    supervision than tags. Photos that cannot be read are skipped.

    Args:
        photos: Folder of photos, or a single one.
        out: Folder for the maps; training reads ``saliency/`` of the data set. It may be inside
            ``photos``.
        model: rembg's name of the network; its weights are downloaded once.

    Returns:
        One error message per failed photo.

    Raises:
        DataError: If there are no photos, or a map would overwrite one.
        DscnetError: If rembg is missing or cannot provide the network, or the network is known to
            return several maps per photo.
    """
    # Maps of an earlier call are not photos.
    photo_set = open_photos(photos, apart_from=(Path(out),))
    samples = photo_set.samples
    targets = {sample.image_id: Path(out) / f"{sample.image_id}.png" for sample in samples}
    refuse_overwriting_photos(samples, targets.values())
    if model in _SEVERAL_MAPS:
        raise DscnetError(
            f"--model {model} {_SEVERAL_MAPS[model]}, not one saliency map: choose another, such"
            " as u2net or isnet-general-use"
        )
    try:
        import rembg
    # rembg exits the program if it finds no runtime for its networks.
    except (ImportError, SystemExit) as error:
        raise DscnetError(
            "saliency maps need rembg: pip install 'dscnet[saliency]';"
            " or put existing maps, 8-bit grey PNGs named as the photos, into saliency/ of the"
            " data set"
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
                    f"{sample.image_path}: network '{model}' gave {found.width} x {found.height}"
                    f" pixels for a photo of {photo.width} x {photo.height}; choose another --model"
                )
            write_saliency(targets[sample.image_id], np.asarray(found) / 255)
        except DscnetError as error:
            failures.append(str(error))
        except OSError as error:
            failures.append(write_failure(sample, error))
    return failures
