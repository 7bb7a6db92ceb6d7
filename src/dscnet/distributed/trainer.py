"""How Lightning's trainer uses the ranks of a run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy

from dscnet.distributed.ranks import local_size, world_size

DDP_OPTIONS: dict[str, Any] = {
    # The contrast's layers have no gradient before the end of its warm-up.
    "find_unused_parameters": True,
    # Every rank computes the same: the memory bank, running statistics.
    "broadcast_buffers": False,
    "gradient_as_bucket_view": True,
}
"""Arguments of torch's ``DistributedDataParallel``."""


def ranks_of_trainer() -> dict[str, Any]:
    """Arguments of Lightning's ``Trainer`` for the ranks of this run."""
    if world_size() == 1:
        return {"devices": 1}
    return {
        "devices": local_size(),
        "num_nodes": world_size() // local_size(),
        "strategy": DDPStrategy(**DDP_OPTIONS),
        # The loaders give each rank its part of every batch.
        "use_distributed_sampler": False,
    }
