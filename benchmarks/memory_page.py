"""Write docs/memory.md's table from benchmarks/results/memory.json: run it bare."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "memory.json"
PAGE = ROOT / "docs" / "memory.md"
BEGIN, END = "<!-- memory -->", "<!-- /memory -->"


def main() -> None:
    """Rewrite the part of the page between its marks."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page with its table as the result file has it."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    lines = table(json.loads(RESULT.read_text(encoding="utf-8")))
    return "\n".join([before + BEGIN, *lines, END]) + rest.split(END)[1]


def table(content: dict[str, Any]) -> list[str]:
    """A row a step: its peak at each size, and what a pixel of the largest takes."""
    rows = content["memory"]
    sizes = sorted({(row["height"], row["width"]) for row in rows})
    heads = [f"{width} x {height}" for height, width in sizes]
    lines = [
        "| step | photo pixels per cell | "
        + " | ".join(f"MiB at {head}" for head in heads)
        + f" | bytes per photo pixel at {heads[-1]} |",
        "|" + "---|" * (len(sizes) + 3),
    ]
    for name, group in groupby(rows, key=lambda row: row["piece"]):
        measured = sorted(group, key=lambda row: row["height"])
        *_, last = measured
        a_pixel = last["peak_mib"] * 2**20 / (last["height"] * last["width"])
        peaks = " | ".join(f"{row['peak_mib']:.0f}" for row in measured)
        lines.append(f"| {name} | {last['stride']} x {last['stride']} | {peaks} | {a_pixel:.0f} |")
    place = content["environment"]
    revisions = ", ".join(dict.fromkeys(row["git_revision"] for row in rows))
    made = f"{place['processor']}, torch {place['versions']['torch']}, {revisions}"
    return [*lines, "", f"`{content['command']}` ({made})."]


if __name__ == "__main__":
    main()
