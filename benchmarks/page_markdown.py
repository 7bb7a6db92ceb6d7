"""Numbers, tables and paragraphs as Markdown, for the pages that the scripts here write."""

from __future__ import annotations

import textwrap
from typing import Any

from dscnet.experiments.comparison import gain_text

WIDTH = 120


def percent(entry: dict[str, Any] | None) -> str:
    """Mean and, over several seeds, standard deviation; - for what was not measured."""
    if entry is None:
        return "-"
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{spread}"


def gain_of(gains: dict[str, Any], variant: str, measure: str) -> str:
    """What a variant gains; - where there is nothing to compare with."""
    entry = gains.get(variant, {}).get(measure)
    return "-" if entry is None else gain_text(entry)


def table_head(*columns: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [row_of(*columns), "|" + "---|" * len(columns)]


def row_of(*cells: str) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def paragraph(text: str) -> list[str]:
    """Text in lines of at most 120 columns; further lines of a list item are indented."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
