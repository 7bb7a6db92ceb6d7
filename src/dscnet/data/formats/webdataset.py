"""Input format: photos and their tags in tar archives (shards), as WebDataset names them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dscnet.data.formats.layout import (
    IMAGE_SUFFIXES,
    Format,
    Layout,
    classes_of,
    find_tag_file,
    join_id,
    photos_by_id,
    pngs_in,
    split_files,
)
from dscnet.data.formats.webdataset_tags import TAG_ENDINGS, numbered_classes, read_member_tags
from dscnet.data.photo_places import matches
from dscnet.data.tag_files import TagEntry, first_few, read_tag_file
from dscnet.files.archives import SUFFIX, is_archive, members_of
from dscnet.files.file_search import is_system
from dscnet.types import DataError

_MASK, _SALIENCY = "seg.png", "saliency.png"
_SPLITS = {
    "train": frozenset({"train", "training"}),
    "val": frozenset({"val", "valid", "validation", "dev"}),
    "test": frozenset({"test", "testing"}),
}
"""Words in the names of shards, by split."""


@dataclass(frozen=True)
class Shard:
    """Content of an archive.

    Attributes:
        path: The archive.
        photos: Photos by image id.
        masks: Masks by image id.
        saliency: Saliency maps by image id.
        tags: Members with tags by image id.
        unread: Number of other members by ending.
    """

    path: Path
    photos: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    saliency: dict[str, Path] = field(default_factory=dict)
    tags: dict[str, Path] = field(default_factory=dict)
    unread: Counter[str] = field(default_factory=Counter)


def shards_at(path: Path) -> list[Path]:
    """Archives that a path means: itself, those of a folder or its subfolders, or of a pattern.

    Raises:
        DataError: If a pattern matches nothing.
    """
    if path.is_dir():
        found = [*path.glob("*"), *path.glob("*/*")]
        return sorted(place for place in found if is_archive(place) and place.is_file())
    return matches(str(path)) if is_archive(path) else []


def read_shard(path: Path) -> Shard:
    """Read which photos, maps and tags an archive contains, from the names of its members.

    A member's key is its path up to the first dot of the file name, the rest is its ending. Members
    with the same key belong to one photo. Of ``KEY.jpg`` and ``KEY.png`` the second is the mask.

    Raises:
        DataError: If the archive is damaged, two members have the same key and ending, a photo is
            there twice, or tags or a map have no photo.
    """
    shard = Shard(path)
    for key, members in _by_key(path).items():
        photos = _photo_endings(path, members)
        tags = [ending for ending in TAG_ENDINGS if ending in members]
        used = {*photos, *tags[:1], *({_MASK, _SALIENCY} & members.keys())}
        shard.unread.update(f".{ending}" for ending in members if ending not in used)
        if not used:
            continue
        if not photos:
            names = ", ".join(members[ending] for ending in sorted(used))
            raise DataError(
                f"{path}: {names} without a photo; add {key}.jpg (or another of"
                f" {', '.join(IMAGE_SUFFIXES)}), or remove them"
            )
        _add(shard, join_id(*key.split("/")), members, (*photos, *tags[:1]))
    return shard


def _add(shard: Shard, image_id: str, members: Mapping[str, str], used: Sequence[str]) -> None:
    """Add the members of a key; ``used``: the endings of its photo and, if any, of its tags."""
    photo, *tags = used
    if image_id in shard.photos:
        raise _twice_error(shard.path, shard.photos[image_id].name, members[photo], "photos")
    parts = [(shard.photos, photo), (shard.masks, _MASK), (shard.saliency, _SALIENCY)]
    for found, ending in (*parts, *((shard.tags, ending) for ending in tags)):
        if ending in members:
            found[image_id] = shard.path / members[ending]


def _photo_endings(path: Path, members: dict[str, str]) -> list[str]:
    """The ending of the photo among the members of a key, if any; its mask gets its usual ending.

    Raises:
        DataError: If there are two photos or two masks.
    """
    photos = [ending for ending in members if f".{ending}" in IMAGE_SUFFIXES]
    if "png" in photos and len(photos) > 1:
        photos.remove("png")
        if _MASK in members:
            raise _twice_error(path, members["png"], members[_MASK], "masks")
        members[_MASK] = members.pop("png")
    if len(photos) > 1:
        raise _twice_error(path, members[photos[0]], members[photos[1]], "photos")
    return photos


def photos_in_shards(shards: Iterable[Path]) -> dict[str, Path]:
    """Photos of archives by id.

    Raises:
        DataError: As :func:`read_shard`, or if two photos have the same id.
    """
    return photos_by_id(item for path in shards for item in read_shard(path).photos.items())


def _twice_error(path: Path, first: str, second: str, what: str) -> DataError:
    return DataError(
        f"{path}: {first} and {second} are two {what} of one key; rename or remove one of them"
    )


def _by_key(path: Path) -> dict[str, dict[str, str]]:
    """Members by ending, in lower case, by key."""
    found: dict[str, dict[str, str]] = {}
    for name in members_of(path):
        *folders, base = name.split("/")
        # Names between double underscores are WebDataset's own.
        own = base.startswith("__") and base.endswith("__")
        if base.startswith(".") or own or any(map(is_system, folders)):
            continue
        stem, _, ending = base.partition(".")
        members = found.setdefault("/".join([*folders, stem]), {})
        if (twin := members.setdefault(ending.lower(), name)) != name:
            raise _twice_error(path, twin, name, f".{ending.lower()} members")
    return found


def _read(path: Path) -> Layout:
    shards = [read_shard(shard) for shard in shards_at(path)]
    root = _root(path)
    photos = photos_by_id(item for shard in shards for item in shard.photos.items())
    splits = split_files(root / "splits")
    return Layout(
        name=root.resolve().name,
        photos=photos,
        read_tags=_tag_reader(root, shards),
        classes=classes_of(root),
        masks=_maps(pngs_in(root / "masks"), (shard.masks for shard in shards)),
        saliency=_maps(pngs_in(root / "saliency"), (shard.saliency for shard in shards)),
        splits=splits,
        split_ids={} if splits else _split_ids(shards, root),
        map_folders=(root / "masks", root / "saliency"),
        notes=tuple(_notes(shards)),
    )


def _root(path: Path) -> Path:
    """Folder of the data set: the path itself, or the one that contains all archives it means."""
    if path.is_dir():
        return path
    return Path(os.path.commonpath([shard.parent for shard in shards_at(path)]))


def _maps(beside: Mapping[str, Path], inside: Iterable[Mapping[str, Path]]) -> dict[str, Path]:
    """Maps of the archives, and of the folder beside them for photos without one."""
    return dict(beside) | {name: path for maps in inside for name, path in maps.items()}


def _tag_reader(
    root: Path, shards: Sequence[Shard]
) -> Callable[[Collection[str]], Sequence[TagEntry]]:
    members = {image_id: path for shard in shards for image_id, path in shard.tags.items()}
    tag_file = find_tag_file(root)
    if tag_file is not None:
        if members:
            raise DataError(
                f"{tag_file} and {next(iter(members.values()))} both contain tags; keep one of them"
            )
        return partial(read_tag_file, tag_file)
    endings = ", ".join(f".{ending}" for ending in TAG_ENDINGS)
    for shard in shards:
        untagged = [path for name, path in shard.photos.items() if name not in members]
        if untagged:
            raise DataError(
                f"{untagged[0]}: has no tags ({len(untagged)} photos in {shard.path.name});"
                f" add a member of its key ending in one of {endings} to each (an empty .txt if it"
                f" shows none of the classes), or write {root / 'tags.csv'}"
            )
    return partial(read_member_tags, members, numbered_classes(root))


def _split_ids(shards: Sequence[Shard], root: Path) -> dict[str, tuple[str, ...]]:
    """Splits that the names of the archives tell; empty if they tell none, or all the same."""
    found: dict[str, list[str]] = {}
    unnamed = []
    for shard in shards:
        words = set(re.split(r"[^a-z]+", str(shard.path.relative_to(root)).lower()))
        splits = [split for split, usual in _SPLITS.items() if words & usual]
        if len(splits) == 1:
            found.setdefault(splits[0], []).extend(shard.photos)
        else:
            unnamed.append(shard.path.name)
    if found and unnamed:
        raise DataError(
            f"{root}: the names of some archives tell a split ({', '.join(sorted(found))}), others"
            f" none or several: {first_few(unnamed)}; rename them, or write split lists into"
            f" {root / 'splits'}"
        )
    return {split: tuple(sorted(ids)) for split, ids in found.items()} if len(found) > 1 else {}


def _notes(shards: Sequence[Shard]) -> list[str]:
    unread: Counter[str] = Counter()
    for shard in shards:
        unread.update(shard.unread)
    if not unread:
        return []
    kinds = ", ".join(f"{ending} ({count})" for ending, count in unread.most_common(5))
    return [f"{unread.total()} members of the archives are ignored: {kinds}"]


def _advice(root: Path) -> str:
    """Point to compressed archives."""
    packed = next((place for place in sorted(root.glob("*")) if _is_compressed(place)), None)
    if packed is None:
        return ""
    return f"decompress {packed.name} (the members of a compressed archive cannot be read in place)"


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith((".tgz", f"{SUFFIX}.gz", f"{SUFFIX}.xz", f"{SUFFIX}.zst"))


FORMAT = Format(
    "webdataset",
    lambda path: bool(shards_at(path)),
    _read,
    looked_for="tar archives of photos and tags (WebDataset)",
    given_as="tar archives (.tar)",
    is_file=None,
    advice=_advice,
    split_home=lambda path: str(_root(path) / "splits"),
)
