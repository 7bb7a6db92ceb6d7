"""The tables of docs/results.md and of the README, from the files in benchmarks/results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from page_markdown import gain_of, paragraph, percent, row_of, table_head

from dscnet.experiments.comparison import (
    by_round,
    gains_of_rounds,
    mean_and_std,
    paired,
    summarise,
)
from dscnet.experiments.grid import VARIANTS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SEAM = (
    "msrc_discriminant",
    "msrc_variants",
    "msrc_m1_m3",
    "msrc_m2",
    "msrc_m2_seeds",
    "msrc_m1_seeds",
    "msrc_m1_last_seed",
    "msrc_m3_seeds",
)
AUXSEGNET = (
    "msrc_auxsegnet_relabelled",
    "msrc_auxsegnet_relabelled_more",
    "msrc_auxsegnet_relabelled_m1_m3",
    "msrc_auxsegnet_relabelled_m2",
    "msrc_auxsegnet_relabelled_m1_m3_more",
    "msrc_auxsegnet_relabelled_m1_last",
    "msrc_auxsegnet_relabelled_m3_more",
)
TAGS_ONLY = "msrc_auxsegnet_tags"
SELF_TRAINING = ("msrc_maps_self_training",)
SWEEPS = {
    ("MSRC", "SEAM"): SEAM,
    ("MSRC", "plain CAM"): ("msrc_plain_cam_agreement", "msrc_plain_cam_discriminant"),
    ("MSRC", "plain CAM, both by `class_otsu`"): ("msrc_plain_cam_discriminant",),
    ("MSRC", "AuxSegNet"): AUXSEGNET,
    ("coco20mini", "SEAM"): ("coco20mini_discriminant", "coco20mini_variants"),
    ("scenes", "SEAM"): ("scenes_discriminant", "scenes_m1_m3", "scenes_pgcl"),
    ("scenes, redrawn", "SEAM"): ("scenes_auto",),
}
"""Data and base network -> files of its runs; of a run that two hold, the first counts."""

ONLY = {"scenes_pgcl": ("baseline", "M2")}
"""Files of which some variants count: the others were run before decision 16."""

NETWORKS = {("MSRC", "SEAM"): SEAM, ("coco20mini", "SEAM"): ("coco20mini_segmenter",)}
"""The same, for segmentation networks that are trained on the pseudo labels."""

SUPERVISED = {
    ("MSRC", "SEAM"): ("msrc_ceiling", "msrc_ceiling_more"),
    ("coco20mini", "SEAM"): ("coco20mini_ceiling",),
}
"""Segmentation networks that are trained on ground-truth masks."""

LONGER = "coco20mini_segmenter_long"
TRIALS = ("coco20mini_discriminant_trials", "scenes_discriminant_trials")
STEP_TIMES = ("step_time", "step_time_gpu", "step_time_voc12_gpu", "step_time_voc12_gpu_bf16")

UNSEPARATED = ("face", "body")
"""MSRC's classes that tags do not separate: no training photo has a face without a body."""


def readme_table() -> list[str]:
    """Baseline against M4 on each base and data set, labels and segmentation networks."""
    lines = table_head(
        "data, base network", "measured", "baseline", "with DSCNet", "gain [95 % interval] (seeds)"
    )
    networks = NETWORKS | {("MSRC", "AuxSegNet"): AUXSEGNET}
    for key, names in SWEEPS.items():
        compared = [("pseudo labels", "pseudo_label.miou", distinct(names))]
        if key in networks:
            compared.append(("network, val", "segmenter.miou", distinct(networks[key])))
        for what, measure, rows in compared:
            means, gains = summarise(rows), paired(rows, "baseline")
            cells = [percent(means[variant][measure]) for variant in ("baseline", "M4")]
            lines.append(row_of(", ".join(key), what, *cells, gain_of(gains, "M4", measure)))
    return lines


def label_table() -> list[str]:
    """Pseudo labels of every base and variant."""
    lines = table_head(
        "data", "base", "variant", "labels", "gain", "CAM, best threshold", "tag mAP, val", "seeds"
    )
    for (data, base), names in SWEEPS.items():
        rows = distinct(names)
        gains = paired(rows, "baseline")
        for variant, found in by_place(summarise(rows)):
            cells = [
                percent(found["pseudo_label.miou"]),
                gain_of(gains, variant, "pseudo_label.miou"),
                percent(found["cam.miou_best_bg"]),
                percent(found["tags.map"]),
                str(found["pseudo_label.miou"]["seeds"]),
            ]
            lines.append(row_of(data, base, variant, *cells))
    return lines


def network_table() -> list[str]:
    """Segmentation networks by the labels that they learned from."""
    lines = table_head("data", "labels", "mIoU", "gain", "of ground-truth supervision", "seeds")
    for key, names in NETWORKS.items():
        rows, full = distinct(names), distinct(SUPERVISED[key])
        gains = paired(rows, "baseline")
        for variant, found in by_place(summarise(rows)):
            reached = found["segmenter.miou"]
            gain = gain_of(gains, variant, "segmenter.miou")
            share, seeds = share_of(reached, full), str(reached["seeds"])
            lines.append(
                row_of(key[0], f"{key[1]}, {variant}", percent(reached), gain, share, seeds)
            )
        bound = mean_miou(full)
        cells = percent(bound), "-", "100 %", str(bound["seeds"])
        lines.append(row_of(key[0], "ground-truth masks", *cells))
    content = results(LONGER)
    longer = mean_miou(content["rows"])
    epochs = content["settings"]["segment"]["epochs"]
    cells = percent(longer), "-", "-", str(longer["seeds"])
    lines.append(row_of("coco20mini", f"SEAM, M4, {epochs} epochs", *cells))
    return lines


def separable_table() -> list[str]:
    """MSRC's variants on SEAM, without the classes that tags do not separate."""
    rows, full = separable(distinct(SEAM)), separable(distinct(SUPERVISED["MSRC", "SEAM"]))
    gains = paired(rows, "baseline")
    lines = table_head(
        "variant", "labels", "gain", "network, val", "gain", "of ground-truth supervision"
    )
    for variant, found in by_place(summarise(rows)):
        cells = [
            percent(found["cam.miou"]),
            gain_of(gains, variant, "cam.miou"),
            percent(found["segmenter.miou"]),
            gain_of(gains, variant, "segmenter.miou"),
            share_of(found["segmenter.miou"], full),
        ]
        lines.append(row_of(variant, *cells))
    bound = percent(mean_miou(full))
    return [*lines, row_of("ground-truth masks", "-", "-", bound, "-", "100 %")]


def self_training_table() -> list[str]:
    """Labels and networks of each round of self-training."""
    rows = distinct(SELF_TRAINING)
    gains, found = gains_of_rounds(rows), summarise(by_round(rows))
    narrowed = summarise(separable(by_round(rows)))
    lines = table_head(
        "round", "labels", "above round 1", "network, val", "above round 1", "without face and body"
    )
    for one, measures in found.items():
        cells = [
            percent(measures["pseudo_label.miou"]),
            gain_of(gains, one, "pseudo_label.miou"),
            percent(measures["segmenter.miou"]),
            gain_of(gains, one, "segmenter.miou"),
            percent(narrowed[one]["segmenter.miou"]),
        ]
        lines.append(row_of(one, *cells))
    return lines


def auxsegnet_table() -> list[str]:
    """AuxSegNet's labels and its branch after each round, by variant."""
    rows = distinct(AUXSEGNET)
    rows += [row | {"variant": "baseline, tags only"} for row in results(TAGS_ONLY)["rows"]]
    narrowed = summarise(separable(by_round(rows)))
    above_first = gains_of_rounds(rows)
    lines = table_head(
        "variant", "labels", "branch, val", "gain", "above round 1", "without face, body", "seeds"
    )
    for one, measures in by_place(summarise(by_round(rows))):
        variant, index = one.rsplit(", round ", 1)
        gains = paired(rows_of_round(rows, int(index)), "baseline")
        compared = gains if variant in VARIANTS else {}
        cells = [
            percent(measures["pseudo_label.miou"]),
            percent(measures.get("segmenter.miou")),
            gain_of(compared, variant, "segmenter.miou"),
            gain_of(above_first, one, "segmenter.miou"),
            percent(narrowed[one].get("segmenter.miou")),
            str(measures["pseudo_label.miou"]["seeds"]),
        ]
        lines.append(row_of(one, *cells))
    return lines


def weight_table() -> list[str]:
    """M4 by the weights of PGCL and SGCL, trials beside the recipe's own runs."""
    present = ("coco20mini_discriminant", "scenes_discriminant")
    lines = table_head("data", "PGCL", "SGCL", "seed 0", "seed 1")
    for name, recipe in zip(TRIALS, present, strict=True):
        content = results(name)
        common = content["common"]
        found: dict[tuple[float, float], dict[int, dict[str, Any]]] = {}
        for row in content["rows"]:
            made = common | row["settings"]
            weights = made["method.pgcl_weight"], made["method.sgcl_weight"]
            found.setdefault(weights, {})[row["seed"]] = row["cam"]
        method = results(recipe)["settings"]["method"]
        own = {row["seed"]: row["cam"] for row in results(recipe)["rows"]}
        found[method["pgcl_weight"], method["sgcl_weight"]] = own
        for (pgcl, sgcl), by_seed in sorted(found.items()):
            cells = [f"{100 * by_seed[s]['miou']:.1f} ({best_of(by_seed[s])})" for s in (0, 1)]
            lines.append(row_of(content["data"], f"{pgcl:g}", f"{sgcl:g}", *cells))
    return lines


def best_of(cam: dict[str, Any]) -> str:
    """CAMs' mIoU at the best threshold, percent."""
    return f"{100 * cam['miou_best_bg']:.1f}"


def step_time_table() -> list[str]:
    """Seconds of a step by variant, a row for each machine and network."""
    variants = list(results(STEP_TIMES[0])["median_seconds"])
    lines = table_head(
        "device",
        "network",
        *variants,
        "M4 / baseline",
        "groups alone",
        "pixels alone",
        "M4, GiB",
    )
    for content in map(results, STEP_TIMES):
        seconds = content["median_seconds"]
        precision = content.get("precision", "32")
        network = f"{content['backbone']}, crop {content['crop']}, precision {precision}"
        contrast = content["contrast_median_seconds"].values()
        memory = content.get("gpu_peak_gib", {}).get("M4")
        cells = [f"{seconds[variant]:.3f}" for variant in variants]
        cells += [f"{seconds['M4'] / seconds['baseline']:.2f}"]
        cells += [f"{value:.3f}" for value in contrast]
        cells += ["-" if memory is None else f"{memory:.1f}"]
        lines.append(row_of(machine(content["environment"]), network, *cells))
    return lines


def paper_tables() -> Iterator[str]:
    """The tables that ``dscnet tables`` wrote, with their notes."""
    for path in sorted((RESULTS / "tables").glob("*.md")):
        title, *rest = path.read_text(encoding="utf-8").rstrip().split("\n")
        yield from ("", f"##{title}")
        for line in rest:
            yield from paragraph(line) if line.startswith("- ") else [line]


def source_table() -> list[str]:
    """A row a file: command, background threshold, machine, versions, time."""
    lines = table_head(
        "file", "command", "background threshold", "machine", "torch", "revision", "seconds a stage"
    )
    paths = [*RESULTS.glob("*.json"), *(RESULTS / "tables").glob("*.json")]
    # Of the tests, not of the method.
    paths.remove(RESULTS / "mutants.json")
    for path in sorted(paths, key=lambda one: (one.parent.name == "tables", one.stem)):
        content = json.loads(path.read_text(encoding="utf-8"))
        seconds = ", ".join(f"{k} {v:.0f}" for k, v in wall_times(content.get("rows", [])).items())
        cells = [
            f"`{path.relative_to(RESULTS).with_suffix('')}`",
            f"`{content['command']}`" if "command" in content else "-",
            threshold(content),
            *made_on(content.get("environment")),
            seconds or "-",
        ]
        lines.append(row_of(*cells))
    return lines


def made_on(environment: dict[str, Any] | None) -> tuple[str, str, str]:
    """Machine, version of torch and revision; - for searches, whose files do not hold them."""
    if environment is None:
        return "-", "-", "-"
    versions = environment["versions"]["torch"], str(environment["git_revision"])
    return machine(environment), *versions


def machine(environment: dict[str, Any]) -> str:
    """The GPU, or the processor with the number of threads."""
    threads = environment["cpu_threads"]
    on_cpu = environment["device"] == "cpu"
    return f"{environment['processor']}, {threads} threads" if on_cpu else environment["device"]


def threshold(content: dict[str, Any]) -> str:
    """The setting of the background threshold, and the criterion that ``auto`` stood for."""
    if not isinstance(content.get("settings"), dict) or "label" not in content["settings"]:
        return "-"
    setting = content["settings"]["label"]["bg_score"]
    if setting != "auto":
        return str(setting)
    # Files from before decision 14 do not name it; it was the criterion `tags`.
    criteria = {row.get("bg_criterion", "tags") for row in content["rows"]}
    return f"auto ({', '.join(sorted(criteria))})"


def wall_times(rows: Any) -> dict[str, float]:
    """Median wall time of each stage over the runs; {} where none was written."""
    timed = [row["seconds"] for row in rows if isinstance(row, dict) and "seconds" in row]
    seconds = [one for one in timed if isinstance(one, dict)]
    stages = dict.fromkeys(stage for own in seconds for stage in own)
    return {
        stage: statistics.median(own[stage] for own in seconds if stage in own) for stage in stages
    }


def distinct(names: Iterable[str]) -> list[dict[str, Any]]:
    """The runs of some files, each once."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for name in names:
        for row in results(name)["rows"]:
            if row["variant"] in ONLY.get(name, VARIANTS):
                found.setdefault((row["variant"], row["seed"]), row)
    return list(found.values())


def rows_of_round(rows: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    """The runs as they stood after a round."""
    return [row | one for row in rows for one in row["rounds"] if one["round"] == index]


def separable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with the mean over the labels that tags separate as ``miou``."""
    narrowed = []
    for row in rows:
        sections = {name: row[name] for name in ("cam", "segmenter") if row.get(name)}
        for name, section in sections.items():
            kept = [v for label, v in section["iou"].items() if label not in UNSEPARATED]
            mean = statistics.fmean(value for value in kept if value is not None)
            sections[name] = section | {"miou": mean}
        narrowed.append(row | sections)
    return narrowed


def by_place(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    """Variants in the order of the paper's Table IV, then what was changed in one."""
    order = list(VARIANTS)
    return sorted(
        summary.items(),
        key=lambda item: ("only" in item[0], order.index(item[0].split(",")[0])),
    )


def results(name: str) -> dict[str, Any]:
    """Content of one result file."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def mean_miou(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation of the segmentation networks' mIoU."""
    return mean_and_std([row["segmenter"]["miou"] for row in rows])


def share_of(reached: dict[str, Any], full: list[dict[str, Any]]) -> str:
    """How much of the mIoU of ground-truth supervision a network reaches."""
    return f"{100 * reached['mean'] / mean_miou(full)['mean']:.1f} %"
