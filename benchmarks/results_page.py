"""Write docs/results.md and the README's table from benchmarks/results/*.json: run it bare."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from dscnet.comparison import difference_table, gain_text, summarise, table
from dscnet.experiments import VARIANTS

ROOT = Path(__file__).parent.parent
COMPARED = ("msrc_dscnet", "msrc_modules", "coco20mini_dscnet", "scenes_dscnet")
"""Sweeps whose gains the README names; of a variant of one data set, the first."""

BEGIN, END = "<!-- results -->", "<!-- /results -->"


def main() -> None:
    """One section a file: what was run, where, and what came out."""
    lines = [
        "# Results",
        "",
        "Written by `python benchmarks/results_page.py` from `benchmarks/results/*.json`; percent,",
        "mean ± standard deviation (seeds). `miou_best_bg` is at the best background score",
        "of a sweep, chosen with masks; `miou` is at the recipe's, which no mask of photos chose.",
    ]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        content = json.loads(path.read_text())
        lines += ["", *layout(content)(path.stem, content)]
    for path in sorted((ROOT / "benchmarks" / "results" / "tables").glob("*.md")):
        title, rest = path.read_text().split("\n", 1)
        lines += ["", f"#{title}", "", f"`{command_of(path)}`", rest.rstrip()]
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n")
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + "\n".join([BEGIN, *headline(), END]) + rest.split(END)[1])


def command_of(table_path: Path) -> str:
    """What made a table of the paper, from the JSON beside it."""
    return json.loads(table_path.with_suffix(".json").read_text())["command"]


def layout(content: dict) -> Callable[[str, dict], list[str]]:
    """What writes a file of this kind."""
    if "median_seconds" in content:
        return step_times
    if "memory" in content:
        return memory
    if "gradients" in content:
        return diagnosis
    return trials if "common" in content else section


def memory(name: str, content: dict) -> list[str]:
    """Peak memory of a training step."""
    where = content["environment"]
    columns = list(content["memory"][0])
    return [
        f"## {name}",
        "",
        f"`{content['command']}`",
        "",
        f"{where['processor']}, {where['cpu_threads']} threads, {where['device']}; torch"
        f" {where['versions']['torch']}; revision {where['git_revision']}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *("| " + " | ".join(str(row[c]) for c in columns) + " |" for row in content["memory"]),
    ]


def headline() -> list[str]:
    """The README's table: pseudo labels of the variants, and the segmentation network."""
    # The modules alone were run with fewer seeds than the method.
    summary = results("msrc_modules")["summary"] | results("msrc_dscnet")["summary"]
    lines = [
        "| | pseudo labels, train: `miou` | best background score (chosen with masks) | seeds |",
        "|---|---|---|---|",
    ]
    for variant in VARIANTS:
        measures = summary.get(variant)
        if measures is None:
            lines.append(f"| {variant} | not run | not run | 0 |")
            continue
        fixed, best = measures["cam.miou"], measures["cam.miou_best_bg"]
        lines.append(f"| {variant} | {percent(fixed)} | {percent(best)} | {fixed['seeds']} |")
    lines += ["", "Above the baseline by seed, `miou`, points [95 % interval] (seeds):", ""]
    told: set[tuple[str, str]] = set()
    for name in COMPARED:
        content = results(name)
        data = content["settings"]["data"]
        for variant, gains in content["paired"].items():
            if (variant, data) not in told:
                told.add((variant, data))
                lines.append(f"- {variant}, data `{data}`: {gain_text(gains['cam.miou'])}")
    lines += [
        "",
        f"Segmentation network: {segmenter()} Every figure: [`docs/results.md`](docs/results.md).",
    ]
    return lines


def segmenter() -> str:
    """What the network that learned from tags reaches of the one that saw the true masks."""
    folder = ROOT / "benchmarks" / "results"
    if not all((folder / f"msrc_{name}.json").exists() for name in ("segmenter", "ceiling")):
        return "not run."
    content = results("msrc_segmenter")
    ((variant, ours),) = summarise(content["rows"]).items()
    steps = ", ".join(content["settings"]["refine"]["steps"])
    ((_, full),) = summarise(results("msrc_ceiling")["rows"]).items()
    reached, bound = ours["segmenter.miou"], full["segmenter.miou"]
    share = reached["mean"] / bound["mean"]
    return (
        f"{percent(reached)} mIoU on val from tags only ({variant}, labels refined by {steps}); the"
        f" same network on true masks {percent(bound)}, so {100 * share:.0f} % of it"
        f" (seeds: {reached['seeds']})."
    )


def results(name: str) -> dict:
    """Content of one result file."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def percent(entry: dict) -> str:
    """Mean and, over several seeds, standard deviation."""
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{spread}"


def section(name: str, content: dict) -> list[str]:
    """Markdown of one result file."""
    where = content["environment"]
    settings = content["settings"]
    seconds = wall_times(content["rows"])
    return [
        f"## {name}",
        "",
        f"`{content['command']}`",
        "",
        f"Data `{settings['data']}`, {settings['model']['name']} on"
        f" {settings['model']['backbone']}, background score {settings['label']['bg_score']}."
        f" {where['processor']}, {where['cpu_threads']} threads, {where['device']};"
        f" torch {where['versions']['torch']}; revision {where['git_revision']}.",
        "",
        table(content["summary"]),
        "",
        *differences(content),
        "Median seconds a stage: "
        + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items())
        + ".",
    ]


def differences(content: dict) -> list[str]:
    """Markdown of what lies above the base, where there is something to compare with."""
    if not content.get("paired"):
        return []
    title = f"Above {content['base']}, seed by seed, with the 95 % interval of the mean:"
    return [title, "", difference_table(content["paired"]), ""]


def trials(name: str, content: dict) -> list[str]:
    """Markdown of a search: every run, what it was set to, what it reached."""
    lines = [
        f"## {name}",
        "",
        f"`{content['command']}`: data `{content['data']}`, every finished trial of a",
        "search, a run a row.",
        "What they share is under `common` in the file; settings are named where they differ.",
        "",
        "| trial | seed | settings | tag loss, first and last epoch"
        " | cam.miou | cam.miou_best_bg | tags.map |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        settings = ", ".join(f"`{key}: {value}`" for key, value in row["settings"].items())
        losses = f"{row['tag_loss'][0]:.2f}, {row['tag_loss'][-1]:.2f}"
        cam, tags = row.get("cam") or {}, row.get("tags") or {}
        values = [cam.get("miou"), cam.get("miou_best_bg"), tags.get("map")]
        cells = ["not run" if value is None else f"{100 * value:.1f}" for value in values]
        cells = [row["variant"], str(row["seed"]), settings, losses, *cells]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def diagnosis(name: str, content: dict) -> list[str]:
    """Markdown of what a trained run's groups, embeddings and gradients are like."""
    groups = dict(content["groups"])
    cosines = groups.pop("embeddings", {})
    lines = [
        f"## {name}",
        "",
        f"`python benchmarks/diagnose.py` on one run of {content['variant']},"
        f" data `{content['data']}`, with true masks for the diagnosis alone.",
        "Purity: share of pixels that have the commonest true label of their group; category:",
        "share whose true label is the category that their group got.",
        "",
        "| pixels compared by, groups | purity | category |",
        "|---|---|---|",
    ]
    for key, value in groups.items():
        lines.append(f"| {key} | {100 * value['purity']:.1f} | {100 * value['category']:.1f} |")
    means = ", ".join(f"{key} {value:.2f}" for key, value in cosines.items())
    sizes = ", ".join(f"{key} {value:.2f}" for key, value in content["gradients"].items())
    lines += ["", f"Mean cosine of group embeddings of different photos: {means}." if means else ""]
    lines += ["", f"Gradient at the features, weighted, over the tag loss's: {sizes}."]
    return lines


def step_times(name: str, content: dict) -> list[str]:
    """Markdown of the benchmark of single steps."""
    where = content["environment"]
    seconds = content["median_seconds"]
    rows = [f"| {v} | {s:.2f} | {s / seconds['baseline']:.2f} |" for v, s in seconds.items()]
    return [
        f"## {name}",
        "",
        f"Seconds a training step of {content['photos']} photos, crop {content['crop']},"
        f" {content['backbone']}, median; {where['processor']}, {where['cpu_threads']} threads,"
        f" {where['device']}; torch {where['versions']['torch']}.",
        "",
        "| variant | seconds | of the baseline |",
        "|---|---|---|",
        *rows,
    ]


def wall_times(rows: list[dict]) -> dict[str, float]:
    """Median wall time of each stage over the runs."""
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    stages = dict.fromkeys(stage for own in seconds for stage in own)
    return {
        stage: statistics.median(own[stage] for own in seconds if stage in own) for stage in stages
    }


if __name__ == "__main__":
    main()
