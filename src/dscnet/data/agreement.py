"""Whether masks and tags agree: both say which classes a photo shows.

Tags that miss a small object are ordinary and are counted. Masks that number the classes otherwise
than the list of classes, or that belong to other photos, make every IoU wrong and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dscnet.data.check_report import CheckReport
from dscnet.data.datasets import PhotoSet, place_of
from dscnet.data.tag_files import first_few
from dscnet.types import BACKGROUND, IGNORE_INDEX

_ALIKE = 0.5
"""Jaccard index of the photos that show a label and those of a tag, from which on they match."""


@dataclass(frozen=True)
class _Photo:
    """Classes of a photo, 0-based, by its tags and by its mask."""

    image_id: str
    tagged: frozenset[int]
    shown: frozenset[int]


def compare_masks(photo_set: PhotoSet, report: CheckReport) -> None:
    """Add where the masks of photos contradict their tags, or show no class at all.

    Every mask counts that could be read. A class is shown by a mask that has a pixel of it.

    Args:
        photo_set: The photos; those whose tags are unknown are not compared.
        report: Holds their facts.
    """
    place, classes = place_of(photo_set), photo_set.classes
    facts = ((sample, report.facts.get(sample.image_id)) for sample in photo_set.samples)
    masked = [(sample, fact.labels) for sample, fact in facts if fact and fact.labels is not None]
    values = frozenset[int]().union(*(labels for _, labels in masked))
    if IGNORE_INDEX in values and values <= {BACKGROUND, IGNORE_INDEX}:
        report.errors.append(
            f"{place}: no mask shows a class; found only the values {sorted(values)}, and "
            f"{IGNORE_INDEX} means ignore; recode 0/255 masks to label indices, 1 for the first "
            "class of the list, or move the masks away"
        )
        return
    photos = [
        _Photo(
            sample.image_id,
            frozenset(sample.tags),
            frozenset(label - 1 for label in labels if BACKGROUND < label <= len(classes)),
        )
        for sample, labels in masked
        if sample.tags is not None and _tells(labels, len(classes))
    ]
    beyond = any(len(classes) < label < IGNORE_INDEX for label in values)
    errors = _numbered_otherwise(place, classes, photos, beyond) or _strangers(
        place, classes, photos
    )
    report.errors += errors
    if not errors:
        report.warnings += _never_shown(place, classes, photos)
        report.info += _differences(place, classes, photos)


def _tells(labels: frozenset[int], num_classes: int) -> bool:
    """Whether a mask says what its photo shows; one of nothing but 255 does not."""
    if labels <= {BACKGROUND, IGNORE_INDEX}:
        return IGNORE_INDEX not in labels
    return max(labels - {IGNORE_INDEX}) <= num_classes


def _numbered_otherwise(
    place: str, classes: Sequence[str], photos: Sequence[_Photo], beyond: bool
) -> list[str]:
    """An error if labels of masks go with the tags of other classes than their own.

    With labels ``beyond`` the list of classes no order of it is right.
    """
    likeness, both = _likeness(len(classes), photos)
    match = _best_match(likeness)
    moved = {
        label: other
        for label, other in match.items()
        if label != other
        and likeness[label, other] >= _ALIKE
        and 2 * max(likeness[label, label], likeness[other, other]) <= likeness[label, other]
    }
    # Single photos may have been mistagged, unless they make the picture or two trade places.
    counts = [int(both[label, other]) for label, other in moved.items()]
    traded = set(moved) == set(moved.values())
    if sum(counts) < 2 or (max(counts) < 2 and not traded and 2 * sum(counts) <= len(photos)):
        return []
    told = [
        f"label {label + 1} is {classes[label]!r} by its number and lies on photos tagged"
        f" {classes[other]!r} ({both[label, other]} photos)"
        for label, other in sorted(moved.items())
    ]
    return [
        f"{place}: masks number the classes otherwise than the list of classes:"
        f" {first_few(told)}; {_renumbering(classes, photos, {} if beyond else match)}"
    ]


def _likeness(
    count: int, photos: Sequence[_Photo]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Jaccard index of the photos of each label and each tag ``(C, C)``, and how many have both."""
    shown = np.zeros((len(photos), count), dtype=np.int64)
    tagged = np.zeros_like(shown)
    for row, photo in enumerate(photos):
        shown[row, sorted(photo.shown)] = 1
        tagged[row, sorted(photo.tagged)] = 1
    both = shown.T @ tagged
    either = shown.sum(0)[:, None] + tagged.sum(0)[None, :] - both
    return both / np.maximum(either, 1), both


def _best_match(likeness: NDArray[np.float64]) -> dict[int, int]:
    """The class that each label goes with best, no class twice; the own one where several do."""
    pairs = [(int(label), int(other)) for label, other in np.argwhere(likeness > 0)]
    pairs.sort(key=lambda pair: (-likeness[pair], pair[0] != pair[1], pair))
    match: dict[int, int] = {}
    taken: set[int] = set()
    for label, other in pairs:
        if label not in match and other not in taken:
            match[label] = other
            taken.add(other)
    return match


def _renumbering(classes: Sequence[str], photos: Sequence[_Photo], match: dict[int, int]) -> str:
    """The remedy: another order of the classes where every tag has a label, else other masks."""
    numbered = ", ".join(f"{label} = {name!r}" for label, name in enumerate(classes[:3], 1))
    anew = f"write the masks with {BACKGROUND} = background, {numbered}"
    anew += ", ..." if len(classes) > 3 else ""
    tagged = frozenset[int]().union(*(photo.tagged for photo in photos))
    if not tagged <= set(match.values()):
        return anew
    left = [index for index in range(len(classes)) if index not in match.values()]
    order = [match[label] if label in match else left.pop(0) for label in range(len(classes))]
    names = ", ".join(classes[index] for index in order)
    return (
        f"list the classes in this order, in classes.txt or where the data set lists them: {names};"
        f" or {anew}"
    )


def _strangers(place: str, classes: Sequence[str], photos: Sequence[_Photo]) -> list[str]:
    """An error if most masks show none of the classes that their photos are tagged with."""
    tagged = [photo for photo in photos if photo.tagged]
    strange = [photo for photo in tagged if not photo.tagged & photo.shown]
    if len(strange) < 2 or 2 * len(strange) <= len(tagged):
        return []
    told = [
        f"{photo.image_id} is tagged {_names(photo.tagged, classes)} and shows"
        f" {_names(photo.shown, classes) or 'background alone'}"
        for photo in strange[:3]
    ]
    return [
        f"{place}: {len(strange)} of {len(tagged)} masks show none of the classes that their photos"
        f" are tagged with ({'; '.join(told)}); correct the tags, the order of the classes or the"
        " masks, or move away masks that are of something else"
    ]


def _never_shown(place: str, classes: Sequence[str], photos: Sequence[_Photo]) -> list[str]:
    shown = frozenset[int]().union(*(photo.shown for photo in photos))
    warnings = []
    for index, name in enumerate(classes):
        count = sum(index in photo.tagged for photo in photos)
        if count and index not in shown:
            warnings.append(
                f"{place}: no mask shows {name!r} (label {index + 1}), which {count} photos with"
                " masks are tagged with, so its IoU says nothing; correct masks or tags"
            )
    return warnings


def _differences(place: str, classes: Sequence[str], photos: Sequence[_Photo]) -> list[str]:
    lines = []
    for text, parts in (
        ("masks show classes that are not tagged", [(p, p.shown - p.tagged) for p in photos]),
        ("masks lack classes that are tagged", [(p, p.tagged - p.shown) for p in photos]),
    ):
        found = [f"{p.image_id} {_names(part, classes)}" for p, part in parts if part]
        if found:
            lines.append(f"{place}: {len(found)} of {len(photos)} {text}: {first_few(found)}")
    return lines


def _names(indices: frozenset[int], classes: Sequence[str]) -> str:
    return " and ".join(repr(classes[index]) for index in sorted(indices))
