"""Grids of runs, variants times seeds, and the file of their results."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dscnet.config import Config
from dscnet.config.recipes import read_mapping
from dscnet.config.settings import (
    differences,
    dotted_settings,
    replace_settings,
    to_dict,
    without_local_paths,
)
from dscnet.data import open_dataset, read_mask
from dscnet.distributed.launch import is_launched
from dscnet.distributed.ranks import own_part, world_size
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
from dscnet.pipeline.job import Job, with_absolute_paths
from dscnet.pipeline.maps import background_score, load_map
from dscnet.pipeline.registry import find_stage
from dscnet.pipeline.resume import refuse_overwriting
from dscnet.pipeline.runner import open_run, run
from dscnet.pipeline.stage import flat_settings
from dscnet.run_folder import RunFolder, environment, write_text
from dscnet.types import DscnetError

log = logging.getLogger("dscnet")

T = TypeVar("T")

VARIANTS: dict[str, dict[str, Any]] = {
    name: {"method.variant": name} for name in ("baseline", "M1", "M2", "M3", "M4")
}
"""The rows of the paper's Table IV; each is one setting."""


class GridRun(NamedTuple):
    """One run of a grid: variant, settings and folder."""

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
    shard: tuple[int, int] = (1, 1),
    collect: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run every variant with every seed in ``OUT/VARIANT-sSEED``; finished runs are only read.

    If a run fails, the others continue.

    Args:
        config: Common settings. ``{seed}`` in a text value is replaced by the seed of the run.
        out: Folder of the runs.
        variants: Name -> dotted settings, e.g. ``{"M1": {"method.variant": "M1"}}``.
        seeds: Seeds of each variant.
        stages: Stages of each run.
        strict_masks: Second folder of ground-truth masks to evaluate the CAMs on.
        jobs: Number of parallel runs, in separate processes that share the cores.
        shard: (i, n): only the i-th of n parts of the runs, from 1.
        collect: Run nothing; only finished runs give rows.

    Yields:
        One row per finished run: ``variant``, ``seed``, ``seconds`` by stage, and the sections of
        ``metrics.json``; or ``error``, the message of a failed run.

    Raises:
        ValueError: If a setting of a variant or the shard does not exist, or ``jobs`` is below 1.
        DscnetError: If a folder contains a training with different settings or photos; nothing is
            run then.
    """
    # Seeds in the outer loop, so that an unfinished grid has all variants for its seeds.
    runs = [
        GridRun(
            name,
            of_seed(replace_settings(config, settings), seed),
            Path(out) / f"{name}-s{seed}",
        )
        for seed in seeds
        for name, settings in variants.items()
    ]
    runs = shard_of(runs, *shard)
    if collect:
        runs = [each for each in runs if _has_finished(each, stages)]
    for each in runs:
        refuse_other_training(each, stages)
    if collect:
        yield from (_finished_row(each, strict_masks) for each in runs)
        return
    yield from run_all(runs, stages=stages, strict_masks=strict_masks, jobs=jobs)


def shard_of(runs: Sequence[T], index: int, count: int) -> list[T]:
    """The ``index``-th of ``count`` disjoint parts, from 1.

    Raises:
        ValueError: If there is no such part.
    """
    if not 1 <= index <= count:
        raise ValueError(f"shard must be I/N with I in 1..N, got {index}/{count}")
    return list(runs[index - 1 :: count])


def _has_finished(one: GridRun, stages: Sequence[str]) -> bool:
    return all(RunFolder(one.folder).fingerprint_of(stage) is not None for stage in stages)


def refuse_other_training(one: GridRun, stages: Sequence[str]) -> None:
    """Refuse a folder with a finished training that differs from the planned one.

    Args:
        one: The run.
        stages: Stages to run. Without ``train``, photos and code may differ, as nothing is
            overwritten.

    Raises:
        DscnetError: If settings, photos or code of the training differ.
    """
    folder = RunFolder(one.folder)
    if folder.fingerprint_of("train") is None:
        return
    there, here = folder.read_config(finished=False), with_absolute_paths(one.config)
    if _training_inputs(there) != _training_inputs(here):
        differing = differences(*(dotted_settings(to_dict(config)) for config in (there, here)))
        raise DscnetError(
            f"{folder.root} already contains a run trained with different settings"
            f" ({'; '.join(differing)}): choose another --out or use those settings"
        )
    if "train" not in stages:
        return
    refuse_overwriting(open_run(replace(there, data=here.data), folder), [find_stage("train")])


def _training_inputs(config: Config) -> dict[str, Any]:
    """Settings that the training of a run depends on, except the number of rounds."""
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
    """Run in sequence or in parallel; yields rows as :func:`run_grid` does.

    Raises:
        ValueError: If ``jobs`` is below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    if jobs > 1 and is_launched():
        raise ValueError(f"jobs must be 1 if several processes share a run, got {jobs}")
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
    shard: tuple[int, int] = (1, 1),
    collect: bool = False,
) -> int:
    """Run a grid, write its results after every run, and print its tables.

    A shard only makes its runs: other shards would write the same files.

    Args:
        config: As for :func:`run_grid`, like the other arguments that it has.
        out: As there.
        variants: As there; the others are compared with the first.
        seeds: As there.
        stages: As there.
        strict_masks: As there.
        jobs: As there.
        json_path: File of the results; None = ``OUT/sweep.json``.
        command: Command line to record with the results.
        shard: As for :func:`run_grid`.
        collect: As there.

    Returns:
        Number of failed runs.
    """
    base = next(iter(variants))
    order = [(seed, name) for seed in seeds for name in variants]
    rows: list[dict[str, Any]] = []
    grid = run_grid(
        config,
        out,
        variants,
        seeds,
        stages=stages,
        strict_masks=strict_masks,
        jobs=jobs,
        shard=shard,
        collect=collect,
    )
    if shard != (1, 1) and not collect:
        return sum("error" in row for row in grid)
    target = json_path or out / "sweep.json"
    for row in grid:
        rows = sorted([*rows, row], key=lambda row: order.index((row["seed"], row["variant"])))
        write_results(target, rows, command=command, config=config, variants=variants)
    print(table(summarise(rows)))
    if len(variants) > 1:
        print(f"\nDifference from {base}, paired by seed, with 95 % confidence interval:\n")
        print(difference_table(paired(rows, base)))
    if rounds := by_round(rows):
        print(f"\nRounds:\n\n{table(summarise(rounds))}")
    if gains := gains_of_rounds(rows):
        print(f"\nDifference from round 1, paired by seed:\n\n{difference_table(gains)}")
    return sum("error" in row for row in rows)


def _one_run(
    variant: str, config: Config, out: Path, *, stages: Sequence[str], strict_masks: Path | None
) -> dict[str, Any]:
    log.info("== %s, seed %d", variant, config.seed)
    try:
        metrics = run(config, out, resume=True, stages=stages, progress=False)
    except Exception as error:  # of any kind, e.g. out of GPU memory: other runs may succeed
        if world_size() > 1:
            # The other ranks wait for this one.
            raise
        return _failed(variant, config.seed, error)
    return _row(GridRun(variant, config, out), metrics, strict_masks)


def _finished_row(one: GridRun, strict_masks: Path | None) -> dict[str, Any]:
    folder = RunFolder(one.folder)
    evaluated = folder.fingerprint_of("evaluate") is not None
    metrics = evaluation.read_metrics(folder.metrics) if evaluated else {}
    return _row(one, metrics, strict_masks)


def _row(one: GridRun, metrics: Mapping[str, Any], strict_masks: Path | None) -> dict[str, Any]:
    folder, config = RunFolder(one.folder), one.config
    row: dict[str, Any] = {"variant": one.variant, "seed": config.seed}
    row |= {"seconds": folder.seconds(), **metrics}
    row["collapsed"] = _read(folder.checkpoints / "tags.json", "collapsed")
    # Results outlive the code, and the meaning of ``auto`` has changed before.
    row["bg_criterion"] = config.criterion
    if strict_masks is not None:
        row["cam_strict"] = _strict_section(strict_masks, config, folder)
    return row


def _failed(variant: str, seed: int, error: Exception) -> dict[str, Any]:
    """The row of a failed run; unexpected errors are logged with their traceback."""
    expected = isinstance(error, DscnetError | ValueError | OSError)
    trace = None if expected else error
    log.error("== %s, seed %d failed: %s", variant, seed, error, exc_info=trace)
    return {"variant": variant, "seed": seed, "error": str(error) or type(error).__name__}


def of_seed(config: Config, seed: int) -> Config:
    """Settings for one seed, with ``{seed}`` replaced, e.g. in a folder of external CAMs."""
    texts = {
        name: value.replace("{seed}", str(seed))
        for name, value in dotted_settings(to_dict(config)).items()
        if isinstance(value, str)
    }
    return replace_settings(config, {**texts, "seed": seed})


def read_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Read a YAML file of variants, ``NAME: {DOTTED_SETTING: VALUE}``; the first is the base.

    Raises:
        ValueError: If the file has another form.
    """
    content = read_mapping(path)
    if not content or not all(isinstance(settings, dict) for settings in content.values()):
        raise ValueError(f"{path}: expected a mapping of names to dotted settings")
    return {str(name): settings for name, settings in content.items()}


def write_results(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    command: str,
    config: Config,
    variants: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write the rows, summary, settings and environment of a grid as one JSON file."""
    base = next(iter(variants))
    content = {
        "command": command,
        # The environment of all runs, so without the seed of one.
        "environment": {
            key: value for key, value in environment(config.seed).items() if key != "seed"
        },
        "settings": without_local_paths(config),
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


def _strict_section(masks: Path, config: Config, folder: RunFolder) -> dict[str, Any]:
    photos = open_dataset(config.data, config.train_split)
    bg_score = background_score(Job(config, folder, photos, None))
    items = (
        (
            *load_map(folder.cams, sample.image_id),
            read_mask(masks / f"{sample.image_id}.png").numpy(),
        )
        for sample in own_part(photos.samples)
    )
    return evaluation.evaluate_cams(
        items, photos.classes, split=config.train_split, bg_score=bg_score
    )
