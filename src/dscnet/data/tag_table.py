"""Tags of many photos in columns: a record for each row takes more memory."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TagEntry:
    """The tags of one photo.

    Attributes:
        image_id: The photo's name as written, with or without file ending.
        names: Cleaned, unique class names in file order; empty for a negative photo.
        where: File and line (or entry), for messages.
    """

    image_id: str
    names: tuple[str, ...]
    where: str


class TagTable(Sequence[TagEntry]):
    """Tag entries in file order, made on demand.

    Args:
        where: From the place of a row to its file and line, for messages.
        places: Empty container of the places: ``array("L")`` for numbers, else a list.

    Attributes:
        ids: The photos' names as written.
        names: Class names in order of their first occurrence.
    """

    def __init__(
        self, where: Callable[[Any], str] = str, places: array[int] | list[Any] | None = None
    ) -> None:
        self.ids: list[str] = []
        self._where = where
        self._places: Any = [] if places is None else places
        self._code_of: dict[str, int] = {}
        self._codes, self._ends = array("I"), array("L")

    @classmethod
    def of(cls, entries: Iterable[TagEntry]) -> TagTable:
        """The entries as a table; a table is returned as it is."""
        if isinstance(entries, TagTable):
            return entries
        table = cls()
        for entry in entries:
            table.add(entry.image_id, entry.names, entry.where)
        return table

    def add(self, image_id: str, names: Iterable[str], place: Any) -> None:
        """Append a row."""
        self.ids.append(image_id)
        self._places.append(place)
        code_of = self._code_of
        self._codes.extend([code_of.setdefault(name, len(code_of)) for name in names])
        self._ends.append(len(self._codes))

    @property
    def names(self) -> list[str]:
        """Class names in order of their first occurrence."""
        return list(self._code_of)

    def where(self, row: int) -> str:
        """File and line (or entry) of a row."""
        return self._where(self._places[row])

    def class_lists(self, classes: Sequence[str]) -> ClassLists:
        """Classes of each row, sorted.

        Raises:
            KeyError: If a name is not among ``classes``.
        """
        index = {name: i for i, name in enumerate(classes)}
        ends = np.array(self._ends, dtype=np.int64)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        class_of = np.array([index[name] for name in self.names], dtype=np.int32)
        values = class_of[np.array(self._codes, dtype=np.uint32)]
        # Sorted within each row.
        keys = np.repeat(np.arange(len(ends)) * len(classes), ends - starts) + values
        keys.sort(kind="stable")
        return ClassLists(starts, ends, (keys % max(1, len(classes))).astype(np.int32))

    def rows_with(self, names: set[str]) -> list[int]:
        """Rows that have one of the names, in order."""
        codes = [code for name, code in self._code_of.items() if name in names]
        places = np.flatnonzero(np.isin(np.array(self._codes), codes))
        ends = np.array(self._ends, dtype=np.int64)
        rows: list[int] = np.unique(np.searchsorted(ends, places, side="right")).tolist()
        return rows

    @overload
    def __getitem__(self, row: int) -> TagEntry: ...
    @overload
    def __getitem__(self, row: slice) -> list[TagEntry]: ...
    def __getitem__(self, row: int | slice) -> TagEntry | list[TagEntry]:
        """An entry, or a list of some."""
        if isinstance(row, slice):
            return [self[i] for i in range(len(self))[row]]
        row = range(len(self))[row]
        start = self._ends[row - 1] if row else 0
        names = self.names
        tags = tuple(names[code] for code in self._codes[start : self._ends[row]])
        return TagEntry(self.ids[row], tags, self.where(row))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        """Whether the entries are the same, in a table or another sequence."""
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class ClassLists(Sequence[tuple[int, ...]]):
    """Sorted 0-based class indices of many photos.

    Args:
        starts: First place of each photo in ``values``, ``(N,)``.
        ends: Place after its last, ``(N,)``.
        values: Class indices of all, one photo after another.
    """

    def __init__(
        self, starts: NDArray[np.int64], ends: NDArray[np.int64], values: NDArray[np.int32]
    ) -> None:
        self.starts, self.ends, self.values = starts, ends, values

    def take(self, rows: NDArray[np.int64]) -> ClassLists:
        """The lists of some rows; -1 stands for an empty list."""
        starts, ends = (np.append(places, 0)[rows] for places in (self.starts, self.ends))
        return ClassLists(starts, ends, self.values)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of classes of each photo, ``(N,)``."""
        return self.ends - self.starts

    def present(self) -> set[int]:
        """Classes of any of the photos."""
        inside = np.zeros(len(self.values) + 1, dtype=np.int64)
        np.add.at(inside, self.starts, 1)
        np.add.at(inside, self.ends, -1)
        found: set[int] = set(np.unique(self.values[np.cumsum(inside[:-1]) > 0]).tolist())
        return found

    @overload
    def __getitem__(self, row: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, row: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        """Classes of a photo, or of some."""
        if isinstance(row, slice):
            return [self[i] for i in range(len(self))[row]]
        return tuple(self.values[self.starts[row] : self.ends[row]].tolist())

    def __len__(self) -> int:
        """Number of photos."""
        return len(self.starts)
