"""How time and memory grow with photos, classes, pixels and ranks, each point in its own process.

python benchmarks/cost_curves.py measure [--only photos classes ...] (adds to the JSON)
python benchmarks/cost_curves.py page (writes the table of docs/scale.md, and the plot)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from page_markdown import row_of, table_head

from dscnet.run_folder import environment, write_text

REPOSITORY = Path(__file__).resolve().parents[1]
JSON = REPOSITORY / "benchmarks" / "results" / "cost_curves.json"
PAGE, PLOT = REPOSITORY / "docs" / "scale.md", REPOSITORY / "docs" / "cost_curves.png"
START, END = "<!-- cost curves -->", "<!-- /cost curves -->"

CURVES = {
    "photos": ("open a data set of 254 classes, photos", (100, 1_000, 10_000, 100_000, 1_000_000)),
    "classes": ("read 100,000 rows of a tag file, classes", (1, 10, 100, 1_000)),
    "pixels": ("a training step, side in pixels", (64, 128, 192, 256)),
    "heads": ("a training step at 128 pixels, classes", (1, 10, 100, 1_000)),
    "ranks": ("a training step of the first rank at 128 pixels, ranks", (1, 2)),
}
"""What each curve measures, and its points."""

RECIPE = "msrc_seam_dscnet"
BATCH = 4


def write_set(folder: Path, photos: int, classes: int, *, files: bool) -> None:
    """Write a data set with one to three tags a row; its photos are links to one empty file."""
    rng, names = random.Random(0), [f"class{index:03d}" for index in range(classes)]
    (folder / "images").mkdir(parents=True)
    with (folder / "tags.csv").open("w") as file:
        file.write("image_id,labels\n")
        for index in range(photos):
            tags = rng.sample(names, min(classes, 1 + index % 3))
            file.write(f"photo_{index:07d},{' '.join(tags)}\n")
    first = folder / "photo"
    first.touch()
    for index in range(photos if files else 0):
        if index % 50_000 == 0:  # file systems limit the links to a file
            first = folder / f"photo{index}"
            first.touch()
        os.link(first, folder / "images" / f"photo_{index:07d}.jpg")


def timed(work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds and peak memory of this process, and the memory before."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    before, started = peak(), time.process_time()
    work()
    seconds = time.process_time() - started
    return {"cpu_seconds": seconds, "before_mib": before, "peak_mib": peak()}


def open_set(photos: int) -> dict[str, float]:
    from dscnet.data.datasets import open_dataset

    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with TemporaryDirectory(dir=place) as folder:
        root = Path(folder) / "set"
        write_set(root, photos, 254, files=True)
        return timed(lambda: open_dataset(root))


def read_table(classes: int) -> dict[str, float]:
    from dscnet.data.tag_files import read_tag_file

    with TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        write_set(root, 100_000, classes, files=False)
        names = [f"class{index:03d}" for index in range(classes)]
        return timed(lambda: read_tag_file(root / "tags.csv", names).class_lists(names))


def train_step(side: int, classes: int) -> dict[str, float]:
    import torch
    from ranks import Loss, step_of

    from dscnet.config import Config
    from dscnet.config.recipes import find_recipe
    from dscnet.config.settings import from_dict, replace_settings
    from dscnet.tables.step_time import random_batch

    torch.set_num_threads(1)
    recipe = from_dict(Config, yaml.safe_load(find_recipe(RECIPE).read_text()))
    changes = {"train.accelerator": "cpu", "augment.crop_size": side, "train.batch_size": BATCH}
    config = replace_settings(recipe, changes)
    step = step_of(Loss(config, classes), random_batch(config, classes), 1)
    step()  # warms up
    return timed(step)


def rank_step(ranks: int) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "ranks.json"
        script = Path(__file__).with_name("ranks.py")
        changes = f"{{augment.crop_size: 128, train.batch_size: {BATCH}}}"
        options = ["--processes", str(ranks), "--turns", "3", "--set", changes]
        subprocess.run([sys.executable, script, "--json", target, *options], check=True)
        seconds = json.loads(target.read_text())["seconds"]["processor"]["all"]
    return {"cpu_seconds": sorted(seconds)[len(seconds) // 2]}


WORK: dict[str, Callable[[int], dict[str, float]]] = {
    "photos": open_set,
    "classes": read_table,
    "pixels": lambda side: train_step(side, 20),
    "heads": lambda classes: train_step(128, classes),
    "ranks": rank_step,
}


def measure(curves: list[str]) -> None:
    """Measure the points of some curves and add them to the result file."""
    content = json.loads(JSON.read_text()) if JSON.exists() else {"curves": {}}
    for name in curves:
        points = {}
        for point in CURVES[name][1]:
            command = [sys.executable, __file__, "point", name, str(point)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            points[str(point)] = json.loads(done.stdout.splitlines()[-1])
            print(name, point, points[str(point)], flush=True)
        content["curves"][name] = {"points": points, "environment": environment(0)}
        write_text(JSON, json.dumps(content, indent=1) + "\n")


def table(content: dict[str, Any]) -> list[str]:
    """The points as Markdown; "not run" for a curve without them."""
    lines = table_head("cost of", "", "CPU seconds", "peak memory, MiB", "of it before, MiB")
    for name, (label, points) in CURVES.items():
        measured = content["curves"].get(name, {"points": {}})["points"]
        for point in points:
            row = measured.get(str(point))
            cells = ["not run"] * 3 if row is None else [f"{row['cpu_seconds']:.3g}"]
            if row is not None:
                cells += [f"{row[key]:.0f}" if key in row else "-" for key in MEMORY]
            lines.append(row_of(label, f"{point:,}", *cells))
    runs = {
        (run["environment"]["processor"], run["environment"]["git_revision"])
        for run in content["curves"].values()
    }
    return [*lines, "", *(f"Measured on {machine}, {commit}." for machine, commit in sorted(runs))]


MEMORY = ("peak_mib", "before_mib")


def page(text: str, content: dict[str, Any]) -> str:
    """The page with its table as the result file has it."""
    head, _, rest = text.partition(START)
    return "\n".join([f"{head}{START}", *table(content), f"{END}{rest.partition(END)[2]}"])


def plot(content: dict[str, Any]) -> None:
    """CPU seconds of each curve, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(content["curves"]), 3), layout="constrained")
    for index, (name, run) in enumerate(content["curves"].items(), 1):
        axis = figure.add_subplot(1, len(content["curves"]), index)
        points = sorted((int(point), row["cpu_seconds"]) for point, row in run["points"].items())
        axis.loglog(*zip(*points, strict=True), marker="o")
        axis.set_title(CURVES[name][0].rpartition(", ")[0], fontsize=8)
        axis.set_xlabel(CURVES[name][0].rpartition(", ")[2])
        axis.set_ylabel("CPU seconds")
    figure.savefig(PLOT, dpi=100, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    some = verbs.add_parser("measure")
    some.add_argument("--only", nargs="+", choices=CURVES, default=list(CURVES))
    one = verbs.add_parser("point")
    one.add_argument("curve", choices=CURVES)
    one.add_argument("at", type=int)
    verbs.add_parser("page")
    options = parser.parse_args()
    if options.verb == "point":
        print(json.dumps(WORK[options.curve](options.at)))
    elif options.verb == "measure":
        measure(options.only)
    else:
        content = json.loads(JSON.read_text())
        write_text(PAGE, page(PAGE.read_text(), content))
        plot(content)


if __name__ == "__main__":
    main()
