"""Write docs/speed.md's tables from benchmarks/results/busy.json and versus_*.json: run it bare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_markdown import row_of, table_head

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "speed.md"
MEASURES = {"wall_seconds": "wall seconds", "cpu_seconds": "CPU seconds", "peak_mib": "peak MiB"}


def main() -> None:
    """Rewrite the parts of the page between its marks."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page with its tables as the result files have them; without a file "Not run."."""
    text = PAGE.read_text(encoding="utf-8")
    busy = [busy_table(read(path)) for path in sorted(RESULTS.glob("busy.json"))]
    versus = [versus_table(read(path)) for path in sorted(RESULTS.glob("versus_*.json"))]
    for name, tables in (("busy", busy), ("versus", versus)):
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        lines = [line for each in tables or [["Not run."]] for line in (*each, "")]
        text = "\n".join([before + begin, *lines[:-1], end]) + rest.split(end)[1]
    return text


def read(path: Path) -> dict[str, Any]:
    """Content of a result file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def busy_table(content: dict[str, Any]) -> list[str]:
    """Seconds of a step for each way to wait."""
    lines = table_head("threads", "quiet, s", f"beside {content['busy']} processes, s", "times")
    for way, row in content["median_seconds"].items():
        cells = (f"{row['quiet']:.2f}", f"{row['busy']:.2f}", f"{row['ratio']:.1f}")
        lines.append(row_of(way, *cells))
    return [*lines, "", f"`{content['command']}` ({made_by(content)})."]


def versus_table(content: dict[str, Any]) -> list[str]:
    """New and old numbers of a command, and their ratio."""
    lines = table_head("median of the pairs", "old", "new", "new / old", "min to max")
    for name, row in content["ratios"].items():
        spread = f"{row['min']:.2f} to {row['max']:.2f}"
        label = MEASURES.get(name, f"`{name}`")
        lines.append(
            row_of(label, f"{row['old']:.3g}", f"{row['new']:.3g}", f"{row['median']:.2f}", spread)
        )
    old = content["commits"]["old"][:7]
    pairs, busy = len(content["pairs"]), content["busy"]
    beside = f" beside {busy} busy processes" if busy else ""
    command = " ".join(content["command"]).replace("\n", " ")
    return [*lines, "", f"{pairs} pairs{beside}, against {old}: `{command}` ({made_by(content)})."]


def made_by(content: dict[str, Any]) -> str:
    """Machine, torch and commit."""
    place = content["environment"]
    return f"{place['processor']}, torch {place['versions']['torch']}, {place['git_revision']}"


if __name__ == "__main__":
    main()
