"""Finished trainings are not trained over: what differs is named, and the user decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dscnet.pipeline.job import Job
from dscnet.pipeline.stage import Inputs, Stage, Trained
from dscnet.run_folder import fingerprint
from dscnet.types import DscnetError

SHOWN = 5
"""Differences that a message names."""


def plan(job: Job, stages: Iterable[Stage]) -> Job:
    """The job as its later stages will see it once the stages have run, each in its turn."""
    for stage in stages:
        job = replace(job, planned={**job.planned, stage.name: stage.fingerprint(job)})
    return job


def refuse_losses(job: Job, stages: Sequence[Stage]) -> None:
    """Refuse to run stages that would train over a training of other settings, photos or code.

    Raises:
        DscnetError: The message names the training and what differs, and says what to do.
    """
    for stage in stages:
        planned = plan(job, stages[: stages.index(stage)])
        trainings = list(stage.trained(planned))
        wanted = {fingerprint(training.inputs) for training in trainings}
        wanted.add(stage.fingerprint(planned))
        for training in trainings:
            record = training.folder.record_of(training.record)
            mark = record.get("fingerprint") or record.get("started")
            if mark not in wanted and _has_work(training, record):
                raise DscnetError(_refusal(planned, stages, stage, training, record))


def _has_work(training: Trained, record: Mapping[str, Any]) -> bool:
    finished = bool(record.get("fingerprint")) or not record
    return (finished and training.weights.exists()) or training.checkpoint.exists()


def _refusal(
    job: Job, stages: Sequence[Stage], stage: Stage, training: Trained, record: Mapping[str, Any]
) -> str:
    known = record.get("inputs")
    found = (
        list(differences(job, stages, known, training.inputs))
        if known
        else ["an earlier version of dscnet trained it, which did not record its inputs"]
    )
    shown = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if found[SHOWN:] else "")
    state = "finished" if record.get("fingerprint") or not record else "interrupted"
    root = job.folder.root
    again = "deletes the run and trains again" if stage.name == "train" else "trains again"
    later = " Stages after it use it as it is, each by its own verb." if state == "finished" else ""
    return (
        f"{root} holds a {state} training of {training.name}, which would be lost: {shown}."
        " Choose another --out, or restore what differs;"
        f" `dscnet {stage.name} --out {root} --force` {again}.{later}"
    )


def differences(
    job: Job, stages: Sequence[Stage], before: Mapping[str, Any], now: Inputs
) -> Iterator[str]:
    """What differs between recorded inputs and those of today, in words.

    Args:
        job: The run, as planned.
        stages: That are to run; one whose files will differ is looked into.
        before: The recorded inputs.
        now: Those of today.
    """
    yield from _changed("", before.get("settings", {}), now["settings"])
    for name, mark in now["photos"].items():
        if before.get("photos", {}).get(name) != mark:
            yield f"the {name} photos, or their tags or masks, have changed"
    for name, mark in now["stages"].items():
        if before.get("stages", {}).get(name) != mark:
            yield from _of_stage(job, stages, name)
    code, code_now = before.get("code", {}), now["code"]
    if changed := [name for name in {**code, **code_now} if code.get(name) != code_now.get(name)]:
        yield f"the code of {', '.join(sorted(changed))} has changed"


def _of_stage(job: Job, stages: Sequence[Stage], name: str) -> Iterator[str]:
    """Why a stage before it makes other files."""
    stage = next((stage for stage in stages if stage.name == name), None)
    before = job.folder.record_of(name).get("inputs")
    if stage is None or before is None:
        yield f"it was trained on other files of '{name}'"
        return
    found = list(differences(job, stages, before, stage.inputs(job)))
    yield f"'{name}' makes other files: {'; '.join(found) or 'it ran again'}"


def _changed(prefix: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old != new:
            yield f"{prefix}{name} was {old}, is {new}"
