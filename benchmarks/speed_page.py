"""Write docs/speed.md's tables from the files of benchmarks/results named there: run it bare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_markdown import paragraph, row_of, table_head

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
    for name, (pattern, table) in TABLES.items():
        tables = [table(read(path)) for path in sorted(RESULTS.glob(pattern))]
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
    return [*lines, "", *paragraph(f"`{content['command']}` ({made_by(content)}).")]


def versus_table(content: dict[str, Any]) -> list[str]:
    """New and old numbers of a command, and their ratio."""
    lines = table_head("median of the pairs", "old", "new", "new / old", "min to max")
    for name, row in content["ratios"].items():
        spread = f"{row['min']:.2f} to {row['max']:.2f}"
        label = MEASURES.get(name, f"`{name}`")
        lines.append(
            row_of(label, f"{row['old']:.4g}", f"{row['new']:.4g}", f"{row['median']:.2f}", spread)
        )
    old = content["commits"]["old"][:7]
    pairs, busy = len(content["pairs"]), content["busy"]
    beside = f" beside {busy} busy processes" if busy else ""
    command = " ".join(content["command"]).replace("\n", " ")
    return [
        *lines,
        "",
        *paragraph(f"{pairs} pairs{beside}, against {old}: `{command}` ({made_by(content)})."),
    ]


def twin_table(content: dict[str, Any]) -> list[str]:
    """Seconds of our step and of its twin, and how much the losses differ."""
    lines = table_head("step", "twin, CPU s", "ours, CPU s", "ours / twin", "losses differ by")
    for name, row in content["variants"].items():
        seconds = [row["median_seconds"][side]["cpu"] for side in ("twin", "ours")]
        worst = max(loss["relative"] for loss in row["losses"].values())
        cells = [f"{value:.2f}" for value in seconds]
        lines.append(row_of(name, *cells, f"{row['ratio']['cpu']:.2f}", f"{worst:.0e}"))
    photos = f"{content['batch_size']} photos, crop {content['crop_size']}"
    return [
        *lines,
        "",
        *paragraph(f"{photos}, median of {content['pairs']} pairs ({made_by(content)})."),
    ]


def predict_table(content: dict[str, Any]) -> list[str]:
    """Photos a second of prediction in two checkouts."""
    lines = table_head("photos a second", "median", "min to max")
    for name, row in content["photos_per_second"].items():
        lines.append(row_of(name, f"{row['median']:.2f}", f"{row['min']:.2f} to {row['max']:.2f}"))
    for clock, row in content["ratio"].items():
        label = "new / old, wall time" if clock == "wall" else "new / old, CPU time"
        lines.append(row_of(label, f"{row['median']:.2f}", f"{row['min']:.2f} to {row['max']:.2f}"))
    equal = f"{100 * content['agreement']['pixels']:.3f} % of the pixels are labelled alike"
    what = f"{content['photos']} photos, CRF {content['crf']}; old: {content['old_revision'][:7]}"
    return [*lines, "", *paragraph(f"{what}; {equal} ({made_by(content)}).")]


def evaluation_table(content: dict[str, Any]) -> list[str]:
    """Photos a second of evaluation, and its memory."""
    names = {
        "ours": "`evaluate_folders`, decoding included",
        "bare": "Pillow and a bare `numpy.bincount`",
        "old": f"`evaluate_folders` of {(content['old_revision'] or '-')[:7]}",
        "ours_in_memory": "confusion matrix, labels in memory",
        "bare_in_memory": "bare `numpy.bincount`, labels in memory",
    }
    lines = table_head("one thread", "photos per CPU second")
    rates = content["photos_per_second"]
    lines += [row_of(text, f"{rates[name]:.0f}") for name, text in names.items() if name in rates]
    lines += ["", *table_head("photos", "peak memory of the evaluation, MiB")]
    lines += [row_of(f"{int(n):,}", f"{size:.0f}") for n, size in content["peak_mib"].items()]
    photos = content["photos"]
    size = f"{photos['width']} x {photos['height']} pixels, {photos['labels']} labels"
    return [*lines, "", *paragraph(f"{size} ({made_by(content)}).")]


def ranks_table(content: dict[str, Any]) -> list[str]:
    """Steps a second of several processes against one."""
    lines = table_head("clock", f"steps of {content['processes']} processes / of one")
    lines += [row_of(clock, f"{ratio:.2f}") for clock, ratio in content["ratio"].items()]
    what = f"{content['photos']} photos, crop {content['crop']}, {content['variant']}"
    return [*lines, "", *paragraph(f"{what}, one thread each ({made_by(content)}).")]


def made_by(content: dict[str, Any]) -> str:
    """Machine, torch and commit."""
    place = content["environment"]
    return f"{place['processor']}, torch {place['versions']['torch']}, {place['git_revision']}"


TABLES = {
    "busy": ("busy.json", busy_table),
    "versus": ("versus_*.json", versus_table),
    "twin": ("naive_twin.json", twin_table),
    "predict": ("predict_speed.json", predict_table),
    "evaluation": ("evaluation_speed.json", evaluation_table),
    "ranks": ("ranks.json", ranks_table),
}
"""Result files and table of each part of the page."""


if __name__ == "__main__":
    main()
