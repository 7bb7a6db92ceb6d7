"""Grids of runs, named variants times seeds, and the file of their results."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dscnet.config import Config
from dscnet.config.recipes import read_mapping
from dscnet.config.settings import differences, dotted_settings, replace_settings, shown, to_dict
from dscnet.data import open_dataset, read_mask
from dscnet.experiments.comparison import (
    by_round,
    difference_table,
    gains_of_rounds,
    paired,
    summarise,
    table,
)
from dscnet.experiments.workers import start_pool
from dscnet.metrics import evaluation
from dscnet.pipeline.cam_network import training_settings
from dscnet.pipeline.job import Job, located
from dscnet.pipeline.maps import background_score, load_map
from dscnet.pipeline.registry import find_stage
from dscnet.pipeline.resume import refuse_losses
from dscnet.pipeline.runner import open_run, run
from dscnet.pipeline.stage import flat_settings
from dscnet.run_folder import RunFolder, environment, write_text
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

VARIANTS: dict[str, dict[str, Any]] = {
    name: {"method.variant": name} for name in ("baseline", "M1", "M2", "M3", "M4")
}
"""The rows of the paper's Table IV, each one setting."""


class GridRun(NamedTuple):
    """One run of a grid: what it is called, its settings and its folder."""

    variant: str
    config: Config
    folder: Path


def run_grid(
    config: Config,
    out: str | Path,
    variants: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    stages: Sequence[str],
    strict_masks: Path | None = None,
    jobs: int = 1,
) -> Iterator[dict[str, Any]]:
    """Run every variant with every seed, in ``OUT/VARIANT-sSEED``; finished runs are only read.

    A run that fails does not end the others.

    Args:
        config: Settings that all share. In any text, ``{seed}`` stands for the seed of the run.
        out: Folder of the runs.
        variants: Name -> dotted settings, e.g. ``{"M1": {"method.variant": "M1"}}``.
        seeds: Seeds of each variant.
        stages: Stages of each run.
        strict_masks: A second folder of true masks to measure the maps against.
        jobs: Runs at once, each in a process with its share of the cores.

    Yields:
        One row a run as it ends: ``variant``, ``seed``, ``seconds`` a stage, and the sections of
        its ``metrics.json``; or ``error``, what it failed by.

    Raises:
        ValueError: If a setting of a variant does not exist, or ``jobs`` is below 1.
        DscnetError: If a folder holds a training of other settings or photos; nothing is run then.
    """
    # Seeds outside, so that an unfinished grid compares all variants on the seeds it has.
    runs = [
        GridRun(
            name,
            of_seed(replace_settings(config, settings), seed),
            Path(out) / f"{name}-s{seed}",
        )
        for seed in seeds
        for name, settings in variants.items()
    ]
    for each in runs:
        refuse_to_train_over(each, stages)
    yield from run_all(runs, stages=stages, strict_masks=strict_masks, jobs=jobs)


def refuse_to_train_over(one: GridRun, stages: Sequence[str]) -> None:
    """Refuse a folder whose finished training is another than would be done there now.

    Args:
        one: The run.
        stages: Those that it is for. Where training is not among them, photos and code may be
            others, for nothing is trained over; the settings are written there all the same.

    Raises:
        DscnetError: If its settings, its photos or the code were others.
    """
    folder = RunFolder(one.folder)
    if folder.fingerprint_of("train") is None:
        return
    there, here = folder.read_config(finished=False), located(one.config)
    if _of_training(there) != _of_training(here):
        differing = differences(*(dotted_settings(to_dict(config)) for config in (there, here)))
        raise DscnetError(
            f"{folder.root} holds a training of other settings ({'; '.join(differing)}): name"
            " another --out, or give it those settings"
        )
    if "train" not in stages:
        return
    refuse_losses(open_run(replace(there, data=here.data), folder), [find_stage("train")])


def _of_training(config: Config) -> dict[str, Any]:
    """What the training of a run depends on; rounds may be added to those that are there."""
    config = replace_settings(config, {"auxseg.rounds": 1})
    photos = {"data": Path(config.data).name, "train_split": config.train_split}
    return {"seed": config.seed, **photos, **flat_settings(training_settings(config))}


def run_all(
    runs: Sequence[GridRun],
    *,
    stages: Sequence[str],
    strict_masks: Path | None = None,
    jobs: int = 1,
) -> Iterator[dict[str, Any]]:
    """Runs in turn or side by side, as :func:`run_grid` does; it says what a row is.

    Raises:
        ValueError: If ``jobs`` is below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    one = partial(_one_run, stages=list(stages), strict_masks=strict_masks)
    if jobs == 1:
        for each in runs:
            yield one(*each)
        return
    with start_pool(jobs) as pool:
        futures = {pool.submit(one, *each): each for each in runs}
        for done in as_completed(futures):
            try:
                yield done.result()
            except BrokenProcessPool as error:
                yield _failed(futures[done].variant, futures[done].config.seed, error)


def sweep(
    config: Config,
    out: Path,
    variants: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    stages: Sequence[str],
    strict_masks: Path | None = None,
    jobs: int = 1,
    json_path: Path | None = None,
    command: str = "",
) -> int:
    """Run a grid, write its results after every run, and print its tables.

    Args:
        config: As for :func:`run_grid`, like the other arguments that it has.
        out: As there.
        variants: As there; the first is what the others are compared with.
        seeds: As there.
        stages: As there.
        strict_masks: As there.
        jobs: As there.
        json_path: File of the results; None = ``OUT/sweep.json``.
        command: What to write down as the way to these results.

    Returns:
        How many runs failed.
    """
    base = next(iter(variants))
    order = [(seed, name) for seed in seeds for name in variants]
    rows: list[dict[str, Any]] = []
    grid = run_grid(
        config, out, variants, seeds, stages=stages, strict_masks=strict_masks, jobs=jobs
    )
    target = json_path or out / "sweep.json"
    for row in grid:
        rows = sorted([*rows, row], key=lambda row: order.index((row["seed"], row["variant"])))
        write_results(target, rows, command=command, config=config, variants=variants)
    print(table(summarise(rows)))
    if len(variants) > 1:
        print(f"\nAbove {base}, by seed, with 95 % interval:\n")
        print(difference_table(paired(rows, base)))
    if rounds := by_round(rows):
        print(f"\nRounds:\n\n{table(summarise(rounds))}")
    if gains := gains_of_rounds(rows):
        print(f"\nAbove round 1, by seed:\n\n{difference_table(gains)}")
    return sum("error" in row for row in rows)


def _one_run(
    variant: str, config: Config, out: Path, *, stages: Sequence[str], strict_masks: Path | None
) -> dict[str, Any]:
    folder = RunFolder(out)
    log.info("== %s, seed %d", variant, config.seed)
    row: dict[str, Any] = {"variant": variant, "seed": config.seed}
    try:
        metrics = run(config, folder.root, resume=True, stages=stages, progress=False)
    except Exception as error:  # whatever it is, a GPU out of memory too: others may do
        return _failed(variant, config.seed, error)
    row |= {"seconds": folder.seconds(), **metrics}
    row["collapsed"] = _read(folder.checkpoints / "tags.json", "collapsed")
    # What ``auto`` stands for has changed once, and results outlive the code.
    row["bg_criterion"] = config.criterion
    if strict_masks is not None:
        row["cam_strict"] = _against(strict_masks, config, folder)
    return row


def _failed(variant: str, seed: int, error: Exception) -> dict[str, Any]:
    """The row of a run that failed; what is no message to users comes with its place."""
    told = isinstance(error, DscnetError | ValueError | OSError)
    log.error("== %s, seed %d failed: %s", variant, seed, error, exc_info=None if told else error)
    return {"variant": variant, "seed": seed, "error": str(error) or type(error).__name__}


def of_seed(config: Config, seed: int) -> Config:
    """The settings of one seed: ``{seed}``, e.g. in a folder of maps made before, is filled in."""
    texts = {
        name: value.replace("{seed}", str(seed))
        for name, value in dotted_settings(to_dict(config)).items()
        if isinstance(value, str)
    }
    return replace_settings(config, {**texts, "seed": seed})


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Read a YAML file of variants, ``NAME: {DOTTED_SETTING: VALUE}``; the first is the base.

    Raises:
        ValueError: If the file is not of this form.
    """
    content = read_mapping(path)
    if not content or not all(isinstance(settings, dict) for settings in content.values()):
        raise ValueError(f"{path}: not a mapping of names to dotted settings")
    return {str(name): settings for name, settings in content.items()}


def write_results(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    command: str,
    config: Config,
    variants: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a grid's rows, summary, settings and environment as one JSON file."""
    base = next(iter(variants))
    content = {
        "command": command,
        # Of all runs: which one came first says nothing to a reader of the numbers.
        "environment": {
            key: value for key, value in environment(config.seed).items() if key != "seed"
        },
        "settings": shown(config),
        "variants": variants,
        "summary": summarise(rows),
        "base": base,
        "paired": paired(rows, base),
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=1) + "\n")


def _read(path: Path, key: str) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))[key] if path.exists() else None


def _against(masks: Path, config: Config, folder: RunFolder) -> dict[str, Any]:
    photos = open_dataset(config.data, config.train_split)
    bg_score = background_score(Job(config, folder, photos, None))
    items = (
        (
            *load_map(folder.cams, sample.image_id),
            read_mask(masks / f"{sample.image_id}.png").numpy(),
        )
        for sample in photos.samples
    )
    return evaluation.evaluate_cams(
        items, photos.classes, split=config.train_split, bg_score=bg_score
    )
