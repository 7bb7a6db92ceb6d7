"""Findings of data set preparation, and its text files."""

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
    """Findings, one line each.

    Attributes:
        lines: What exists and what was written.
        missing: Missing parts, and where to get them.
        differing: Counts that differ from the published ones.
    """

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def count(self, what: str, found: int, published: int) -> None:
        """Compare a count with the published one."""
        if found == published:
            self.lines.append(f"{what}: {found}, as published")
        else:
            self.differing.append(f"{what}: {found}, published: {published}")

    def text(self) -> str:
        """All findings as text."""
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
    """Reject a folder with missing files.

    Args:
        folder: The folder.
        what: Kind of files, for messages.
        named_by: List that names the ids.
        ids: Required ids.
        there: Existing ids.
        archive: Archive of these files; None if it cannot be downloaded.
        home: Folder of the archive.

    Raises:
        Incomplete: If files are missing, with their number and the first ones.
    """
    missing = [image_id for image_id in ids if image_id not in there]
    if missing:
        remedy = where_to_get(archive, home) if archive else "unpack their archive again"
        raise Incomplete(
            f"{folder}: expected the {len(ids)} {what} listed in {named_by}, found "
            f"{len(ids) - len(missing)}; missing {first_few(missing)}: {remedy}",
            archive,
        )


def refuse_other(files: Mapping[Path, str], outdated: Mapping[Path, str] | None = None) -> None:
    """Reject text files that exist with other content.

    Args:
        files: Text of each file to write.
        outdated: Texts that may be replaced.

    Raises:
        DataError: If a file has other content.
    """
    for path, text in files.items():
        known = (text, (outdated or {}).get(path, text))
        if path.exists() and path.read_bytes() not in [item.encode() for item in known]:
            raise DataError(
                f"{path}: contains something other than what `dscnet data prepare` writes; move it "
                "away to have it written again"
            )


def write_missing(
    files: Mapping[Path, str], outcome: Outcome, outdated: Mapping[Path, str] | None = None
) -> None:
    """Write missing text files, atomically.

    Args:
        files: Text of each file.
        outcome: Receives a line for each file written.
        outdated: Texts to replace.
    """
    for path, text in files.items():
        old = (outdated or {}).get(path, text)
        if path.exists() and (old == text or path.read_bytes() != old.encode()):
            continue
        with whole_file(path) as file:
            file.write(text.encode())
        outcome.lines.append(f"{path}: written")


def list_text(names: Sequence[str]) -> str:
    """Text of a list file, one name per line."""
    return "".join(f"{name}\n" for name in names)


def tags_text(tags: Mapping[str, tuple[str, ...]]) -> str:
    """Text of ``tags.csv`` from class names by image id."""
    rows = (f"{image_id},{';'.join(names)}" for image_id, names in tags.items())
    return list_text(("image_id,labels", *rows))
