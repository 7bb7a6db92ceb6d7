"""Crowds of COCO files: whether the flag is meant, how many there are, and of which classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class CrowdFlags:
    """What is known of the flag ``iscrowd`` of all annotations of a file.

    COCO flags areas with many objects of a class. Others flag whatever is drawn in pixels.

    Attributes:
        annotations: How many there are.
        flagged: How many of them are flagged.
        pixels: How many are run-length encoded.
        by_tool: How many of the flagged are run-length encoded and have ``attributes``, which
            Datumaro and what is built on it write of annotations that have some, and COCO never.
    """

    annotations: int = 0
    flagged: int = 0
    pixels: int = 0
    by_tool: int = 0

    def add(self, *, flagged: bool, pixels: bool, attributes: bool) -> None:
        """Count an annotation."""
        self.annotations += 1
        self.flagged += flagged
        self.pixels += pixels
        self.by_tool += flagged and pixels and attributes

    @property
    def unmeant(self) -> str | None:
        """Why the flag tells no crowds from objects; None if it does.

        [Reading] It does not if all annotations have it, or if just the pixel masks have it, all of
        them, and the file is Datumaro's by its ``attributes``.
        """
        if not self.flagged:
            return None
        if self.flagged == self.annotations:
            return "all annotations have it"
        if self.flagged == self.pixels == self.by_tool:
            return "just the pixel masks have it, all of them, as annotation tools write them"
        return None


def crowd_notes(flags: CrowdFlags, crowds: Iterable[str], objects: Iterable[str]) -> list[str]:
    """What to say of a file's crowds; nothing where no annotation is flagged.

    Args:
        flags: The file's.
        crowds: The class of each crowd.
        objects: Classes that are also shown by other annotations.
    """
    if flags.unmeant:
        return [
            f"{flags.flagged} annotations with iscrowd 1 are read as objects, not as crowds:"
            f" {flags.unmeant}"
        ]
    counts = Counter(crowds)
    if not counts:
        return []
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    notes = [
        f"{counts.total()} crowds (iscrowd 1; {listed}): they count as tags, and in masks they are"
        " ignored (255); where each is a single object, set its iscrowd to 0"
    ]
    if alone := sorted(set(counts) - set(objects)):
        notes.append(f"only crowds show {', '.join(alone)}: no mask can measure that")
    return notes
