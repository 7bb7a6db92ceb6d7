"""Results for the PASCAL VOC evaluation server: written as it takes them, and checked."""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from dscnet.data import PhotoSet, Sample, image_size, open_photos
from dscnet.data.formats import VOC_CLASSES, match_id, photos_in
from dscnet.data.tag_files import first_few, read_text
from dscnet.palette import voc_palette
from dscnet.predictor import Predictor
from dscnet.types import DataError

FOLDER = "results/VOC2012/Segmentation/{comp}_test_cls"
"""Folder of the masks in the archive; comp5 = trained on VOC alone, comp6 = on other data too."""

_MEMBER = re.compile(FOLDER.format(comp="(?P<comp>comp[56])") + r"/(?P<id>[^/]+)\.png")
_NUM_LABELS = len(VOC_CLASSES) + 1
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error)


def submit_voc2012(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    ids: str | Path | None = None,
    comp: str = "comp6",
) -> int:
    """Predict photos and write the archive that the server takes.

    Args:
        model: Run folder of a network that was trained on VOC's classes.
        images: The folder VOC2012, whose list ``test`` is predicted; or a folder of photos.
        out: The archive, ``.tgz``; written whole or not at all, and checked before.
        ids: List of the photos to predict, one id a line; None = as ``images`` says.
        comp: ``comp5`` if the network has seen nothing but VOC, ``comp6`` if it has: weights from
            ImageNet count as other data.

    Returns:
        How many photos it holds.

    Raises:
        DataError: If a photo is missing or cannot be read, or the classes are not VOC's.
        DscnetError: If the run holds no segmentation network.
    """
    photos = photos_to_submit(images, ids)
    predictor = Predictor.from_run(model)
    if predictor.classes != VOC_CLASSES:
        raise DataError(
            f"{model}: expected a network of VOC's 20 classes ({first_few(VOC_CLASSES)}), found "
            f"{len(predictor.classes)} ({first_few(predictor.classes)}); train it on VOC"
        )
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".submit-") as scratch:
        masks = Path(scratch) / "masks"
        failures = predictor.write(photos, masks)
        if failures:
            raise DataError("not every photo could be predicted:\n  " + "\n  ".join(failures))
        archive = Path(scratch) / target.name
        pack(masks, archive, comp=comp)
        sizes = _sizes(photos)
        if problems := check_submission(archive, ids=list(sizes), sizes=sizes):
            raise DataError("the server would refuse this:\n  " + "\n  ".join(problems))
        os.replace(archive, target)
    return len(photos.samples)


def check_voc2012(
    path: str | Path, *, images: str | Path | None = None, ids: str | Path | None = None
) -> list[str]:
    """Check an archive against a list of photos, and the photos' sizes.

    Args:
        path: The archive.
        images: As for :func:`submit_voc2012`; None = sizes are not known.
        ids: List of the photos that it must hold; None = those of ``images``, or any.

    Returns:
        As :func:`check_submission`.
    """
    if images is not None:
        sizes = _sizes(photos_to_submit(images, ids))
        return check_submission(path, ids=list(sizes), sizes=sizes)
    return check_submission(path, ids=None if ids is None else read_ids(Path(ids)))


def photos_to_submit(images: str | Path, ids: str | Path | None = None) -> PhotoSet:
    """The photos to submit.

    Args:
        images: The folder VOC2012, whose list ``test`` counts; or a folder of photos.
        ids: List of the photos, one id a line; None = as ``images`` says.

    Raises:
        DataError: If a list or a photo is missing.
    """
    root = Path(images)
    folder = root / "JPEGImages" if (root / "JPEGImages").is_dir() else root
    if ids is None:
        if folder == root:
            return open_photos(root)
        ids = root / "ImageSets" / "Segmentation" / "test.txt"
    there = photos_in(folder)
    wanted = {name: match_id(name, there) for name in read_ids(Path(ids))}
    if missing := [name for name, image_id in wanted.items() if image_id is None]:
        raise DataError(
            f"{folder}: expected the {len(wanted)} photos that {ids} names, found "
            f"{len(wanted) - len(missing)}; missing {first_few(missing)}: add them, or correct the "
            "list"
        )
    found = [image_id for image_id in wanted.values() if image_id is not None]
    samples = tuple(Sample(image_id, there[image_id]) for image_id in found)
    return PhotoSet(root.resolve().name, (), samples, split="test")


def read_ids(path: Path) -> list[str]:
    """Image ids of a list file, one a line.

    Raises:
        DataError: If the file is missing or empty.
    """
    ids = read_text(path).split()
    if not ids:
        raise DataError(f"{path}: expected image ids, one a line, found none")
    return ids


def pack(masks: Path, path: Path, *, comp: str) -> None:
    """Write an archive of a folder of masks, in the server's folders, without names of people."""
    with tarfile.open(path, "w:gz") as archive:
        for mask in sorted(masks.glob("*.png")):
            info = tarfile.TarInfo(f"{FOLDER.format(comp=comp)}/{mask.name}")
            info.size = mask.stat().st_size
            with mask.open("rb") as file:
                archive.addfile(info, file)


def check_submission(
    path: str | Path,
    *,
    ids: Sequence[str] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> list[str]:
    """Say what the server would refuse, or measure wrongly.

    Args:
        path: The archive.
        ids: The photos that it must hold; None = any.
        sizes: Height and width of photos by id, as far as they are known.

    Returns:
        A line a problem; empty if there is none.

    Raises:
        DataError: If the file is no readable archive.
    """
    problems: list[str] = []
    found: Counter[str] = Counter()
    comps = set()
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isdir():
                    continue
                fits = _MEMBER.fullmatch(member.name)
                file = archive.extractfile(member) if member.isfile() else None
                if fits is None or fits["id"].startswith(".") or file is None:
                    expected = FOLDER.format(comp="comp6") + "/ID.png (or comp5)"
                    problems.append(f"{member.name}: expected only files {expected}")
                    continue
                found[fits["id"]] += 1
                comps.add(fits["comp"])
                problems += _mask_problems(member.name, file, (sizes or {}).get(fits["id"]))
    except _DAMAGED as error:
        raise DataError(f"{path}: expected a .tgz archive, found none ({error})") from error
    if len(comps) > 1:
        problems.append(f"{path}: expected one of comp5 and comp6, found both")
    if not found:
        problems.append(f"{path}: expected masks, found none")
    problems += [f"{name}.png: is there {n} times" for name, n in found.items() if n > 1]
    if ids is not None:
        for kind, names in (("missing", set(ids) - set(found)), ("extra", set(found) - set(ids))):
            if names:
                problems.append(
                    f"{path}: expected {len(ids)} masks, found {len(found)}; {len(names)} {kind}: "
                    f"{first_few(sorted(names))}"
                )
    return problems


def _sizes(photos: PhotoSet) -> dict[str, tuple[int, int]]:
    return {sample.image_id: image_size(sample.image_path) for sample in photos.samples}


def _mask_problems(name: str, file: IO[bytes], size: tuple[int, int] | None) -> list[str]:
    try:
        with Image.open(file) as image:
            kind, mode = image.format, image.mode
            labels = np.array(image)
            palette = image.getpalette() or []
    except (*_DAMAGED, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        return [f"{name}: expected a PNG, found damage ({error})"]
    if (kind, mode) != ("PNG", "P"):
        return [f"{name}: expected a PNG of mode P (palette), found {kind} of mode {mode}"]
    problems = []
    if palette[: 3 * _NUM_LABELS] != voc_palette()[: 3 * _NUM_LABELS]:
        problems.append(f"{name}: expected VOC's palette, found another")
    strange = labels[labels >= _NUM_LABELS]
    if strange.size:
        problems.append(f"{name}: expected labels 0 to {_NUM_LABELS - 1}, found {strange[0]}")
    if size is not None and labels.shape != size:
        found = " x ".join(str(side) for side in reversed(labels.shape))
        problems.append(f"{name}: expected {size[1]} x {size[0]} pixels, found {found}")
    return problems
