"""Grids of runs, named variants times seeds, and their summary."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dscnet import evaluation
from dscnet.config import Config, replace_settings
from dscnet.data import open_dataset, read_mask
from dscnet.pipeline import run
from dscnet.run_folder import RunFolder, environment, write_text
from dscnet.stages import load_map

log = logging.getLogger("dscnet")

VARIANTS: dict[str, dict[str, Any]] = {
    name: {"method.variant": name} for name in ("baseline", "M1", "M2", "M3", "M4")
}
"""The rows of the paper's Table IV, each one setting."""

MEASURES = (
    "cam.miou",
    "cam.miou_best_bg",
    "cam_strict.miou_best_bg",
    "pseudo_label.miou",
    "segmenter.miou",
    "tags.map",
)


def run_grid(
    config: Config,
    out: str | Path,
    variants: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    stages: Sequence[str],
    strict_masks: Path | None = None,
) -> list[dict[str, Any]]:
    """Run every variant with every seed, in ``OUT/VARIANT-sSEED``; finished runs are only read.

    Args:
        config: Settings that all share.
        out: Folder of the runs.
        variants: Name -> dotted settings, e.g. ``{"M1": {"method.variant": "M1"}}``.
        seeds: Seeds of each variant.
        stages: Stages of each run.
        strict_masks: A second folder of true masks to measure the maps against.

    Returns:
        One row a run: ``variant``, ``seed``, ``seconds`` a stage, and the sections of its
        ``metrics.json``.
    """
    rows = []
    # Seeds outside, so that an unfinished grid compares all variants on the seeds it has.
    for seed in seeds:
        for name, settings in variants.items():
            folder = RunFolder(Path(out) / f"{name}-s{seed}")
            log.info("== %s, seed %d", name, seed)
            wanted = replace_settings(config, {**settings, "seed": seed})
            metrics = run(wanted, folder.root, resume=True, stages=stages, progress=False)
            row = {"variant": name, "seed": seed, "seconds": folder.seconds(), **metrics}
            row["collapsed"] = _read(folder.checkpoints / "tags.json", "collapsed")
            row["otsu_bg_score"] = _read(folder.threshold, "otsu")
            if strict_masks is not None:
                row["cam_strict"] = _against(strict_masks, wanted, folder)
            rows.append(row)
    return rows


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation (of the sample) and number of seeds of each measure of each variant.

    Returns:
        ``{variant: {measure: {"mean": x, "std": y, "seeds": n}}}`` with x, y in [0, 1]; y is None
        for one seed.
        A measure that no run has is left out.
    """
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], []).append(row)
    return {
        variant: {
            measure: _statistics(values)
            for measure in MEASURES
            if (values := [value for row in own if (value := _lookup(row, measure)) is not None])
        }
        for variant, own in by_variant.items()
    }


def write_results(
    path: Path, rows: Sequence[Mapping[str, Any]], *, command: str, config: Config
) -> None:
    """Write a grid's rows, summary, settings and environment as one JSON file."""
    from dscnet.config import to_dict

    settings = to_dict(config)
    settings["data"] = Path(config.data).name
    # Where the data lies and which run came first say nothing to a reader of the numbers.
    content = {
        "command": command,
        "environment": {
            key: value for key, value in environment(config.seed).items() if key != "seed"
        },
        "settings": settings,
        "summary": summarise(rows),
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def table(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The summary as a Markdown table, percent."""
    measures = [measure for measure in MEASURES if any(measure in row for row in summary.values())]
    lines = ["| variant | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    for variant, row in summary.items():
        lines.append(
            f"| {variant} | " + " | ".join(_cell(row.get(measure)) for measure in measures) + " |"
        )
    return "\n".join(lines)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "not run"
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{spread} ({entry['seeds']})"


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "seeds": len(values)}


def _lookup(row: Mapping[str, Any], measure: str) -> float | None:
    section, key = measure.split(".")
    value = (row.get(section) or {}).get(key)
    return None if value is None else float(value)


def _read(path: Path, key: str) -> Any:
    return json.loads(path.read_text())[key] if path.exists() else None


def _against(masks: Path, config: Config, folder: RunFolder) -> dict[str, Any]:
    photos = open_dataset(config.data, config.train_split)
    items = (
        (
            *load_map(folder.cams, sample.image_id),
            read_mask(masks / f"{sample.image_id}.png").numpy(),
        )
        for sample in photos.samples
    )
    return evaluation.evaluate_cams(
        items, photos.classes, split=config.train_split, bg_score=config.label.bg_score
    )
