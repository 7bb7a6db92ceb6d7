"""Several processes (ranks) that work on one run, on one or more machines."""

from __future__ import annotations

from dscnet.distributed.batch import (
    batch_max,
    batch_mean,
    draw_rows,
    gather,
    own_rows,
    shared_batch,
)
from dscnet.distributed.ranks import (
    barrier,
    gather_objects,
    gather_parts,
    join,
    local_size,
    on_first,
    own_part,
    rank,
    share,
    sum_over_ranks,
    world_size,
)

__all__ = [
    "barrier",
    "batch_max",
    "batch_mean",
    "draw_rows",
    "gather",
    "gather_objects",
    "gather_parts",
    "join",
    "local_size",
    "on_first",
    "own_part",
    "own_rows",
    "rank",
    "share",
    "shared_batch",
    "sum_over_ranks",
    "world_size",
]
