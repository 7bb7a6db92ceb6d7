"""Count the operations of a training step that a GPU would run as kernels, without a GPU.

python benchmarks/kernels.py
python benchmarks/versus.py --old CHECKOUT --pairs 1 --metric SEAM --metric M4 \\
    --json benchmarks/results/versus_kernels.json -- $PWD/benchmarks/kernels.py

Each kernel has a cost of its own however little it computes, which is what small networks wait for
on a GPU. Counted are PyTorch's innermost operations of forward, losses and backward; those that
only change how a tensor is seen are left out, and so are our ways round slow CPU kernels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from dscnet.config import Config
from dscnet.tables.step_time import random_batch, training_step

try:
    from dscnet.config.recipes import find_recipe
    from dscnet.config.settings import from_dict, replace_settings
    from dscnet.models import convolutions
except ImportError:  # before these modules were moved
    from dscnet.recipes import find_recipe  # type: ignore[import-not-found, no-redef]
    from dscnet.settings import (  # type: ignore[import-not-found, no-redef]
        from_dict,
        replace_settings,
    )

    convolutions = None  # type: ignore[assignment]

CLASSES = 17
VARIANTS = {"SEAM": "baseline", "M4": "M4"}
VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        *("alias", "as_strided", "broadcast_tensors", "chunk", "detach", "diagonal", "expand"),
        *("expand_as", "flatten", "item", "is_nonzero", "movedim", "narrow", "permute", "reshape"),
        *("select", "slice", "split", "squeeze", "t", "transpose", "unbind", "unflatten", "unfold"),
        *("unsqueeze", "view", "view_as", "_unsafe_view", "_reshape_alias", "lift_fresh"),
        *("empty", "empty_like", "empty_strided", "resize_", "set_", "result_type", "to"),
        *("_local_scalar_dense", "resolve_conj", "resolve_neg", "contiguous", "numpy_T", "mT"),
        *("swapaxes", "split_with_sizes", "unsafe_split", "unsafe_chunk", "real", "data"),
    )
)


def main() -> None:
    """Print the counts as JSON."""
    if convolutions is not None:
        convolutions.has_fast_gradients = lambda image: False
        convolutions.folding_saves_time = lambda image: False
    recipe = from_dict(Config, yaml.safe_load(find_recipe("msrc_seam_dscnet").read_text()))
    recipe = replace_settings(recipe, {"train.accelerator": "cpu"})
    batch = random_batch(recipe, CLASSES)
    counts = {}
    for name, variant in VARIANTS.items():
        config = replace_settings(recipe, {"method.variant": variant})
        counts[name] = operations(training_step(config, batch, CLASSES))
    print(json.dumps(counts))


def operations(step: Callable[[], object]) -> int:
    """Number of innermost operations of a step, after one to warm up."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return sum(_computes(event) for event in profiler.events() or ())


def _computes(event: Any) -> bool:
    inner = any(child.name.startswith("aten::") for child in event.cpu_children)
    return event.name.startswith("aten::") and event.name not in VIEWS and not inner


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
