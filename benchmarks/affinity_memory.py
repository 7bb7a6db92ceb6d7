"""Measure memory and time of AuxSegNet's training step with affinities in blocks and as a whole.

Each row is measured in a separate process: peak resident memory (on a GPU, torch's peak allocation)
and CPU seconds of the fastest step. Writes one JSON.

python benchmarks/affinity_memory.py --json benchmarks/results/affinity_memory.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dscnet.build import build_model, build_objective
from dscnet.config import AuxSegConfig, Config, MethodConfig, ModelConfig
from dscnet.objective import AuxSegObjective
from dscnet.run_folder import environment, write_text
from dscnet.types import Batch

WHOLE = 1 << 30
"""More rows than any photo has: affinities are computed at once and stored for the gradient."""

GIB = 1 << 30


def main() -> None:
    """Measure blocks and whole affinities, one row each; ``--rows`` measures a single one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--stride", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--num-classes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rows", type=int, help="measure in this process, print the row")
    options = parser.parse_args()
    if options.rows is not None:
        print(json.dumps(measure(options)))
        return
    shared = [word for word in sys.argv[1:] if word != "--json" and word != str(options.json)]
    rows = []
    for number in (AuxSegConfig().affinity_rows, WHOLE):
        command = [sys.executable, __file__, *shared, "--rows", str(number)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1])
    content = {
        "command": " ".join(["python benchmarks/affinity_memory.py", *shared]),
        "environment": environment(0),
        "memory": rows,
    }
    if options.json is not None:
        write_text(options.json, json.dumps(content, indent=1) + "\n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory and time of one setting."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Config(
        model=ModelConfig(
            "auxsegnet", options.backbone, options.stride, weights="none", frozen_stages=0
        ),
        auxseg=AuxSegConfig(affinity_rows=options.rows),
        method=MethodConfig(variant="baseline"),
    )
    model = build_model(config, options.num_classes, pretrained=False).to(device).train()
    objective = AuxSegObjective(build_objective(config.method, options.num_classes + 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    batch = random_batch(options.batch, options.crop, options.num_classes).to(device)
    before, seconds = peak(device), []
    for _ in range(options.steps):
        started = time.process_time()
        optimizer.zero_grad()
        objective(model(batch.image, batch.tags), batch, 1.0).total.backward()
        optimizer.step()
        seconds.append(time.process_time() - started)
    return {
        "backbone": options.backbone,
        "crop": options.crop,
        "output_stride": options.stride,
        "batch": options.batch,
        "rows": "whole" if options.rows == WHOLE else options.rows,
        "pixels": model(batch.image[:1]).features.shape[-1] ** 2,
        "peak_gib": round(peak(device) / GIB, 2),
        "before_the_first_step_gib": round(before / GIB, 2),
        "cpu_seconds_a_step": round(min(seconds), 1),
    }


def peak(device: torch.device) -> int:
    """Peak bytes so far: of the process, or of torch's allocations on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kibibytes on Linux


def random_batch(size: int, crop: int, num_classes: int) -> Batch:
    """Noise photos; the content does not affect memory."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 3, crop, crop, generator=generator)
    return Batch(
        image.contiguous(memory_format=torch.channels_last),
        torch.eye(num_classes)[:size],
        [str(row) for row in range(size)],
        torch.randint(0, num_classes + 1, (size, crop, crop), generator=generator),
        torch.rand(size, 1, crop, crop, generator=generator),
    )


if __name__ == "__main__":
    main()
