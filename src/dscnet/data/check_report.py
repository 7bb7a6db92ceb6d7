"""What a check of a data set found."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """What is compared of a photo after its files are closed.

    Attributes:
        pixels: A digest of the photo's size and pixels; None if all have one colour, as empty
            frames have.
        labels: The values of its mask, each once; None without a mask that can be read.
    """

    pixels: bytes | None
    labels: frozenset[int] | None


@dataclass
class CheckReport:
    """Findings about a data set.

    Attributes:
        errors: What must be mended before training; each names the place and the remedy.
        warnings: What will probably spoil the result.
        info: Counts and conversions, worth a glance.
        facts: By image id, for comparisons between photos.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    info: list[str] = field(default_factory=list)
    facts: dict[str, PhotoFacts] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether nothing has to be mended."""
        return not self.errors

    def add(self, other: CheckReport) -> None:
        """Take over the findings of another part of the same data set, each line once."""
        for own, more in (
            (self.errors, other.errors),
            (self.warnings, other.warnings),
            (self.info, other.info),
        ):
            own += [line for line in more if line not in own]
        self.facts |= other.facts

    def text(self) -> str:
        """Give the findings as lines to print, the first twenty of each kind."""
        lines = []
        for kind, found in (("error", self.errors), ("warning", self.warnings), ("", self.info)):
            prefix = f"{kind}: " if kind else ""
            lines += [prefix + finding for finding in found[:_SHOWN]]
            if len(found) > _SHOWN:
                lines.append(f"{prefix}and {len(found) - _SHOWN} more")
        lines.append("ok" if self.ok else f"{len(self.errors)} errors")
        return "\n".join(lines)
