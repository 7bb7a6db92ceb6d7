"""Sweeps and tables on a cluster: each part is a job of its scheduler, by submitit."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dscnet.types import DscnetError

log = logging.getLogger("dscnet")


def run_parts(arguments: Sequence[str], options: Mapping[str, Any]) -> int:
    """:func:`run_on_cluster` with the parsed options of ``dscnet sweep`` or ``tables``."""
    return run_on_cluster(
        arguments,
        Path(options["out"]),
        cluster=options["cluster"],
        jobs=options["cluster_jobs"],
        options=read_options(options["cluster_options"]),
    )


def run_on_cluster(
    arguments: Sequence[str],
    out: Path,
    *,
    cluster: str,
    jobs: int,
    options: Mapping[str, Any],
) -> int:
    """Submit the parts of a sweep or table as an array of jobs, and wait for them.

    Args:
        arguments: Command line of ``dscnet sweep`` or ``tables``, without the program's name.
        out: Folder of the runs; messages of the jobs go to its subfolder ``cluster``.
        cluster: ``slurm``, or ``local`` for processes of this machine.
        jobs: Number of parts, each a job.
        options: Parameters of ``submitit.AutoExecutor``, e.g. ``{"slurm_partition": "gpu"}``.

    Returns:
        Number of failed jobs; the others are finished.

    Raises:
        ValueError: If ``jobs`` is below 1, or an option does not exist.
        DscnetError: If submitit is missing, or the scheduler refuses.
    """
    if jobs < 1:
        raise ValueError(f"cluster_jobs must be at least 1, got {jobs}")
    try:
        import submitit
        from submitit.helpers import CommandFunction
    except ImportError as error:
        raise DscnetError("submitit is missing: pip install 'dscnet[cluster]'") from error
    command = [sys.executable, "-m", "dscnet", *arguments, "--cluster", "none", "--shard"]
    parts = [
        CommandFunction([*command, f"{index}/{jobs}"], cwd=os.getcwd())
        for index in range(1, jobs + 1)
    ]
    logs = out / "cluster"
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**{"name": "dscnet", **options})
        with executor.batch():
            submitted = [executor.submit(part) for part in parts]
    except (NameError, AssertionError) as error:
        raise ValueError(f"cluster_options: {error}") from error
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise DscnetError(f"{cluster}: no jobs submitted: {error}") from error
    log.info("%d jobs submitted; their messages: %s", jobs, logs)
    return sum(_has_failed(job) for job in submitted)


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Options of the executor from words ``NAME=VALUE``.

    Raises:
        ValueError: If a word has another form.
    """
    if wrong := [word for word in words if "=" not in word]:
        raise ValueError(f"cluster_options must be NAME=VALUE, got {wrong[0]}")
    pairs = (word.split("=", 1) for word in words)
    return {name: yaml.safe_load(value) for name, value in pairs}


def _has_failed(job: Any) -> bool:
    """Wait for a job; if it failed, log where its messages are."""
    failed = job.exception() is not None
    if failed:
        log.error("job %s failed; its messages: %s", job.job_id, job.paths.stderr)
    return failed
