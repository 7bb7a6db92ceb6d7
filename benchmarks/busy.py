"""Time a training step alone and beside other work, by how long threads spin at barriers.

python benchmarks/busy.py --json benchmarks/results/busy.json

OpenMP reads its environment once, so each measurement is a process of its own. They take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from versus import busy_cores

WAYS = {
    "spinning": {},  # OpenMP's default
    "spinning briefly": {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"},  # dscnet's
    "sleeping": {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def main() -> None:
    """Median step time of each way, quiet and beside busy processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="processes that spin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="per round, after one warm-up step")
    parser.add_argument("--config", default="demo")
    parser.add_argument("--num-classes", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.config, options.num_classes, options.steps)))
        return
    seconds: dict[str, dict[str, list[float]]] = {way: {"quiet": [], "busy": []} for way in WAYS}
    for _ in range(options.rounds):
        for way, variables in WAYS.items():
            for state, spinning in (("quiet", 0), ("busy", options.busy)):
                with busy_cores(spinning):
                    seconds[way][state] += measured_apart(variables)
    rows = {way: summary(states) for way, states in seconds.items()}
    for way, row in rows.items():
        print(
            f"{way:16} quiet {row['quiet']:6.2f} s, busy {row['busy']:6.2f} s: {row['ratio']:.1f}"
        )
    if options.json is not None:
        write(options, rows, seconds)


def measured_apart(variables: dict[str, str]) -> list[float]:
    """Seconds of each step in a new process with these environment variables."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, __file__, "--measure", *sys.argv[1:]]
    done = subprocess.run(
        command, env=inherited | variables, check=True, stdout=subprocess.PIPE, text=True
    )
    steps: list[float] = json.loads(done.stdout.splitlines()[-1])
    return steps


def measure(name: str, num_classes: int, steps: int) -> list[float]:
    """Seconds of each training step of a recipe's network on random photos."""
    import yaml

    from dscnet.config import Config
    from dscnet.config.recipes import find_recipe
    from dscnet.config.settings import from_dict
    from dscnet.tables.step_time import random_batch, training_step

    config = from_dict(Config, yaml.safe_load(find_recipe(name).read_text(encoding="utf-8")))
    step = training_step(config, random_batch(config, num_classes), num_classes)
    step()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(round(time.perf_counter() - started, 4))
    return seconds


def summary(states: dict[str, list[float]]) -> dict[str, float]:
    """Median seconds of a step, quiet and busy, and how many times longer busy is."""
    quiet, busy = (statistics.median(states[state]) for state in ("quiet", "busy"))
    return {"quiet": round(quiet, 4), "busy": round(busy, 4), "ratio": round(busy / quiet, 2)}


def write(options: argparse.Namespace, rows: Any, seconds: Any) -> None:
    """Write the results with the machine."""
    from dscnet.run_folder import environment, write_text

    content = {
        "command": "python benchmarks/busy.py",
        **{name: getattr(options, name) for name in ("config", "busy", "rounds", "steps")},
        "environment": environment(0),
        "median_seconds": rows,
        "seconds": seconds,
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
