"""Notes on split lists that are ignored, and on a validation split that is missing."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from dscnet.data.formats import split_home
from dscnet.data.tag_files import first_few

_ENDINGS = (".txt", ".lst", ".csv")
_USUAL_NAMES = frozenset(
    {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "trainval"}
)


def unread_list_notes(data_set: Path, splits: Collection[Path]) -> list[str]:
    """Note on files that look like split lists but are ignored.

    Args:
        data_set: Folder, COCO instances file or YAML file.
        splits: The lists that are read.
    """
    root = data_set if data_set.is_dir() else data_set.parent
    read = {path.resolve() for path in splits}
    stray = [path for path in _usual_lists(root) if path.resolve() not in read]
    if not stray:
        return []
    names = [path.relative_to(root).as_posix() for path in stray]
    return [
        f"{len(names)} lists that look like splits are ignored: {first_few(names)}; split lists"
        f" belong into {split_home(data_set)}: one .txt per split, one image id per line"
    ]


def missing_split_notes(name: str, split: str, splits: Sequence[str]) -> list[str]:
    """Note that a data set with splits lacks the split to evaluate on.

    Args:
        name: Name of the data set.
        split: The split to evaluate on.
        splits: Names of all splits; empty if the data set has none.
    """
    if not splits or split in splits:
        return []
    return [
        f"{name}: there is no split {split!r} (its splits are {', '.join(splits)}), so nothing is"
        " evaluated on held-out photos; choose another with --val_split"
    ]


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _usual_lists(root: Path) -> Iterator[Path]:
    for folder in (root, *_sub_folders(root), *_sub_folders(root / "ImageSets")):
        names = _usual_names_in(folder) if folder.is_dir() else []
        for ending in _ENDINGS:
            yield from (folder / name for name in names if name.lower().endswith(ending))


def _usual_names_in(folder: Path) -> list[str]:
    # One pass over names: a folder of photos may have a million.
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries if entry.name.lower().endswith(_ENDINGS))
        return sorted(name for name in names if name.rpartition(".")[0] in _USUAL_NAMES)
