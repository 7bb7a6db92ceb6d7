"""The option ``--shard`` of ``sweep`` and ``tables``."""

from __future__ import annotations

import re

SHARD = re.compile(r"\d+/\d+")


def shard_problem(text: str) -> str | None:
    """Error message for a shard; None if it has the right form."""
    return None if SHARD.fullmatch(text) else f"--shard must be I/N, e.g. 1/4, got {text}"


def read_shard(text: str) -> tuple[int, int]:
    """Index from 1, and number of parts."""
    index, count = text.split("/")
    return int(index), int(count)
