"""The numbers that the paper reports: ``paper.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "paper.yaml"


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper.

    Attributes:
        row: Row name.
        published: Whether the paper quotes it from other work.
        values: Column -> number in the column's unit; None if not readable.
    """

    row: str
    published: bool
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of the paper.

    Attributes:
        source: Number of the table and its data set.
        rows: Rows in order.
        notes: Notes for comparisons.
        optimum: Best settings in a figure; empty for tables.
    """

    source: str
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]
    optimum: Mapping[str, float]

    def value(self, row: str, column: str) -> float | None:
        """Value of a cell; None if the paper has none."""
        return next((each.values.get(column) for each in self.rows if each.row == row), None)


@cache
def paper_table(name: str) -> PaperTable:
    """The paper's table or figure ``name``, e.g. ``IV`` or ``figure6``."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))[name]
    rows = []
    for values in content["rows"]:
        row, published = values.pop("row"), values.pop("published", False)
        rows.append(PaperRow(row, published, values))
    notes, optimum = content.get("notes", ()), content.get("optimum", {})
    return PaperTable(content["source"], tuple(rows), tuple(notes), optimum)
