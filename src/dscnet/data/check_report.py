"""Findings of a data set check."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """Facts about a photo for comparisons between photos.

    Attributes:
        pixels: Digest of the photo's size and pixels; None for a single colour, such as empty
            frames.
        labels: The distinct values of its mask; None without a readable mask.
    """

    pixels: bytes | None
    labels: frozenset[int] | None


@dataclass
class CheckReport:
    """Findings about a data set.

    Attributes:
        errors: Must be fixed before training; each has the location and the remedy.
        warnings: Likely to hurt the result.
        info: Counts and conversions.
        facts: By image id, for comparisons between photos.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    info: list[str] = field(default_factory=list)
    facts: dict[str, PhotoFacts] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def add(self, other: CheckReport) -> None:
        """Merge the findings of another part of the same data set, without duplicates."""
        for own, more in (
            (self.errors, other.errors),
            (self.warnings, other.warnings),
            (self.info, other.info),
        ):
            own += [line for line in more if line not in own]
        self.facts |= other.facts

    def text(self) -> str:
        """Format the findings for printing, the first twenty of each kind."""
        lines = []
        for kind, found in (("error", self.errors), ("warning", self.warnings), ("", self.info)):
            prefix = f"{kind}: " if kind else ""
            lines += [prefix + finding for finding in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"{prefix}and {len(found) - _SHOWN} more")
        lines.append("ok" if self.ok else f"{len(self.errors)} errors")
        return "\n".join(lines)
