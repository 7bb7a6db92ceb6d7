"""Saliency maps of photos by a ready-made network, where a data set comes without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dscnet.data import keep_photos, open_photos, read_image
from dscnet.labels.saliency import write_saliency
from dscnet.types import DscnetError


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
        DscnetError: If rembg is missing or cannot provide the network.
    """
    # Maps of an earlier call are none of the photos.
    samples = open_photos(photos, apart_from=(Path(out),)).samples
    targets = {sample.image_id: Path(out) / f"{sample.image_id}.png" for sample in samples}
    keep_photos(samples, targets.values())
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
    failures = []
    for sample in samples:
        try:
            photo = Image.fromarray(read_image(sample.image_path).permute(1, 2, 0).numpy())
        except DscnetError as error:
            failures.append(str(error))
            continue
        saliency = rembg.remove(photo, session=session, only_mask=True).convert("L")
        write_saliency(targets[sample.image_id], np.asarray(saliency) / 255)
    return failures
