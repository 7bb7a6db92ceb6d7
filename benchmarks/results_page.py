"""Write docs/results.md and the README's table from benchmarks/results/*.json: run it bare."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from dscnet.config import MethodConfig
from dscnet.experiments.comparison import (
    by_round,
    difference_table,
    gain_text,
    gains_of_rounds,
    mean_and_std,
    paired,
    summarise,
    table,
)
from dscnet.experiments.grid import VARIANTS

ROOT = Path(__file__).parent.parent
AUXSEGNET = (
    "msrc_auxsegnet_relabelled",
    "msrc_auxsegnet_relabelled_more",
    "msrc_auxsegnet_relabelled_m1_m3",
    "msrc_auxsegnet_relabelled_m2",
    "msrc_auxsegnet_relabelled_m1_m3_more",
    "msrc_auxsegnet_relabelled_m1_last",
    "msrc_auxsegnet_relabelled_m3_more",
    "msrc_auxsegnet_filled",
    "msrc_auxsegnet",
)
SEGMENTERS = (
    "msrc_discriminant",
    "msrc_variants",
    "msrc_m1_m3",
    "msrc_m2",
    "msrc_m2_seeds",
    "msrc_m1_seeds",
    "msrc_m1_last_seed",
    "msrc_m3_seeds",
    "msrc_gpu",
    "msrc_seam",
    "msrc_dscnet_ramp",
    "msrc_segmenter",
)
CEILINGS = ("msrc_ceiling", "msrc_ceiling_more")
SELF_TRAINED = (
    "msrc_maps_self_training",
    "msrc_discriminant_self_training",
    "msrc_self_training_seam",
    "msrc_self_training",
)
SWEEPS = {
    "SEAM, `msrc`": (
        "msrc_discriminant",
        "msrc_variants",
        "msrc_m1_m3",
        "msrc_m2",
        "msrc_m2_seeds",
        "msrc_m1_seeds",
        "msrc_m1_last_seed",
        "msrc_m3_seeds",
        "msrc_m1_m2_m3",
        "msrc_gpu",
        "msrc_pgcl",
        "msrc_memory",
        "msrc_memory_off",
        "msrc_seam",
        "msrc_dscnet_ramp",
        "msrc_dscnet",
        "msrc_modules",
        "msrc_modules_more",
        "msrc_m3_more",
        "msrc_m1_m2_more",
    ),
    "plain CAM, `msrc`": (
        "msrc_plain_cam_agreement",
        "msrc_plain_cam_discriminant",
        "msrc_plain_cam",
    ),
    "AuxSegNet, `msrc`": AUXSEGNET,
    "SEAM, `coco20mini`": (
        "coco20mini_discriminant",
        "coco20mini_variants",
        "coco20mini_pgcl",
        "coco20mini_memory",
        "coco20mini_memory_off",
        "coco20mini_dscnet_ramp",
        "coco20mini_dscnet_ramp_more",
        "coco20mini_dscnet_start",
        "coco20mini_dscnet",
    ),
    "SEAM, `scenes`": (
        "scenes_discriminant",
        "scenes_m1_m3",
        "scenes_pgcl",
        "scenes_memory",
        "scenes_dscnet",
    ),
    "SEAM, `scenes` drawn anew, background score by `auto`": ("scenes_auto",),
}
"""Sweeps by base and data; of a run that two hold, the first counts."""

NETWORKS = {"SEAM, `coco20mini`": ("coco20mini_segmenter",)}
"""Sweeps whose segmentation networks are compared, likewise; MSRC's are ``SEGMENTERS``."""

BOUND = ("face", "body")
"""MSRC's classes that tags do not tell apart: no training photo has a face without a body."""

EARLIER = ", groups from the start"
"""Of variants without `method.pool_ramp` (decision 9)."""

PUBLISHED = ", published start"
"""Of SEAM's and plain CAM's runs with `model.classifier_gain` 1 (decision 10)."""

UNWEIGHED = ", unweighed"
"""Of variants with PGCL whose maps nothing of other photos weighs, where no other mark says it."""

RECALLED = ", by the memory"
"""Of M4 whose memory has a share of its maps, `method.recall` (decision 11), likewise."""

WEIGHT, CONTRASTS = MethodConfig().pgcl_weight, ("M1", "M3", "M4")
LIGHTER = ", PGCL at 0.1"
"""Of runs with that `method.pgcl_weight` (decision 13), where no other mark says it."""

ON_GPU = ", on a GPU"
"""Of runs there: a seed draws other numbers."""

BY_MAPS = ", labels by maps"
"""Of AuxSegNet whose branch has no say in the labels of the next round (decision 18), likewise."""

LATER = (UNWEIGHED, RECALLED, LIGHTER, BY_MAPS)
"""Marks of the forms between the smaller start and the present one."""

BEGIN, END = "<!-- results -->", "<!-- /results -->"


def main() -> None:
    """One section a file: what was run, where, and what came out."""
    lines = [
        "# Results",
        "",
        "Written by `python benchmarks/results_page.py` from `benchmarks/results/*.json`; percent,",
        "mean ± standard deviation (seeds). `miou_best_bg` is at the best background score",
        "of a sweep, chosen with masks; `miou` is at the recipe's, which no mask of photos chose.",
        "",
        "## MSRC, the present form and those before",
        "",
        *label_table(earlier=True),
        "",
        "Segmentation networks on val:",
        "",
        *segmenter_table(earlier=True),
        "",
        "Self-training, `segment.rounds` above 1:",
        "",
        *self_training_table(earlier=True),
        "",
        "AuxSegNet, `tags + saliency`, by round:",
        "",
        *auxsegnet_table(earlier=True),
        "",
        "## Above the baseline, the present form and those before",
        "",
        *gain_list(SWEEPS, earlier=True),
        "",
        "Segmentation networks on val:",
        "",
        *gain_list(NETWORKS, "segmenter.miou"),
    ]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        content = json.loads(path.read_text())
        if "mutants" not in content:  # those are of the tests
            lines += ["", *layout(content)(path.stem, content)]
    for path in sorted((ROOT / "benchmarks" / "results" / "tables").glob("*.md")):
        title, rest = path.read_text().split("\n", 1)
        made = json.loads(path.with_suffix(".json").read_text())
        lines += ["", f"#{title}", "", f"`{made['command']}`", rest.rstrip()]
        for form in forms(made["settings"].values()):
            lines.append(f"- Ours: {form}.")
    (ROOT / "docs" / "results.md").write_text("\n".join(lines) + "\n")
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + "\n".join([BEGIN, *headline(), END]) + rest.split(END)[1])


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
    """The README's tables: pseudo labels of the variants, and the segmentation network."""
    lines = ["Pseudo labels of the training photos:", "", *label_table(), ""]
    lines += ["Above other baselines, `miou`, points [95 % interval] (seeds):", ""]
    lines += gain_list(dict(list(SWEEPS.items())[1:]))
    lines += ["", "Segmentation network, trained on the labels, on the photos of val:", ""]
    lines += [*segmenter_table(), "", "Above the baseline on other photos:", ""]
    lines += [*gain_list(NETWORKS, "segmenter.miou"), ""]
    lines += ["Self-training, `segment.rounds: 3`: the labels each network learned from, and its"]
    lines += ["masks of the photos of val:", "", *self_training_table(), ""]
    lines += ["AuxSegNet, `tags + saliency`: labels of the training photos that each round leaves,"]
    lines += ["and its own branch on the photos of val:", "", *auxsegnet_table(), ""]
    return [*lines, "Every figure: [`docs/results.md`](docs/results.md)."]


def gain_list(
    sweeps: Mapping[str, Iterable[str]],
    measure: str = "pseudo_label.miou",
    *,
    earlier: bool = False,
) -> list[str]:
    """How far each base's variants lie above it: a line each, of earlier forms where asked."""
    lines = []
    for base, names in sweeps.items():
        gains = above_baseline(distinct(names))
        present = gains if earlier else ({v: g for v, g in gains.items() if of_now(v)} or gains)
        for variant in sorted(present, key=_place):
            lines.append(f"- {base}: {variant} {gain_text(present[variant][measure])}")
    return lines


def label_table(*, earlier: bool = False) -> list[str]:
    """MSRC's labels by variant, whole and without the classes that tags do not tell apart."""
    rows = shown_rows(next(iter(SWEEPS.values())), earlier)
    whole, gains = summarise(rows), above_baseline(rows)
    told, told_gains = summarise(without_bound(rows)), above_baseline(without_bound(rows))
    lines = [
        "| | `miou` | above baseline [95 % interval] | best background score (chosen with masks)"
        f" | without {' and '.join(BOUND)} | above baseline | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in sorted(whole, key=_place):
        cells = [
            percent(whole[variant]["cam.miou"]),
            gain_of(gains, variant),
            percent(whole[variant]["cam.miou_best_bg"]),
            percent(told[variant]["cam.miou"]),
            gain_of(told_gains, variant),
            str(whole[variant]["cam.miou"]["seeds"]),
        ]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return lines


def segmenter_table(*, earlier: bool = False) -> list[str]:
    """What networks that learned from tags reach of the one that saw the true masks."""
    full = [row for name in CEILINGS for row in results(name)["rows"]]
    rows = shown_rows(SEGMENTERS, earlier)
    gains = above_baseline(rows)
    lines = [
        f"| labels | `miou` | above baseline [95 % interval] | of that on true masks | without"
        f" {' and '.join(BOUND)} | of that on true masks | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant in sorted({row["variant"] for row in rows}, key=_place):
        own = [row for row in rows if row["variant"] == variant]
        reached, share = share_of(own, full)
        gain = gain_text(gains[variant]["segmenter.miou"]) if variant in gains else "-"
        told = share_of(without_bound(own), without_bound(full))
        cells = [reached, gain, share, *told, str(len(own))]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    bounds = [mean_miou(full), mean_miou(without_bound(full))]
    cells = [percent(bounds[0]), "-", "100 %", percent(bounds[1]), "100 %", str(len(full))]
    return [*lines, "| true masks | " + " | ".join(cells) + " |"]


def self_training_table(*, earlier: bool = False) -> list[str]:
    """What a second network reaches that learns from labels made anew by the first."""
    rows = shown_rows(SELF_TRAINED, earlier)
    gains, reached = gains_of_rounds(rows), summarise(by_round(rows))
    told = summarise(without_bound(by_round(rows)))
    lines = [
        "| | labels | above round 1 | photos of val | above round 1 [95 % interval]"
        f" | without {' and '.join(BOUND)} | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for one, measures in reached.items():
        above = {name: gain_text(entry) for name, entry in gains.get(one, {}).items()}
        cells = [
            percent(measures["pseudo_label.miou"]),
            above.get("pseudo_label.miou", "-"),
            percent(measures["segmenter.miou"]),
            above.get("segmenter.miou", "-"),
            percent(told[one]["segmenter.miou"]),
            str(measures["segmenter.miou"]["seeds"]),
        ]
        lines.append(f"| {one} | " + " | ".join(cells) + " |")
    return lines


def auxsegnet_table(*, earlier: bool = False) -> list[str]:
    """AuxSegNet's labels and its branch after each round, by variant."""
    rows = shown_rows(AUXSEGNET, earlier)
    rounds, told = summarise(by_round(rows)), summarise(without_bound(by_round(rows)))
    above_first = gains_of_rounds(rows)
    lines = [
        "| | labels | photos of val | above baseline [95 % interval] | above round 1"
        f" | without {' and '.join(BOUND)} | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    named = [(*one.rsplit(", round ", 1), one) for one in rounds]
    for variant, index, one in sorted(named, key=lambda name: _place(name[0])):
        measures = rounds[one]
        branch = measures.get("segmenter.miou")
        gains = above_baseline(rows_of_round(rows, int(index)))
        cells = [
            percent(measures["pseudo_label.miou"]),
            "-" if branch is None else percent(branch),
            gain_text(gains[variant]["segmenter.miou"]) if branch and variant in gains else "-",
            gain_text(above_first[one]["segmenter.miou"]) if one in above_first else "-",
            "-" if branch is None else percent(told[one]["segmenter.miou"]),
            str(measures["pseudo_label.miou"]["seeds"]),
        ]
        lines.append(f"| {one} | " + " | ".join(cells) + " |")
    return lines


def rows_of_round(rows: list[dict], index: int) -> list[dict]:
    """The runs as they stood after a round."""
    return [row | one for row in rows for one in row["rounds"] if one["round"] == index]


def share_of(rows: list[dict], full: list[dict]) -> tuple[str, str]:
    """The segmentation networks' mIoU, and how much of the one on true masks it is."""
    reached, bound = mean_miou(rows), mean_miou(full)
    return percent(reached), f"{100 * reached['mean'] / bound['mean']:.1f} %"


def mean_miou(rows: list[dict]) -> dict:
    """Mean and deviation of the segmentation networks' mIoU."""
    return mean_and_std([row["segmenter"]["miou"] for row in rows])


def gain_of(gains: dict, variant: str) -> str:
    """What lies above the baseline; nothing for itself."""
    return gain_text(gains[variant]["cam.miou"]) if variant in gains else "-"


def without_bound(rows: list[dict]) -> list[dict]:
    """The same rows with the mean over the labels that tags tell apart as ``miou``."""
    narrowed = []
    for row in rows:
        sections = {name: row[name] for name in ("cam", "segmenter") if row.get(name)}
        for name, section in sections.items():
            kept = [v for label, v in section["iou"].items() if label not in BOUND]
            mean = statistics.fmean(value for value in kept if value is not None)
            sections[name] = section | {"miou": mean}
        narrowed.append(row | sections)
    return narrowed


def shown_rows(names: Iterable[str], earlier: bool) -> list[dict]:
    """The runs of some sweeps, those of earlier forms only where asked or where no other is."""
    rows = distinct(names)
    return rows if earlier else [row for row in rows if of_now(row["variant"])]


def of_now(variant: str) -> bool:
    """Whether a name has no mark of an earlier form; what ran on a GPU is one."""
    return not any(mark in variant for mark in (EARLIER, PUBLISHED, *LATER, ON_GPU))


def distinct(names: Iterable[str]) -> list[dict]:
    """The runs of some sweeps, each once; those of earlier forms under a name that says so."""
    found: dict[tuple[str, int], dict] = {}
    for name in names:
        content = results(name)
        for row in content["rows"]:
            variant = row["variant"] + ending(row["variant"], content["settings"])
            variant += ON_GPU if content["environment"]["device"] != "cpu" else ""
            found.setdefault((variant, row["seed"]), row | {"variant": variant})
    return list(found.values())


def ending(variant: str, settings: dict) -> str:
    """What the name of a run of an earlier form ends in."""
    groups = EARLIER if variant != "baseline" and from_the_start(settings) else ""
    marks = groups + (PUBLISHED if published_start(settings) else "")
    if labelled_by_maps(settings):
        return marks or BY_MAPS
    if variant not in CONTRASTS:
        return marks
    by_memory = variant == "M4" and recalled(settings)
    if unweighed(settings) and not by_memory:
        marks = marks or UNWEIGHED
    if settings["method"]["pgcl_weight"] < WEIGHT:
        marks = marks or LIGHTER
    if by_memory:
        marks = marks or RECALLED
    return marks


def above_baseline(rows: list[dict]) -> dict:
    """How far each variant lies above its own baseline, as ``paired`` says it.

    That is the one of the same start and labels, and on a GPU the one there.
    """
    kinds = (ON_GPU, PUBLISHED, BY_MAPS)
    gains = {}
    for kind in ("", *kinds):
        same = [
            row
            for row in rows
            if [row["variant"].endswith(k) for k in kinds] == [k == kind for k in kinds]
        ]
        gains |= paired(same, f"baseline{kind}")
    return gains


def from_the_start(settings: dict) -> bool:
    """Whether groups alone scored the tags; so did they before there was ``method.pool_ramp``."""
    return not settings["method"].get("pool_ramp")


def published_start(settings: dict) -> bool:
    """Whether the classifier started as published, as before ``model.classifier_gain``."""
    return settings["model"].get("classifier_gain", 1) == 1


def unweighed(settings: dict) -> bool:
    """Whether no discriminant weighs the maps, as before decision 15."""
    return not settings["method"].get("likeness")


def recalled(settings: dict) -> bool:
    """Whether the memory has a share of M4's maps, as from decision 11 to 15."""
    return bool(settings["method"].get("recall"))


def labelled_by_maps(settings: dict) -> bool:
    """Whether AuxSegNet's rounds are labelled by its maps and saliency alone."""
    if settings["model"]["name"] != "auxsegnet":
        return False
    return bool(settings["auxseg"].get("relabel", "maps") == "maps")


def forms(made: Iterable[dict], *, dscnet: bool = True) -> list[str]:
    """What is said of runs of these settings, DSCNet's among them, if they are of earlier forms."""
    made = list(made)
    said = []
    if dscnet and any(from_the_start(settings) for settings in made):
        said.append("DSCNet's groups score the tags from the start")
    if dscnet and any(unweighed(settings) and not recalled(settings) for settings in made):
        said.append("no discriminant weighs the maps")
    if dscnet and any(recalled(settings) for settings in made):
        said.append("the memory has a share of M4's maps in the place of a discriminant")
    if any(published_start(settings) for settings in made):
        said.append("the classifier starts as published")
    if any(labelled_by_maps(settings) for settings in made):
        said.append("AuxSegNet's rounds are labelled by its maps alone")
    return said


def _place(variant: str) -> tuple[bool, bool, bool, int, bool]:
    """Order of the rows: earlier forms come last."""
    place = list(VARIANTS).index(variant.split(",")[0])
    return (
        variant.endswith(PUBLISHED),
        EARLIER in variant,
        variant.endswith(ON_GPU),
        place,
        any(mark in variant for mark in LATER),
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
        f" {settings['model']['backbone']}, background score {background(content)}."
        f" {where['processor']}, {where['cpu_threads']} threads, {where['device']};"
        f" torch {where['versions']['torch']}; revision {where['git_revision']}.",
        *([f"Here {' and '.join(said)}."] if (said := _forms_of(content)) else []),
        "",
        table(content["summary"]),
        "",
        *differences(content),
        *rounds(content["rows"]),
        "Median seconds a stage: "
        + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items())
        + ".",
    ]


def background(content: dict) -> str:
    """The background score's setting, and what ``auto`` stood for."""
    setting = content["settings"]["label"]["bg_score"]
    if setting != "auto":
        return str(setting)
    # Results from before decision 14 do not say it.
    criteria = {row.get("bg_criterion", "tags") for row in content["rows"]}
    return f"auto ({', '.join(sorted(criteria))})"


def _forms_of(content: dict) -> list[str]:
    variants = {row["variant"] for row in content["rows"]} - {"baseline"}
    return forms([content["settings"]], dscnet=bool(variants))


def differences(content: dict) -> list[str]:
    """Markdown of what lies above the base, where there is something to compare with."""
    if not content.get("paired"):
        return []
    title = f"Above {content['base']}, seed by seed, with the 95 % interval of the mean:"
    return [title, "", difference_table(content["paired"]), ""]


def rounds(rows: list[dict]) -> list[str]:
    """Markdown of what rounds of training reached, and gained over the first training."""
    lines: list[str] = []
    if own := by_round(rows):
        title = "Rounds; labels with undecided pixels as background:"
        lines += [title, "", table(summarise(own)), ""]
    if gains := gains_of_rounds(rows):
        lines += ["Above round 1, seed by seed:", "", difference_table(gains), ""]
    return lines


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
    gib = content.get("gpu_peak_gib", {})
    columns = ["variant", "seconds", "of the baseline", *(["GPU memory, GiB"] if gib else [])]
    rows = [
        f"| {v} | {s:.3f} | {s / seconds['baseline']:.2f} |" + (f" {gib[v]:.1f} |" if gib else "")
        for v, s in seconds.items()
    ]
    groups, pixels = content["contrast_median_seconds"].values()
    ways = ["precision " + content.get("precision", "32")]
    ways += ["repeating exactly"] if content.get("deterministic") else []
    return [
        f"## {name}",
        "",
        f"Seconds a training step of {content['photos']} photos, crop {content['crop']},"
        f" {content['backbone']}, {', '.join(ways)}, median; {where['processor']},"
        f" {where['cpu_threads']} threads, {where['device']}; torch {where['versions']['torch']}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
        *rows,
        "",
        f"The contrast of M1 alone, forward and backward: of groups {groups:.3f} s, of pixels"
        f" {pixels:.3f} s, {pixels / groups:.1f} times as long.",
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
