"""What preparing a data set found, what it writes, and what is still missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dscnet.data.tag_files import first_few
from dscnet.files.atomic import whole_file
from dscnet.prepare.download import Archive, Incomplete, where_to_get
from dscnet.types import DataError


@dataclass
class Outcome:
    """Findings, a line each.

    Attributes:
        lines: What is there and what was written.
        missing: What a complete set has besides, and where to get it.
        differing: Counts that are not the published ones.
    """

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def count(self, what: str, found: int, published: int) -> None:
        """Compare a count with the published one."""
        if found == published:
            self.lines.append(f"{what}: {found}, as published")
        else:
            self.differing.append(f"{what}: {found}, published are {published}")

    def text(self) -> str:
        """All findings for people."""
        kinds = (("", self.lines), ("differs: ", self.differing), ("missing: ", self.missing))
        return "\n".join(prefix + line for prefix, lines in kinds for line in lines)


def refuse_missing(
    folder: Path,
    what: str,
    named_by: str,
    ids: Sequence[str],
    there: Collection[str],
    *,
    archive: Archive | None,
    home: Path,
) -> None:
    """Refuse a folder that lacks files of some ids.

    Args:
        folder: Where they should lie.
        what: What they are.
        named_by: What names the ids.
        ids: All that should be there.
        there: Those that are.
        archive: What holds them all; None if it cannot be fetched.
        home: Where the archive lies, or would be put.

    Raises:
        Incomplete: If one is missing; the message says how many, and the first.
    """
    missing = [image_id for image_id in ids if image_id not in there]
    if missing:
        remedy = where_to_get(archive, home) if archive else "unpack their archive again"
        raise Incomplete(
            f"{folder}: expected the {len(ids)} {what} that {named_by} names, found "
            f"{len(ids) - len(missing)}; missing {first_few(missing)}: {remedy}",
            archive,
        )


def refuse_other(files: Mapping[Path, str], outdated: Mapping[Path, str] | None = None) -> None:
    """Refuse to replace text files that say something else.

    Args:
        files: Text of each file that shall be written.
        outdated: Texts that may be replaced.

    Raises:
        DataError: If one is there with other content.
    """
    for path, text in files.items():
        known = (text, (outdated or {}).get(path, text))
        if path.exists() and path.read_bytes() not in [item.encode() for item in known]:
            raise DataError(
                f"{path}: expected to be absent or what `dscnet data prepare` writes, found other "
                "content; move it away to have it written anew"
            )


def write_missing(
    files: Mapping[Path, str], outcome: Outcome, outdated: Mapping[Path, str] | None = None
) -> None:
    """Write the text files that are not there yet, whole or not at all.

    Args:
        files: Text of each file.
        outcome: Gets a line for each that is written.
        outdated: Texts that are replaced.
    """
    for path, text in files.items():
        old = (outdated or {}).get(path, text)
        if path.exists() and (old == text or path.read_bytes() != old.encode()):
            continue
        with whole_file(path) as file:
            file.write(text.encode())
        outcome.lines.append(f"{path}: written")


def list_text(names: Sequence[str]) -> str:
    """A list file: one name a line."""
    return "".join(f"{name}\n" for name in names)


def tags_text(tags: Mapping[str, tuple[str, ...]]) -> str:
    """``tags.csv`` of class names by image id."""
    rows = (f"{image_id},{';'.join(names)}" for image_id, names in tags.items())
    return list_text(("image_id,labels", *rows))
