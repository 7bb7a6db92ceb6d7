"""Write docs/labels.md's tables from benchmarks/results/labels/*.json: run it bare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from page_markdown import paragraph

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "labels"
PAGE = ROOT / "docs" / "labels.md"
PHOTOS = ("coco20mini", "msrc")


def main() -> None:
    """Rewrite the parts of the page between its marks."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page with its tables as the result files have them."""
    text = PAGE.read_text(encoding="utf-8")
    for name, make in PARTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        path = RESULTS / f"{name}.json"
        lines = make(json.loads(path.read_text())) if path.exists() else ["Not measured yet."]
        text = before + "\n".join([begin, *lines, end]) + rest.split(end)[1]
    return text


def refinement(content: dict[str, Any]) -> list[str]:
    """A row a refinement."""
    lines = ["| run | start | refinement | mIoU | CPU s per photo | photos |", "|" + "---|" * 6]
    for row in content["rows"]:
        trusted = row["refine.certainty"]
        start = "scores" if trusted is None else f"labels, certainty {trusted}"
        if row["refine.bg_power"] is not None:
            start += f", background power {row['refine.bg_power']:g}"
        steps = row["cpu_seconds_per_photo"].items()
        seconds = ", ".join(f"{name} {value:.2f}" for name, value in steps) or "-"
        settings = "".join(f", `{key}: {value}`" for key, value in row.get("settings", {}).items())
        run, seed = row["run"].rsplit("-s", 1)
        name = f"{content['data']}, {network(run)}, seed {seed} | {start}"
        name += f" | {row['refinement']}{settings}"
        lines.append(f"| {name} | {100 * row['miou']:.1f} | {seconds} | {row['num_images']} |")
    return [*lines, "", made_by(content)]


def thresholds(content: dict[str, Any]) -> list[str]:
    """The most that each criterion loses, a row a data set and form of the network."""
    names = list(dict.fromkeys(name for row in content["rows"] for name in row["lost"]))
    lines = [
        f"| data | network | runs | best threshold | {' | '.join(names)} |",
        "|" + "---|" * (len(names) + 4),
    ]
    for (data, form), rows in grouped(content["rows"]).items():
        best = "to ".join(f"{value:.2f} " for value in edges(rows)).strip()
        cells = " | ".join(largest_loss(rows, name) for name in names)
        lines.append(f"| {data} | {form} | {len(rows)} | {best} | {cells} |")
    for kind, own in {"photos": PHOTOS, "scenes": ("scenes",)}.items():
        # AuxSegNet's maps have a criterion of their own.
        rows = [r for r in content["rows"] if r["data"] in own and not r["run"].startswith("aux")]
        cells = " | ".join(f"**{largest_loss(rows, name)}**" for name in names)
        lines.append(f"| **all {kind}** | all but AuxSegNet | {len(rows)} | | {cells} |")
    return [*lines, "", made_by(content)]


def few_photos(content: dict[str, Any]) -> list[str]:
    """What each criterion loses on parts of the photos, mean and most over the draws."""
    names = list(dict.fromkeys(name for row in content["rows"] for name in row["lost"]))
    lines = [
        f"| data | network | runs | photos | draws | {' | '.join(names)} |",
        "|" + "---|" * (len(names) + 5),
    ]
    for (data, form), rows in grouped(content["rows"]).items():
        for size in sorted({row["photos"] for row in rows}):
            part = [row for row in rows if row["photos"] == size]
            cells = " | ".join(f"{mean_loss(part, n)} ({largest_loss(part, n)})" for n in names)
            runs = len({row["run"] for row in part})
            lines.append(f"| {data} | {form} | {runs} | {size} | {len(part)} | {cells} |")
    return [*lines, "", made_by(content)]


def grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows by data and by the network that made their CAMs."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], network(row["run"].rsplit("-s", 1)[0])), []).append(row)
    return dict(sorted(groups.items()))


def network(run: str) -> str:
    """What made the CAMs of a run; "held out" where the run had no part in choosing the default."""
    name = run.removeprefix("present-").removeprefix("fresh-").removesuffix("-small-start")
    name = name.replace("-scales", ", single scales kept")
    name += ", held out" if run.startswith("fresh-") else ""
    for prefix, base in {"auxsegnet-": "AuxSegNet", "plain-cam-": "plain CAM"}.items():
        if name.startswith(prefix):
            return f"{base}, {name.removeprefix(prefix)}"
    return f"SEAM, {name}"


def edges(rows: list[dict[str, Any]]) -> list[float]:
    """The lowest and the highest best score; one where they are the same."""
    scores = [row["best_bg_score"] for row in rows]
    return sorted({min(scores), max(scores)})


def largest_loss(rows: list[dict[str, Any]], name: str) -> str:
    """Points of mIoU that a criterion loses at most; - where it was not measured."""
    lost = [row["lost"][name] for row in rows if name in row["lost"]]
    return f"{100 * max(lost):.2f}" if lost else "-"


def mean_loss(rows: list[dict[str, Any]], name: str) -> str:
    """Points of mIoU that a criterion loses in the mean; - where it was not measured."""
    lost = [row["lost"][name] for row in rows if name in row["lost"]]
    return f"{100 * sum(lost) / len(lost):.2f}" if lost else "-"


def crf(content: dict[str, Any]) -> list[str]:
    """Agreement with the compiled package, error against exact kernels, times."""
    lines = [
        f"{content['iterations']} iterations on photos of {content['data']}; start:"
        f" {content['start'].replace('true masks', 'ground-truth masks')}.",
        "",
    ]
    for name, found in content["agreement"].items():
        if not found:
            lines.append(f"- Kernel of {name}: pydensecrf2 was not installed.")
            continue
        lines += paragraph(
            f"- Kernel of {name}: {100 * found['mean']:.4f} % of the pixels of {found['photos']}"
            f" photos get the same label from both ({100 * found['worst_photo']:.3f} % in the worst"
            f" photo); pydensecrf2 changes {100 * found['changed_by_pydensecrf']:.1f} % of the"
            " initial labels."
        )
    for name, found in content["exact"].items():
        errors = ", ".join(
            f"{backend} {value['largest']:.4f} (mean {value['mean']:.5f})"
            for backend, value in found.items()
        )
        lines += paragraph(
            f"- Kernel of {name}, photos of 40 x 50 pixels, largest error of a marginal against"
            f" exact kernels: {errors}."
        )
    times = content["cpu_seconds_375x500"].items()
    lines += ["", "| 375 x 500 pixels, 21 labels, one thread | CPU seconds, best of five |"]
    lines += ["|---|---|", *(f"| {name} | {value:.2f} |" for name, value in times)]
    return [*lines, "", made_by(content), *crf_on_gpu()]


def crf_on_gpu() -> list[str]:
    """Times on a GPU beside those of the same machine's CPU, and what differs."""
    path = RESULTS / "crf_gpu.json"
    if not path.exists():
        return ["", "On a GPU: not run."]
    content = json.loads(path.read_text())
    here = content["cpu_seconds_375x500"]
    rows = [
        f"| {name} | {here[name]:.3f} | {value:.4f} | {here[name] / value:.0f} |"
        for name, value in content["gpu_seconds_375x500"].items()
    ]
    lines = ["", f"The same photo on {content['environment']['device']}, and one thread beside it:"]
    lines += ["", "| | CPU seconds | GPU seconds | times faster |", "|---|---|---|---|", *rows, ""]
    for name, found in content["gpu_against_cpu"].items():
        lines += paragraph(
            f"- Kernel of {name}: {100 * found['mean']:.4f} % of the pixels of {found['photos']}"
            f" photos get the same label on both; largest difference of a marginal"
            f" {found['largest_difference_of_marginals']:.1e}."
        )
    return [*lines, "", made_by(content)]


def made_by(content: dict[str, Any]) -> str:
    """Where the numbers were made."""
    place = content["environment"]
    return f"({place['processor']}, torch {place['versions']['torch']}, {place['git_revision']})"


PARTS = {"refinement": refinement, "thresholds": thresholds, "few_photos": few_photos, "crf": crf}
"""Part of the page, and file -> what makes its lines."""

if __name__ == "__main__":
    main()
