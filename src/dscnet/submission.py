"""Archives for the PASCAL VOC evaluation server: writing and validation."""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from dscnet.data import PhotoSet, Sample, image_size
from dscnet.data.formats import VOC_CLASSES, listed_ids, photos_in
from dscnet.data.tag_files import first_few
from dscnet.files.label_images import voc_palette
from dscnet.metrics.confusion import Labels
from dscnet.predictor import Predictor, refuse_failures
from dscnet.prepare.voc import PUBLISHED, TEST, devkit_folder
from dscnet.types import DataError

FOLDER = "results/VOC2012/Segmentation/{comp}_test_cls"
"""Folder of the masks in the archive; comp5 = trained on VOC only, comp6 = also on other data."""

_MEMBER = re.compile(FOLDER.format(comp="(?P<comp>comp[56])") + r"/(?P<id>[^/.][^/]*)\.png")
_ID = re.compile(r"[0-9]{4}_[0-9]{6}")
_ENDINGS = (".tgz", ".tar.gz")
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
    """Predict photos and write an archive for the server.

    Args:
        model: Run folder of a network that was trained on VOC's classes.
        images: As for :func:`photos_to_submit`.
        out: The archive, ``.tgz`` or ``.tar.gz``; written atomically after validation.
        ids: List of the photos to predict, one id per line; None = as for ``images``.
        comp: ``comp5`` if the network was trained on VOC only, else ``comp6``; ImageNet weights
            count as other data.

    Returns:
        Number of photos in the archive.

    Raises:
        DataError: If a photo is missing or cannot be read, or the classes are not VOC's.
        DscnetError: If the run has no segmentation network.
        ValueError: If ``out`` is a folder or has another ending.
    """
    target = Path(out)
    _refuse_target(target)
    photos = photos_to_submit(images, ids)
    predictor = Predictor.from_run(model)
    if predictor.classes != VOC_CLASSES:
        raise DataError(
            f"{model}: expected a network for VOC's 20 classes ({first_few(VOC_CLASSES)}), found "
            f"{len(predictor.classes)} ({first_few(predictor.classes)}); train it on VOC"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".submit-") as scratch:
        masks = Path(scratch) / "masks"
        refuse_failures(predictor.write(photos, masks))
        archive = Path(scratch) / target.name
        pack(masks, archive, comp=comp)
        sizes = _sizes(photos)
        if problems := check_submission(archive, ids=list(sizes), sizes=sizes):
            raise DataError("the server would reject this:\n  " + "\n  ".join(problems))
        os.replace(archive, target)
    return len(photos.samples)


def check_voc2012(
    path: str | Path, *, images: str | Path | None = None, ids: str | Path | None = None
) -> list[str]:
    """Check an archive against a list of photos and their sizes.

    Args:
        path: The archive.
        images: As for :func:`photos_to_submit`; None = do not check sizes.
        ids: List of the photos that it must contain; None = those of ``images``, or any.

    Returns:
        As :func:`check_submission`.
    """
    if images is not None:
        sizes = _sizes(photos_to_submit(images, ids))
        return check_submission(path, ids=list(sizes), sizes=sizes)
    expected = None if ids is None else listed_ids(Path(ids), masks_in(path))
    return check_submission(path, ids=expected)


def unchecked_ids(path: str | Path) -> str:
    """A note that ids were not checked, for a check without a list of photos.

    Args:
        path: The archive.

    Raises:
        DataError: If the file is not a readable archive.
    """
    return (
        f"{path}: ids were not checked without --images or --ids; it contains "
        f"{len(masks_in(path)):,} masks, the test set has {PUBLISHED['test']:,} photos"
    )


def photos_to_submit(images: str | Path, ids: str | Path | None = None) -> PhotoSet:
    """The photos to submit.

    Args:
        images: The folder VOC2012, or one that contains it or VOCdevkit/VOC2012, with its list
            ``test``; or a folder of photos, without its subfolders.
        ids: List of the photos, one id per line; None = as for ``images``.

    Raises:
        DataError: If a list or a photo is missing, or an id is not a VOC id.
    """
    root = Path(images)
    kit = devkit_folder(root)
    folder = root if kit is None else kit / "JPEGImages"
    there = photos_in(folder)
    named_by = _test_list(kit) if ids is None and kit is not None else ids
    expected = list(there) if named_by is None else listed_ids(Path(named_by), there)
    if not expected:
        raise DataError(f"{folder}: expected photos, found none; subfolders are not searched")
    if missing := [image_id for image_id in expected if image_id not in there]:
        raise DataError(
            f"{folder}: expected the {len(expected)} photos listed in {named_by}, found "
            f"{len(expected) - len(missing)}; missing {first_few(missing)}: add them, or correct "
            "the list"
        )
    if problem := _id_problem(expected):
        raise DataError(f"{named_by or folder}: {problem}; use the folder VOC2012 or its photos")
    samples = tuple(Sample(image_id, there[image_id]) for image_id in expected)
    return PhotoSet(root.resolve().name, (), samples, split="test")


def pack(masks: Path, path: Path, *, comp: str) -> None:
    """Archive a folder of masks in the server's layout, without user names."""
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
    """List what the server would reject or evaluate incorrectly.

    Args:
        path: The archive.
        ids: The photos that it must contain; None = any.
        sizes: Height and width of photos by id, where known.

    Returns:
        One line per problem.

    Raises:
        DataError: If the file is not a readable archive.
    """
    path = Path(path)
    problems: list[str] = []
    found: Counter[str] = Counter()
    comps = set()
    with _opened(path) as archive:
        for member in archive:
            if member.isdir():
                continue
            fits = _MEMBER.fullmatch(member.name)
            file = archive.extractfile(member) if member.isfile() else None
            if fits is None or file is None:
                expected = FOLDER.format(comp="comp6") + "/ID.png (or comp5)"
                problems.append(f"{member.name}: expected only files {expected}")
                continue
            found[fits["id"]] += 1
            comps.add(fits["comp"])
            problems += _mask_problems(member.name, file, (sizes or {}).get(fits["id"]))
    if len(comps) > 1:
        problems.append(f"{path}: expected one of comp5 and comp6, found both")
    if not found:
        problems.append(f"{path}: expected masks, found none")
    if problem := _id_problem(found):
        problems.append(f"{path}: {problem}")
    problems += [f"{name}.png: occurs {n} times" for name, n in found.items() if n > 1]
    if ids is not None:
        for kind, names in (("missing", set(ids) - set(found)), ("extra", set(found) - set(ids))):
            if names:
                problems.append(
                    f"{path}: expected {len(ids)} masks, found {len(found)}; {len(names)} {kind}: "
                    f"{first_few(sorted(names))}"
                )
    return problems


def masks_in(path: str | Path) -> set[str]:
    """Ids of the masks in an archive.

    Raises:
        DataError: If the file is not a readable archive.
    """
    with _opened(Path(path)) as archive:
        fitting = [_MEMBER.fullmatch(member.name) for member in archive if member.isfile()]
    return {fits["id"] for fits in fitting if fits is not None}


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: expected a .tgz archive, found {found}")
    try:
        with tarfile.open(path, "r:gz") as archive:
            yield archive
    except _DAMAGED as error:
        raise DataError(f"{path}: expected a .tgz archive, found none ({error})") from error


def _refuse_target(out: Path) -> None:
    if out.is_dir():
        raise ValueError(
            f"out must be an archive to write, {' or '.join(_ENDINGS)}, got the folder {out}"
        )
    if not out.name.lower().endswith(_ENDINGS):
        raise ValueError(f"out must end in {' or '.join(_ENDINGS)}, got {out}")


def _test_list(kit: Path) -> Path:
    path = kit / "ImageSets" / "Segmentation" / "test.txt"
    if not path.is_file():
        raise DataError(
            f"{path}: expected the list of the test set, found none; unpack {TEST}, or list "
            "other photos with --ids"
        )
    return path


def _id_problem(ids: Iterable[str]) -> str | None:
    """Message about ids that do not have VOC's format; None if all have it."""
    invalid = sorted(image_id for image_id in ids if not _ID.fullmatch(image_id))
    if not invalid:
        return None
    return f"expected VOC ids, such as 2008_000001, found other ids: {first_few(invalid)}"


def _sizes(photos: PhotoSet) -> dict[str, tuple[int, int]]:
    return {sample.image_id: image_size(sample.image_path) for sample in photos.samples}


def _mask_problems(name: str, file: IO[bytes], size: tuple[int, int] | None) -> list[str]:
    try:
        with Image.open(file) as image:
            kind, mode = image.format, image.mode
            labels = np.array(image)
            palette = image.getpalette() or []
    except (*_DAMAGED, SyntaxError, ValueError) as error:  # what Pillow raises on damaged files
        return [f"{name}: expected a PNG, found a damaged file ({error})"]
    if (kind, mode) != ("PNG", "P"):
        return [f"{name}: expected a PNG of mode P (palette), found {kind} of mode {mode}"]
    problems = []
    if problem := _palette_problem(palette, labels):
        problems.append(f"{name}: {problem}")
    invalid = labels[labels >= _NUM_LABELS]
    if invalid.size:
        problems.append(f"{name}: expected labels 0 to {_NUM_LABELS - 1}, found {invalid[0]}")
    if size is not None and labels.shape != size:
        found = " x ".join(str(side) for side in reversed(labels.shape))
        problems.append(f"{name}: expected {size[1]} x {size[0]} pixels, found {found}")
    return problems


def _palette_problem(palette: Sequence[int], labels: Labels) -> str | None:
    """Check the palette; it may be truncated to the colours that the labels need."""
    expected = voc_palette()[: 3 * _NUM_LABELS]
    given = list(palette[: 3 * _NUM_LABELS])
    if given != expected[: len(given)]:
        return "expected VOC's palette, found another"
    highest = int(labels[labels < _NUM_LABELS].max(initial=0))
    if len(given) < 3 * (highest + 1):
        return f"expected VOC's colours for labels 0 to {highest}, found {len(given) // 3} colours"
    return None
