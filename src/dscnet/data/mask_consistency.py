"""Consistency of masks and tags.

Tags that miss a small object are common and only counted. Masks whose numbering differs from the
class list, or that belong to other photos, would make every IoU wrong and are errors.
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
"""Minimum Jaccard index for a match between the photos with a label and those with a tag."""


@dataclass(frozen=True)
class _Photo:
    """Classes of a photo, 0-based, in its tags and in its mask."""

    image_id: str
    tagged: frozenset[int]
    in_mask: frozenset[int]


def compare_masks(photo_set: PhotoSet, report: CheckReport) -> None:
    """Report masks that contradict the tags, or contain no class at all.

    All readable masks are compared. A mask contains a class if it has a pixel of it.

    Args:
        photo_set: The photos; those with unknown tags are skipped.
        report: Provides the facts about the photos and receives the findings.
    """
    place, classes = place_of(photo_set), photo_set.classes
    facts = ((sample, report.facts.get(sample.image_id)) for sample in photo_set.samples)
    masked = [(sample, fact.labels) for sample, fact in facts if fact and fact.labels is not None]
    values = frozenset[int]().union(*(labels for _, labels in masked))
    if IGNORE_INDEX in values and values <= {BACKGROUND, IGNORE_INDEX}:
        report.errors.append(
            f"{place}: no mask contains a class; found only the values {sorted(values)}, and "
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
        if sample.tags is not None and _comparable(labels, len(classes))
    ]
    beyond = any(len(classes) < label < IGNORE_INDEX for label in values)
    errors = _numbering_errors(place, classes, photos, beyond) or _mismatch_errors(
        place, classes, photos
    )
    report.errors += errors
    if not errors:
        report.warnings += _missing_class_warnings(place, classes, photos)
        report.info += _differences(place, classes, photos)


def _comparable(labels: frozenset[int], num_classes: int) -> bool:
    """Whether a mask can be compared with tags; one that is all 255 cannot."""
    if labels <= {BACKGROUND, IGNORE_INDEX}:
        return IGNORE_INDEX not in labels
    return max(labels - {IGNORE_INDEX}) <= num_classes


def _numbering_errors(
    place: str, classes: Sequence[str], photos: Sequence[_Photo], beyond: bool
) -> list[str]:
    """An error if mask labels match the tags of other classes than their own.

    If there are labels ``beyond`` the class list, no order of it is right.
    """
    similarity, both = _similarity(len(classes), photos)
    match = _best_match(similarity)
    moved = {
        label: other
        for label, other in match.items()
        if label != other
        and similarity[label, other] >= _ALIKE
        and 2 * max(similarity[label, label], similarity[other, other]) <= similarity[label, other]
    }
    # Single photos may be tagged wrongly, unless they are the majority or two classes are swapped.
    counts = [int(both[label, other]) for label, other in moved.items()]
    swapped = set(moved) == set(moved.values())
    if sum(counts) < 2 or (max(counts) < 2 and not swapped and 2 * sum(counts) <= len(photos)):
        return []
    examples = [
        f"label {label + 1} is {classes[label]!r} by its number but occurs in photos tagged"
        f" {classes[other]!r} ({both[label, other]} photos)"
        for label, other in sorted(moved.items())
    ]
    return [
        f"{place}: masks number the classes differently from the class list:"
        f" {first_few(examples)}; {_renumbering(classes, photos, {} if beyond else match)}"
    ]


def _similarity(
    count: int, photos: Sequence[_Photo]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Jaccard index and overlap of the photos with each label and each tag, ``(C, C)`` each."""
    in_mask = np.zeros((len(photos), count), dtype=np.int64)
    tagged = np.zeros_like(in_mask)
    for row, photo in enumerate(photos):
        in_mask[row, sorted(photo.in_mask)] = 1
        tagged[row, sorted(photo.tagged)] = 1
    both = in_mask.T @ tagged
    either = in_mask.sum(0)[:, None] + tagged.sum(0)[None, :] - both
    return both / np.maximum(either, 1), both


def _best_match(similarity: NDArray[np.float64]) -> dict[int, int]:
    """Best matching class of each label, one-to-one; ties go to the label's own class."""
    pairs = [(int(label), int(other)) for label, other in np.argwhere(similarity > 0)]
    pairs.sort(key=lambda pair: (-similarity[pair], pair[0] != pair[1], pair))
    match: dict[int, int] = {}
    taken: set[int] = set()
    for label, other in pairs:
        if label not in match and other not in taken:
            match[label] = other
            taken.add(other)
    return match


def _renumbering(classes: Sequence[str], photos: Sequence[_Photo], match: dict[int, int]) -> str:
    """The remedy: another class order if every tag has a label, else renumbered masks."""
    numbered = ", ".join(f"{label} = {name!r}" for label, name in enumerate(classes[:3], 1))
    renumber = f"write the masks with {BACKGROUND} = background, {numbered}"
    renumber += ", ..." if len(classes) > 3 else ""
    tagged = frozenset[int]().union(*(photo.tagged for photo in photos))
    if not tagged <= set(match.values()):
        return renumber
    left = [index for index in range(len(classes)) if index not in match.values()]
    order = [match[label] if label in match else left.pop(0) for label in range(len(classes))]
    names = ", ".join(classes[index] for index in order)
    return (
        f"list the classes in this order, in classes.txt or where the data set lists them: {names};"
        f" or {renumber}"
    )


def _mismatch_errors(place: str, classes: Sequence[str], photos: Sequence[_Photo]) -> list[str]:
    """An error if most masks contain none of the tagged classes."""
    tagged = [photo for photo in photos if photo.tagged]
    wrong = [photo for photo in tagged if not photo.tagged & photo.in_mask]
    if len(wrong) < 2 or 2 * len(wrong) <= len(tagged):
        return []
    examples = [
        f"{photo.image_id} is tagged {_names(photo.tagged, classes)}, but its mask contains"
        f" {_names(photo.in_mask, classes) or 'only background'}"
        for photo in wrong[:3]
    ]
    return [
        f"{place}: {len(wrong)} of {len(tagged)} masks contain none of the classes that their"
        f" photos are tagged with ({'; '.join(examples)}); correct the tags, the class order or the"
        " masks, or move away masks of other photos"
    ]


def _missing_class_warnings(
    place: str, classes: Sequence[str], photos: Sequence[_Photo]
) -> list[str]:
    in_masks = frozenset[int]().union(*(photo.in_mask for photo in photos))
    warnings = []
    for index, name in enumerate(classes):
        count = sum(index in photo.tagged for photo in photos)
        if count and index not in in_masks:
            warnings.append(
                f"{place}: no mask contains {name!r} (label {index + 1}), although {count} photos"
                " with masks are tagged with it, so its IoU is meaningless; correct masks or tags"
            )
    return warnings


def _differences(place: str, classes: Sequence[str], photos: Sequence[_Photo]) -> list[str]:
    lines = []
    for text, parts in (
        ("masks contain classes that are not tagged", [(p, p.in_mask - p.tagged) for p in photos]),
        ("masks lack classes that are tagged", [(p, p.tagged - p.in_mask) for p in photos]),
    ):
        found = [f"{p.image_id} {_names(part, classes)}" for p, part in parts if part]
        if found:
            lines.append(f"{place}: {len(found)} of {len(photos)} {text}: {first_few(found)}")
    return lines


def _names(indices: frozenset[int], classes: Sequence[str]) -> str:
    return " and ".join(repr(classes[index]) for index in sorted(indices))
