"""Crowd annotations of COCO files: whether ``iscrowd`` is meaningful, and counts by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class CrowdFlags:
    """Statistics of the flag ``iscrowd`` in a file.

    COCO flags regions with many objects of a class. Some tools flag every run-length encoded mask.

    Attributes:
        annotations: Number of annotations.
        flagged: How many of them are flagged.
        pixels: How many are run-length encoded.
        by_tool: How many of the flagged are run-length encoded and have ``attributes``, which
            Datumaro and tools based on it write, but COCO does not.
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
        """Why the flag does not indicate crowds; None if it does.

        [Reading] It does not if all annotations have it, or exactly the run-length encoded ones in
        a file written by Datumaro, recognised by ``attributes``.
        """
        if not self.flagged:
            return None
        if self.flagged == self.annotations:
            return "all annotations have it"
        if self.flagged == self.pixels == self.by_tool:
            return (
                "exactly the run-length encoded masks have it, as some annotation tools write them"
            )
        return None


def crowd_notes(flags: CrowdFlags, crowds: Iterable[str], objects: Iterable[str]) -> list[str]:
    """Notes on a file's crowds; empty if no annotation is flagged.

    Args:
        flags: Statistics of the file.
        crowds: The class of each crowd.
        objects: Classes that also have other annotations.
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
        f"{counts.total()} crowds (iscrowd 1; {listed}): they count as tags and are ignored (255)"
        " in masks; set iscrowd to 0 for single objects"
    ]
    if alone := sorted(set(counts) - set(objects)):
        notes.append(f"only crowds show {', '.join(alone)}: masks cannot evaluate these classes")
    return notes
