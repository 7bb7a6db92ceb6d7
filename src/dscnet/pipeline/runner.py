"""The stages, wired: train -> cam -> refine -> label -> segment -> evaluate -> report.

Stages talk through the files of a run folder. A stage whose inputs, settings and code are unchanged
is not run again; an interrupted training goes on from its last epoch.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dscnet.config import Config, MethodConfig, SegmentConfig
from dscnet.config.settings import replace_settings
from dscnet.data import available_splits, open_dataset
from dscnet.metrics import evaluation
from dscnet.pipeline import cam_network as work
from dscnet.pipeline import evaluate as measuring
from dscnet.pipeline import label as labelling
from dscnet.pipeline.checks import (
    check_networks,
    check_photos,
    check_place,
    check_settings,
    check_trainings,
)
from dscnet.pipeline.dependencies import (
    label_needs,
    label_settings,
    learning_settings,
    refine_needs,
    refine_settings,
    round_settings,
    scored_by_saliency,
    segment_needs,
    segment_settings,
)
from dscnet.pipeline.job import Job, data_fingerprint, located
from dscnet.pipeline.learned_refinement import learned_steps
from dscnet.pipeline.needs import check_machine
from dscnet.pipeline.rounds import measure_rounds, train_rounds, write_round_masks
from dscnet.pipeline.segment import measure_segmenters, train_segmenters, write_masks
from dscnet.run_folder import RunFolder, fingerprint, fresh_folder
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")


def open_run(config: Config, folder: RunFolder, *, progress: bool = True) -> Job:
    """Open the run's photos; a data set without a validation split has ``val=None``."""
    check_networks(config)
    if not config.data:
        raise DataError("no data set was named: --data FOLDER")
    config = located(config)
    splits = available_splits(config.data)
    train = open_dataset(config.data, config.train_split)
    if splits and config.val_split not in (*splits, Config.val_split):
        raise DataError(f"val_split: no split '{config.val_split}' among {', '.join(splits)}")
    val = open_dataset(config.data, config.val_split) if config.val_split in splits else None
    job = Job(config, folder, train, val, progress)
    check_settings(job)
    return job


def run(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    stages: Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """All stages, from photos and tags to masks, numbers and a report.

    Args:
        config: Settings; ``config.data`` names the data set.
        out: Run folder.
        resume: Go on in a folder that holds a run.
        force: Delete what the folder holds and start anew.
        stages: Names of the stages to run, in their order; None = all.
        progress: Show progress bars.

    Returns:
        What ``metrics.json`` holds; empty if what is there now was not evaluated.

    Raises:
        DscnetError: For data or settings that cannot work, before anything is trained.
    """
    names = list(STAGES) if stages is None else list(stages)
    if unknown := [name for name in names if name not in STAGES]:
        raise ValueError(f"stages must be among {', '.join(STAGES)}, got {', '.join(unknown)}")
    folder = RunFolder(Path(out))
    job = open_run(config, folder, progress=progress)
    config = job.config
    # Before photos, which take longer.
    check_trainings(job, _to_train(job, names, force=force))
    if force or not (resume and folder.fingerprint_of("train")):
        check_photos(job)
        check_machine(job)
    check_place(job, force=force)
    folder.create(resume=resume, force=force)
    folder.write_config(config)
    for name in names:
        run_stage(name, job)
    return evaluation.read_metrics(folder.metrics) if folder.fingerprint_of("evaluate") else {}


def run_single(
    name: str,
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> bool:
    """One stage alone, in a run folder that may hold what the stages before it made.

    With ``force`` it runs even if its files are up to date, and ``train`` deletes the run first.

    Returns:
        Whether it ran; False when its files are up to date.
    """
    folder = RunFolder(Path(out))
    job = open_run(config, folder, progress=progress)
    check_place(job, force=force)
    _check_needs(name, job)
    check_trainings(job, _to_train(job, [name], force=force))
    if name == "train":
        check_photos(job)
        check_machine(job)
        folder.create(resume=resume, force=force)
    else:
        folder.create(resume=True)
    folder.write_config(job.config)
    return run_stage(name, job, again=force)


def _to_train(job: Job, names: Sequence[str], *, force: bool) -> list[str]:
    """Which of these stages are to train a network, as far as that can be told beforehand."""
    return [
        name
        for name in names
        if name in ("train", "segment")
        and (force or not job.folder.is_done(name, stage_fingerprint(name, job)))
    ]


def run_stage(name: str, job: Job, *, again: bool = False) -> bool:
    """Run one stage unless its inputs, settings and code are those it finished with.

    Args:
        name: The stage.
        job: The run.
        again: Run it even so.

    Returns:
        Whether it ran.
    """
    stage, folder = STAGES[name], job.folder
    _check_needs(name, job)
    mark = stage_fingerprint(name, job)
    done = folder.is_done(name, mark)
    if done and not again and all(path.exists() for path in stage.makes(job)):
        log.info("%s: up to date", name)
        return False
    # Files that were lost come out as they were: what was made of them stays.
    stale = set() if done else _downstream(name, job.config)
    if "evaluate" in stale:
        # Numbers of files that are about to be others.
        folder.metrics.unlink(missing_ok=True)
        folder.report.unlink(missing_ok=True)
    resumable = folder.start(name, mark, stale=stale)
    started = time.monotonic()
    log.info("%s ...", name)
    stage.work(job, resumable)
    folder.finish(name, mark, time.monotonic() - started)
    log.info("%s: done in %.0f s", name, time.monotonic() - started)
    return True


def _check_needs(name: str, job: Job) -> None:
    for need in STAGES[name].needs(job.config):
        if job.folder.fingerprint_of(need) is None:
            raise DscnetError(
                f"'{name}' needs what '{need}' makes, and {job.folder.root} does not hold it:"
                f" run `dscnet {need}` first"
            )


def stage_fingerprint(name: str, job: Job) -> str:
    """A hash of the photos, settings, code and files of earlier stages that a stage depends on."""
    stage, folder, config = STAGES[name], job.folder, job.config
    return fingerprint(
        name,
        config.seed,
        [
            data_fingerprint(photos, masks=stage.masks(config), saliency=stage.saliency(config))
            for photos in (job.train, job.val)
        ],
        stage.settings(config),
        [folder.fingerprint_of(need) for need in (*stage.needs(config), *stage.reads)],
        code=stage.code,
    )


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline and what decides whether it must run again.

    Attributes:
        work: Does it; its second argument says whether an interrupted try may be continued.
        needs: Stages whose files it reads, given the settings.
        settings: The settings that change what it makes.
        code: Modules and rooms that change what it makes.
        makes: Files and folders without which it must run again, whatever its mark says.
        reads: Stages whose files it reads where there are any.
        masks: Whether it reads the true masks, given the settings.
        saliency: Whether it reads the saliency maps, given the settings.
    """

    work: Callable[[Job, bool], None]
    needs: Callable[[Config], tuple[str, ...]]
    settings: Callable[[Config], Any]
    code: tuple[str, ...]
    makes: Callable[[Job], tuple[Path, ...]]
    reads: tuple[str, ...] = ()
    masks: Callable[[Config], bool] = lambda config: False
    saliency: Callable[[Config], bool] = lambda config: False


def _downstream(name: str, config: Config) -> set[str]:
    """Stages whose files are out of date once ``name`` has run again."""
    stale = {name}
    for other, stage in STAGES.items():
        if stale & {*stage.needs(config), *stage.reads}:
            stale.add(other)
    return stale - {name}


def _learned(config: Config) -> MethodConfig:
    # The likeness is taken after training, except between rounds.
    method = config.method
    return method if config.has_rounds else replace(method, likeness=MethodConfig.likeness)


def _train(job: Job, resume: bool) -> None:
    if job.config.has_rounds:
        train_rounds(job, _round_fingerprint(job))
    else:
        work.train(job, resume)


def _round_fingerprint(job: Job) -> str:
    # A round is the same however many follow it.
    first = replace(job, config=replace_settings(job.config, {"auxseg.rounds": 1}))
    return stage_fingerprint("train", first)


def _cam(job: Job, resume: bool) -> None:
    last = job.folder.round(job.config.auxseg.rounds)
    if job.config.has_rounds and last.is_done("round", _round_fingerprint(job)):
        # The last round has made them, of the same network with the same settings.
        fresh_folder(job.folder.cams)
        shutil.copytree(last.cams, job.folder.cams, dirs_exist_ok=True)
    else:
        work.cam(job, resume)


def _refine(job: Job, resume: bool) -> None:
    labelling.refine(job, learned_steps(job, resume))


def _segment(job: Job, resume: bool) -> None:
    # The trainings have marks of their own, so that other ways of testing write masks without them.
    if job.config.has_rounds:
        write_round_masks(job)
    if job.config.own_branch:
        return
    train_segmenters(job, partial(_segmenter_fingerprint, job))
    write_masks(job)


def _segmenter_fingerprint(job: Job, index: int) -> str:
    # How it is tested makes no difference to a round, but for the sizes that make its labels.
    test, untested = SegmentConfig(), ["crf", "branch_scores"]
    if index == 1:
        untested += ["test_scales", "flip_test"]
    neutral = {name: getattr(test, name) for name in untested}
    segment = replace(job.config.segment, rounds=index, **neutral)
    return stage_fingerprint("segment", replace(job, config=replace(job.config, segment=segment)))


def _evaluate(job: Job, resume: bool) -> None:
    sections = measuring.measure(job)
    if job.config.has_rounds and job.folder.fingerprint_of("train"):
        sections["rounds"] = measure_rounds(job)
    elif job.config.segment.rounds > 1 and job.folder.fingerprint_of("segment"):
        sections["rounds"] = measure_segmenters(job)
    evaluation.write_metrics(job.folder.metrics, sections)


STAGES: dict[str, Stage] = {
    "train": Stage(
        _train,
        lambda config: (),
        lambda config: [
            *learning_settings(config),
            asdict(_learned(config)),
            asdict(config.train),
            round_settings(config),
        ],
        (
            *("data", "models", "context", "losses", "objective.py", "training.py", "build.py"),
            *(
                "pipeline/cam_network.py",
                "pipeline/tag_validation.py",
                "labels/cam.py",
                "labels/thresholds.py",
            ),
        ),
        lambda job: (job.folder.weights, job.folder.tag_scores),
        saliency=lambda config: config.needs_saliency,
    ),
    "cam": Stage(
        _cam,
        lambda config: ("train",),
        lambda config: [asdict(config.cam), config.method.likeness],
        (
            *("data", "models", "context", "labels/cam.py", "labels/cam_files.py", "build.py"),
            "pipeline/cam_network.py",
        ),
        lambda job: (job.folder.cams,),
    ),
    "refine": Stage(
        _refine,
        lambda config: refine_needs(config) if config.refine.steps else (),
        refine_settings,
        ("data", "models", "labels", "build.py", "pipeline/label.py"),
        lambda job: (job.folder.refined,) if job.config.refine.steps else (),
        saliency=scored_by_saliency,
    ),
    "label": Stage(
        labelling.label,
        label_needs,
        label_settings,
        ("labels/pseudo_label.py", "labels/thresholds.py", "refine/steps.py", "pipeline/label.py"),
        lambda job: (job.folder.labels, job.folder.threshold),
        saliency=scored_by_saliency,
    ),
    "segment": Stage(
        _segment,
        segment_needs,
        lambda config: [
            *learning_settings(config),
            asdict(config.segment),
            segment_settings(config),
        ],
        (
            *("data", "models", "training.py", "predictor.py", "objective.py", "build.py"),
            *(
                "refine/crf.py",
                "refine/permutohedral.py",
                "pipeline/segment.py",
                "pipeline/cam_network.py",
            ),
        ),
        lambda job: () if job.config.own_branch else (job.folder.segmenter_weights,),
        masks=lambda config: config.segment.supervision == "full",
    ),
    "evaluate": Stage(
        _evaluate,
        lambda config: (),
        lambda config: [asdict(config.refine), asdict(config.label), asdict(config.segment)],
        (
            *(
                "metrics/evaluation.py",
                "metrics/confusion.py",
                "metrics/tag_agreement.py",
                "pipeline/evaluate.py",
                "labels",
            ),
            *("pipeline/label.py", "pipeline/rounds.py", "pipeline/segment.py"),
        ),
        lambda job: (job.folder.metrics,),
        reads=("train", "cam", "refine", "label", "segment"),
        masks=lambda config: True,
        saliency=scored_by_saliency,
    ),
    "report": Stage(
        measuring.report,
        lambda config: ("evaluate",),
        lambda config: None,
        ("report/page.py", "pipeline/report.py", "report/overlay.py", "templates/report.html.j2"),
        lambda job: (job.folder.report,),
        masks=lambda config: True,
    ),
}
