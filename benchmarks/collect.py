"""Collect the trials of a search (run folders NAME-sSEED) into one JSON, including failures.

python benchmarks/collect.py --runs runs/search --json benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
from pathlib import Path
from typing import Any

import yaml

from dscnet.config.settings import current_settings, dotted_names
from dscnet.experiments.comparison import summarise
from dscnet.run_folder import RunFolder, write_text

PLACE = ("data", "seed")
"""Settings that identify a run; the row has the seed, the file the data."""

SEGMENTER = ("segment.",)
"""Settings not used by runs that end with CAMs or labels."""


def main() -> None:
    """One row per run folder, with the settings that differ from the most common value."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    found = {path: read_run(path) for path in sorted(options.runs.iterdir()) if path.is_dir()}
    common = commonest([settings for settings, _ in found.values()])
    rows = []
    for path, (settings, metrics) in found.items():
        name, seed = re.fullmatch(r"(.+)-s(\d+)", path.name).groups()
        unread = PLACE if metrics.get("segmenter") else (*PLACE, *SEGMENTER)
        different = {
            k: v for k, v in settings.items() if common[k] != v and not k.startswith(unread)
        }
        rows.append({"variant": name, "seed": int(seed), "settings": different, **metrics})
    first = next(iter(found.values()))[0]
    content = {
        "command": f"python benchmarks/collect.py --runs {options.runs.name}",
        "data": Path(first["data"]).name,
        "common": {k: v for k, v in common.items() if k not in PLACE},
        "summary": summarise(rows),
        "rows": rows,
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")


def read_run(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Dotted settings of a run, and its metrics if finished."""
    folder = RunFolder(path)
    # Not read_config: settings added later would appear with values that the run never had.
    values = current_settings(
        yaml.safe_load(folder.config.read_text()), str(folder.config), finished=True
    )
    settings = {name: look_up(values, name) for name in dotted_names(values)}
    numbers: dict[str, Any] = {"tag_loss": mean_tag_loss(folder.losses)}
    if folder.metrics.exists():
        return settings, numbers | json.loads(folder.metrics.read_text())
    tags = folder.checkpoints / "tags.json"
    return settings, numbers | ({"tags": json.loads(tags.read_text())} if tags.exists() else {})


def look_up(values: dict[str, Any], dotted: str) -> Any:
    """Value of a dotted name."""
    for part in dotted.split("."):
        values = values[part]
    return values


def commonest(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """Most common value of each setting; None for runs older than the setting."""
    common = {}
    for name in dict.fromkeys(name for own in settings for name in own):
        values = [own.get(name) for own in settings]
        common[name] = max(values, key=values.count)
    return common


def mean_tag_loss(path: Path) -> list[float]:
    """Mean tag loss of each epoch, from a run's ``metrics.csv``."""
    epochs: dict[str, list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            epochs.setdefault(row["epoch"], []).append(float(row["cls"]))
    return [statistics.fmean(values) for values in epochs.values()]


if __name__ == "__main__":
    main()
