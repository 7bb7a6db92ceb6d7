"""Files of a folder by id, without a record for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path


class FolderFiles(Mapping[str, Path]):
    """Files of one folder by id; only their names are in memory, paths are made on demand.

    Args:
        folder: The folder.
        endings: Ending of each file by its id, such as ``.png``.
    """

    def __init__(self, folder: Path, endings: dict[str, str]) -> None:
        self.folder = folder
        self._endings = endings

    def __getitem__(self, image_id: str) -> Path:
        """Path of the file of that id."""
        return self.folder / f"{image_id}{self._endings[image_id]}"

    def __contains__(self, image_id: object) -> bool:
        """Whether there is a file of that id; makes no path."""
        return image_id in self._endings

    def __iter__(self) -> Iterator[str]:
        """Ids in order."""
        return iter(self._endings)

    def __len__(self) -> int:
        """Number of files."""
        return len(self._endings)
