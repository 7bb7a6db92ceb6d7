"""Protects trainings from being overwritten: reports what differs and lets the user decide."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dscnet.config import Config
from dscnet.config.settings import dotted_settings, to_dict
from dscnet.pipeline.job import Job
from dscnet.pipeline.stage import Inputs, Stage, Trained
from dscnet.run_folder import fingerprint
from dscnet.types import DscnetError

SHOWN = 5
"""Maximum number of differences listed in a message."""


def plan(job: Job, stages: Iterable[Stage]) -> Job:
    """The job as later stages will see it once these stages have run in order."""
    for stage in stages:
        job = replace(job, planned={**job.planned, stage.name: stage.fingerprint(job)})
    return job


def refuse_overwriting(job: Job, stages: Sequence[Stage]) -> None:
    """Refuse stages that would overwrite a training with different settings, photos or code.

    Raises:
        DscnetError: With the training, the differences and the remedy.
    """
    for stage in stages:
        planned = plan(job, stages[: stages.index(stage)])
        trainings = list(stage.trained(planned))
        expected = {fingerprint(training.inputs) for training in trainings}
        expected.add(stage.fingerprint(planned))
        for training in trainings:
            record = training.folder.record_of(training.record)
            mark = record.get("fingerprint") or record.get("started")
            if mark not in expected and training.has_results():
                raise DscnetError(_refusal(planned, stages, stage, training, record))


def _refusal(
    job: Job, stages: Sequence[Stage], stage: Stage, training: Trained, record: Mapping[str, Any]
) -> str:
    known = record.get("inputs")
    found = (
        list(differences(job, stages, known, training.inputs))
        if known
        else ["it was trained by an earlier version of dscnet, which did not record its inputs"]
    )
    shown = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if found[SHOWN:] else "")
    finished = bool(record.get("fingerprint")) or not record
    state = "a finished" if finished else "an interrupted"
    root = job.folder.root
    later = " The verbs of later stages use it as it is." if finished else ""
    return (
        f"{root} contains {state} training of {training.name}, which would be overwritten:"
        f" {shown}. Choose another --out, or undo the changes. To train again, run"
        f" {_commands(job, stages, stage)}.{later}"
    )


def _commands(job: Job, stages: Sequence[Stage], stage: Stage) -> str:
    """The commands that bring a stage up to date, in their order; the last one trains."""
    options = shlex.join(["--out", str(job.folder.root), *_changed_options(job)])
    if stage.name == "train":
        return f"`dscnet train {options} --force`, which deletes the run first"
    before = [
        f"`dscnet {one.name} {options}`"
        for one in stages[: stages.index(stage)]
        if job.folder.fingerprint_of(one.name) != job.planned.get(one.name)
    ]
    return ", then ".join([*before, f"`dscnet {stage.name} {options} --force`"])


def _changed_options(job: Job) -> Iterator[str]:
    """The settings that differ from those stored in the run folder, as options."""
    stored = job.folder.read_config() if job.folder.config.exists() else Config()
    before = _by_option(stored)
    for name, value in _by_option(job.config).items():
        if value != before.get(name):
            yield f"--{name}"
            yield value if isinstance(value, str) else json.dumps(value)


def _by_option(config: Config) -> dict[str, Any]:
    """Settings by their option of the command line; those of plugins share one."""
    values = to_dict(config)
    extensions = values.pop("extensions")
    return {**dotted_settings(values), "extensions": extensions}


def differences(
    job: Job, stages: Sequence[Stage], before: Mapping[str, Any], now: Inputs
) -> Iterator[str]:
    """Describe the differences between recorded and current inputs.

    Args:
        job: The run, as planned.
        stages: Stages that are to run; their own inputs are compared too.
        before: Recorded inputs.
        now: Current inputs.
    """
    yield from _changed(before.get("settings", {}), now["settings"])
    for name, mark in now["photos"].items():
        if before.get("photos", {}).get(name) != mark:
            yield f"the {name} photos, their tags or their masks have changed"
    for name, mark in now["stages"].items():
        if before.get("stages", {}).get(name) != mark:
            yield from _of_stage(job, stages, name)
    code, code_now = before.get("code", {}), now["code"]
    if changed := [name for name in {**code, **code_now} if code.get(name) != code_now.get(name)]:
        yield f"the code of {', '.join(sorted(changed))} has changed"


def _of_stage(job: Job, stages: Sequence[Stage], name: str) -> Iterator[str]:
    """Why an earlier stage gives different results."""
    stage = next((stage for stage in stages if stage.name == name), None)
    before = job.folder.record_of(name).get("inputs")
    if stage is None or before is None:
        yield f"it was trained on different results of '{name}'"
        return
    found = list(differences(job, stages, before, stage.inputs(job)))
    yield f"'{name}' gives different results: {'; '.join(found) or 'it ran again'}"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    # Settings that only one of them reads follow from another one, such as the refinement steps.
    shared = [name for name in differing if name in before and name in now]
    for name in shared or differing:
        yield f"{name} was {before.get(name)}, is now {now.get(name)}"
