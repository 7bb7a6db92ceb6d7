"""The photos of a data set: a record of one, and a table of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from dscnet.data.formats import same_id
from dscnet.data.tag_table import ClassLists


@dataclass(frozen=True)
class Sample:
    """One photo with its tags and files.

    Attributes:
        image_id: Unique name, valid as a file name.
        image_path: The photo.
        tags: Sorted 0-based foreground classes; ``()`` for a negative photo, None if unknown.
        mask_path: Pixel labels, for evaluation; None if there are none.
        saliency_path: Saliency map; None if there is none.
    """

    image_id: str
    image_path: Path
    tags: tuple[int, ...] | None = None
    mask_path: Path | None = None
    saliency_path: Path | None = None


class SampleTable(Sequence[Sample]):
    """Photos of a data set in columns, as records take more memory; those are made on demand.

    Args:
        ids: Ids of the photos.
        tags: Their tags.
        photos: Photo by id.
        masks: Ground-truth masks by id; may lack photos.
        saliency: Saliency maps by id; may lack photos.
    """

    def __init__(
        self,
        ids: Sequence[str],
        tags: ClassLists,
        photos: Mapping[str, Path],
        masks: Mapping[str, Path],
        saliency: Mapping[str, Path],
    ) -> None:
        self.ids, self.tags = ids, tags
        self._photos, self._masks, self._saliency = photos, masks, saliency

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...
    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        """A photo, or a tuple of some."""
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        image_id = self.ids[index]
        return Sample(
            image_id,
            self._photos[image_id],
            self.tags[index],
            _map_of(image_id, self._masks),
            _map_of(image_id, self._saliency),
        )

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        """Whether the photos are the same, in a table or another sequence."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _map_of(image_id: str, maps: Mapping[str, Path]) -> Path | None:
    name = same_id(image_id, maps) if maps else None
    return None if name is None else maps[name]
