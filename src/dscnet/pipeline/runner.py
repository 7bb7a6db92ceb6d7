"""Runs the stages: train -> cam -> refine -> label -> segment -> evaluate -> report.

Stages exchange data through the files of a run folder. A stage whose inputs, settings and code are
unchanged is skipped; an interrupted training continues from its last epoch.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dscnet.config import Config
from dscnet.data import available_splits, open_dataset
from dscnet.distributed.ranks import join, on_first
from dscnet.metrics import evaluation
from dscnet.pipeline.check_photos import check_photos
from dscnet.pipeline.fitting import check_processes
from dscnet.pipeline.job import Job, with_absolute_paths
from dscnet.pipeline.registry import find_stage, list_stages
from dscnet.pipeline.resources import check_machine
from dscnet.pipeline.resume import refuse_overwriting
from dscnet.pipeline.stage import Stage
from dscnet.pipeline.timing import StageClock
from dscnet.run_folder import RunFolder, fingerprint
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")


def open_run(config: Config, folder: RunFolder, *, progress: bool = True) -> Job:
    """Open the run's photos; a data set without a validation split has ``val=None``."""
    if not config.data:
        raise DataError("no data set given: use --data FOLDER")
    join(config.train.accelerator)
    config = with_absolute_paths(config)
    splits = available_splits(config.data)
    train = open_dataset(config.data, config.train_split)
    if splits and config.val_split not in (*splits, Config.val_split):
        raise DataError(f"val_split must be one of {', '.join(splits)}, got '{config.val_split}'")
    val = open_dataset(config.data, config.val_split) if config.val_split in splits else None
    job = Job(config, folder, train, val, progress)
    for stage in list_stages():
        stage.check(job)
    return job


def run(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    stages: Sequence[str] | None = None,
    progress: bool = True,
    profile: bool = False,
) -> dict[str, Any]:
    """Run all stages, from photos and tags to masks, metrics and a report.

    Args:
        config: Settings; ``config.data`` is the data set.
        out: Run folder.
        resume: Continue the run in the folder.
        force: Delete an existing run and start over.
        stages: Names of the stages to run, in order; None = all.
        progress: Show progress bars.
        profile: Profile some steps of each training into ``OUT/profile/``.

    Returns:
        Content of ``metrics.json``; empty if the current files have not been evaluated.

    Raises:
        DscnetError: If data or settings are invalid, before anything is trained.
    """
    chosen = list_stages() if stages is None else [find_stage(name) for name in stages]
    folder = RunFolder(Path(out))
    job = open_run(config, folder, progress=progress)
    job.profile = folder.root / "profile" if profile else None
    # Before checking the photos, which takes longer.
    _check_trainings(job, chosen, force=force)
    if resume and not force:
        refuse_overwriting(job, chosen)
    if force or not (resume and folder.fingerprint_of("train")):
        on_first(check_photos)(job)
        on_first(check_machine)(job)
    check_run_folder(job, force=force)
    on_first(folder.create)(resume=resume, force=force)
    for stage in chosen:
        run_stage(stage.name, job)
    _record_place(job)
    return evaluation.read_metrics(folder.metrics) if folder.fingerprint_of("evaluate") else {}


def run_single(
    name: str,
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
    profile: bool = False,
) -> bool:
    """Run a single stage, on the results of earlier stages in the run folder.

    With ``force`` trainings of other settings are overwritten, those of the same ones kept; a stage
    that is up to date runs again with its trainings; and ``train`` deletes the run first.

    Returns:
        Whether it ran; False if it is up to date.
    """
    folder = RunFolder(Path(out))
    job = open_run(config, folder, progress=progress)
    job.profile = folder.root / "profile" if profile else None
    check_run_folder(job, force=force)
    stage = find_stage(name)
    _check_needs(stage, job)
    _check_trainings(job, [stage], force=force)
    if not force:
        refuse_overwriting(job, [stage])
    if name == "train":
        on_first(check_photos)(job)
        on_first(check_machine)(job)
        on_first(folder.create)(resume=resume, force=force)
    else:
        on_first(folder.create)(resume=True)
        if force and folder.is_done(name, stage.fingerprint(job)):
            for training in stage.trained(job):
                on_first(training.folder.forget)(training.record)
    ran = run_stage(name, job, again=force)
    _record_place(job)
    return ran


def _check_trainings(job: Job, stages: Sequence[Stage], *, force: bool) -> None:
    """Check the trainings of the stages that are not up to date."""
    for stage in stages:
        if force or not job.folder.is_done(stage.name, stage.fingerprint(job)):
            check_processes(job.config.train)
            stage.check_training(job)


def run_stage(name: str, job: Job, *, again: bool = False) -> bool:
    """Run one stage unless it has finished with the same inputs, settings and code.

    Args:
        name: The stage.
        job: The run.
        again: Run it even if it is up to date.

    Returns:
        Whether it ran.
    """
    stage, folder = find_stage(name), job.folder
    _check_needs(stage, job)
    inputs = stage.inputs(job)
    mark = fingerprint(name, inputs)
    done = folder.is_done(name, mark)
    if done and not again and _exist(stage.makes(job)):
        log.info("%s: up to date", name)
        return False
    # Lost files are recreated identically, so later stages stay up to date.
    stale = set() if done else _downstream(name, job.config)
    if "evaluate" in stale:
        # They describe files that are about to change.
        on_first(folder.metrics.unlink)(missing_ok=True)
        on_first(folder.report.unlink)(missing_ok=True)
    on_first(folder.write_config)(job.config)
    resumable = folder.start(name, mark, stale=stale, inputs=inputs)
    clock = StageClock(stage, job)
    log.info("%s ...", name)
    stage.work(job, resumable)
    folder.finish(name, mark, clock.seconds, inputs=inputs, measured=clock.measured())
    log.info("%s: done in %.0f s", name, clock.seconds)
    return True


def _exist(paths: Sequence[Path]) -> bool:
    """Whether all files and folders exist; lists each folder once, as there are many photos."""
    names = {
        folder: {each.name for each in folder.iterdir()} if folder.is_dir() else set()
        for folder in {path.parent for path in paths}
    }
    return all(path.name in names[path.parent] for path in paths)


def _record_place(job: Job) -> None:
    """Let later verbs find a data set that has been moved, also if nothing had to run."""
    stored = job.folder.read_config()
    if stored.data != job.config.data:
        stored.data = job.config.data
        on_first(job.folder.write_config)(stored, runs=False)


def _check_needs(stage: Stage, job: Job) -> None:
    for need in stage.needs(job.config):
        if job.folder.fingerprint_of(need) is None:
            raise DscnetError(
                f"'{stage.name}' needs the results of '{need}', which {job.folder.root} does not"
                f" contain: run `dscnet {need} --out {shlex.quote(str(job.folder.root))}` first"
            )


def _downstream(name: str, config: Config) -> set[str]:
    """Stages that are out of date once ``name`` has run again."""
    stale = {name}
    for stage in list_stages():
        if stale & {*stage.needs(config), *stage.reads}:
            stale.add(stage.name)
    return stale - {name}


def check_run_folder(job: Job, *, force: bool) -> None:
    """Refuse a run folder that is the data set, or that would be deleted with photos in it.

    Raises:
        DscnetError: With the folder.
    """
    root = job.folder.root.resolve()
    if root == Path(job.config.data).resolve():
        raise DscnetError(f"{root} is the data set: choose another folder for the run")
    if not force:
        return
    inside = [s.image_path for s in job.train.samples if root in s.image_path.resolve().parents]
    if inside:
        raise DscnetError(f"{root}: --force would delete photos of the data set, e.g. {inside[0]}")
