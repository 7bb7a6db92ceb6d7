"""Tables as CSV (one number per row) and as Markdown (ours next to the paper's)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dscnet.experiments.comparison import mean_and_std

CSV_COLUMNS = ("table", "row", "column", "unit", "seed", "value")


@dataclass(frozen=True)
class Entry:
    """A cell of a table.

    Attributes:
        row: Row name.
        column: Column name.
        unit: Percent or seconds.
        values: Our values by seed (for seconds, by repetition). Empty = not run.
        paper: The paper's value; None = not reported or not readable.
        published: Whether the paper quotes the row from other work, so there is nothing to run.
        ran: Whether there is a run; without values it was not evaluated, e.g. for lack of masks.
    """

    row: str
    column: str
    unit: Literal["%", "s"]
    values: Mapping[int, float]
    paper: float | None = None
    published: bool = False
    ran: bool = False

    @property
    def mean(self) -> float | None:
        """Mean of our values; None if not run."""
        return mean_and_std(list(self.values.values()))["mean"] if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation of our values; None for fewer than two."""
        return mean_and_std(list(self.values.values()))["std"] if self.values else None

    def text(self) -> str:
        """Our value as text: mean ± standard deviation (number of values)."""
        if self.published:
            return "-"
        if self.mean is None:
            return "not measured" if self.ran else "not run"
        spread = "" if self.std is None else f" ± {self._number(self.std)}"
        return f"{self._number(self.mean)}{spread} ({len(self.values)})"

    def paper_text(self) -> str:
        """The paper's value as text."""
        return "-" if self.paper is None else f"{self.paper:.{1 if self.unit == '%' else 2}f}"

    def _number(self, value: float) -> str:
        return f"{value:.1f}" if self.unit == "%" else f"{value:.4g}"


def long_rows(table: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One number per row: ours for every seed, their mean and standard deviation, the paper's.

    The seed column contains ``mean``, ``std`` and ``paper`` for these, or ``published`` for numbers
    that the paper quotes.
    """
    rows = []
    for entry in entries:
        values: dict[Any, float | None] = dict(entry.values)
        source = "published" if entry.published else "paper"
        values |= {"mean": entry.mean, "std": entry.std, source: entry.paper}
        rows += [
            dict(
                zip(
                    CSV_COLUMNS,
                    (table, entry.row, entry.column, entry.unit, seed, value),
                    strict=True,
                )
            )
            for seed, value in values.items()
            if value is not None
        ]
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`long_rows` as CSV with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def to_markdown(title: str, entries: Sequence[Entry], notes: Sequence[str]) -> str:
    """A heading, the table, and the notes as a list."""
    columns = list(dict.fromkeys(entry.column for entry in entries))
    rows = list(dict.fromkeys(entry.row for entry in entries))
    cells = {(entry.row, entry.column): entry for entry in entries}
    reported = {entry.column for entry in entries if entry.paper is not None}
    head = [""]
    for column in columns:
        head += (
            [f"{column}, ours", f"{column}, paper"] if column in reported else [f"{column}, ours"]
        )
    lines = [f"# {title}", "", _line(head), "|---" * len(head) + "|"]
    for row in rows:
        texts = [row]
        for column in columns:
            cell = cells.get((row, column))
            texts.append("-" if cell is None else cell.text())
            if column in reported:
                texts.append("-" if cell is None else cell.paper_text())
        lines.append(_line(texts))
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
