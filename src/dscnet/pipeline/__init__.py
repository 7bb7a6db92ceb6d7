"""The stages of a run, wired together through the files of its folder."""

from __future__ import annotations

from dscnet.pipeline.runner import run, run_single

__all__ = ["run", "run_single"]
