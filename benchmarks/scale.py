"""Whether photos of one scene give the same labels at any resolution: enlarge them, run, collect.

python benchmarks/scale.py enlarge MSRC FOLDER --times 8 --photos 60
for each FOLDER: dscnet train|cam|label|evaluate --data FOLDER --out RUN (default settings)
python benchmarks/scale.py collect --json benchmarks/results/scale.json x1=RUN x8=RUN ...
python benchmarks/scale.py time --model RUN --json benchmarks/results/scale_time.json \\
    x1=FOLDER/JPEGImages x8=...
python benchmarks/scale.py page (writes the tables of docs/scale.md from both)
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from dscnet.build import build_model
from dscnet.data import PhotoSet, Sample, image_size, open_photos
from dscnet.models.checkpoint import restore
from dscnet.pipeline.cam_maps import write_cams
from dscnet.pipeline.job import Job
from dscnet.predictor import Predictor
from dscnet.run_folder import RunFolder, environment, read_record, write_text

LISTS = Path("ImageSets") / "Segmentation"
WARM_UP = 3

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS, PAGE = REPOSITORY / "benchmarks" / "results", REPOSITORY / "docs" / "scale.md"
START, END = "<!-- scale -->", "<!-- /scale -->"


def enlarge(source: Path, target: Path, times: float, photos: int | None) -> None:
    """Copy a data set of VOC's layout: photos bicubic, masks to the nearest pixel.

    Args:
        source: The data set.
        target: Folder to write.
        times: Factor of both sides.
        photos: Training photos to take, evenly spread, and every tenth of val; None = all.
    """
    for name in ("JPEGImages", "SegmentationClass", LISTS):
        (target / name).mkdir(parents=True)
    kept = []
    for split in ("train", "val"):
        ids = (source / LISTS / f"{split}.txt").read_text().split()
        if photos is not None:
            ids = ids[:: len(ids) // photos][:photos] if split == "train" else ids[::10]
        (target / LISTS / f"{split}.txt").write_text("\n".join(ids) + "\n")
        kept += ids
    for image_id in kept:
        photo, mask = Path("JPEGImages", f"{image_id}.jpg"), f"SegmentationClass/{image_id}.png"
        image, labels = Image.open(source / photo), Image.open(source / mask)
        size = (round(image.width * times), round(image.height * times))
        labels.resize(size, Image.Resampling.NEAREST).save(target / mask)
        if times == 1:
            shutil.copyfile(source / photo, target / photo)
        else:
            image.resize(size, Image.Resampling.BICUBIC).save(target / photo, quality=95)
    shutil.copyfile(source / "classes.txt", target / "classes.txt")
    head, *rows = (source / "ImageSets" / "tags.csv").read_text().splitlines()
    rows = [row for row in rows if row.split(",")[0] in set(kept)]
    (target / "ImageSets" / "tags.csv").write_text("\n".join([head, *rows]) + "\n")


def collect(runs: dict[str, Path]) -> dict[str, Any]:
    """What finished runs reached."""
    rows = {}
    for name, root in runs.items():
        folder = RunFolder(root)
        metrics = read_record(folder.metrics)
        labels, cam = metrics["pseudo_label"], metrics["cam"]
        rows[name] = {
            "photos": labels["num_images"],
            "labels_miou": labels["miou"],
            "bg_score": labels["bg_score"],
            "cam_miou_best_bg": cam["miou_best_bg"],
            "environment": read_record(folder.environment),
        }
    return rows


def time_inference(model: Path, folders: dict[str, Path], count: int) -> dict[str, Any]:
    """Median seconds a photo of prediction and of maps, in turn, from file to file."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in folders}
    photos = {name: open_photos(folder).samples for name, folder in folders.items()}
    with TemporaryDirectory() as place:
        predict, maps = prediction_of(model, Path(place)), maps_of(model, Path(place))
        for turn in range(count + WARM_UP):
            for name, samples in photos.items():
                sample = samples[turn % len(samples)]
                pair = (time_of(predict, sample), time_of(maps, sample))
                if turn >= WARM_UP:
                    seconds[name].append(pair)
    rows = {}
    for name, samples in photos.items():
        of_predict, of_maps = zip(*seconds[name], strict=True)
        rows[name] = {
            "size": image_size(samples[0].image_path)[::-1],
            "predict_median_seconds": statistics.median(of_predict),
            "cam_median_seconds": statistics.median(of_maps),
        }
    return rows


def time_of(work: Callable[[Sample], None], sample: Sample) -> float:
    started = time.perf_counter()
    work(sample)
    return time.perf_counter() - started


def prediction_of(model: Path, place: Path) -> Callable[[Sample], None]:
    """Writes the mask of a photo."""
    predictor = Predictor.from_run(model)

    def predict(sample: Sample) -> None:
        failures = predictor.write(PhotoSet("one", (), (sample,), ()), place / "masks")
        assert not failures, failures

    return predict


def maps_of(model: Path, place: Path) -> Callable[[Sample], None]:
    """Writes the maps of a photo, as if it had the first tag."""
    run = RunFolder(model)
    config, card = run.read_config(), run.read_card()
    network = build_model(config, len(card["classes"]), pretrained=False)
    restore(network, run.weights)
    folder = RunFolder(place / "run")
    folder.root.mkdir()
    shutil.copyfile(run.model_card, folder.model_card)

    def maps(sample: Sample) -> None:
        photos = PhotoSet("one", tuple(card["classes"]), (replace(sample, tags=(0,)),), ())
        write_cams(Job(config, folder, photos, None), network)

    return maps


def page() -> str:
    """``docs/scale.md`` with its tables as the result files have them."""
    collected, timed = (
        json.loads((RESULTS / name).read_text()) for name in ("scale.json", "scale_time.json")
    )
    lines = [
        "| photos | training photos | labels, mIoU | CAM at the best background threshold |",
        "|---|---|---|---|",
    ]
    for name, row in collected["rows"].items():
        labels, best = 100 * row["labels_miou"], 100 * row["cam_miou_best_bg"]
        lines.append(f"| {name} | {row['photos']} | {labels:.1f} | {best:.1f} |")
    lines += ["", "| one photo of | `cam`, median seconds | `predict` |", "|---|---|---|"]
    for row in timed["rows"].values():
        width, height = row["size"]
        cam, predict = row["cam_median_seconds"], row["predict_median_seconds"]
        lines.append(f"| {width} x {height} | {cam:.2f} | {predict:.2f} |")
    text = PAGE.read_text()
    head, _, rest = text.partition(START)
    tail = rest.partition(END)[2]
    return "\n".join([f"{head}{START}", *lines, f"{END}{tail}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    larger = verbs.add_parser("enlarge")
    larger.add_argument("source", type=Path)
    larger.add_argument("target", type=Path)
    larger.add_argument("--times", type=float, required=True)
    larger.add_argument("--photos", type=int)
    for name in ("collect", "time"):
        verb = verbs.add_parser(name)
        verb.add_argument("folders", nargs="+", help="NAME=FOLDER")
        verb.add_argument("--json", type=Path, required=True)
        verb.add_argument("--revision", help="commit, where the package is no checkout")
        if name == "time":
            verb.add_argument("--model", type=Path, required=True)
            verb.add_argument("--count", type=int, default=20)
    verbs.add_parser("page")
    options = parser.parse_args()
    if options.verb == "page":
        write_text(PAGE, page())
        return
    if options.verb == "enlarge":
        enlarge(options.source, options.target, options.times, options.photos)
        return
    folders = {name: Path(path) for name, _, path in (x.partition("=") for x in options.folders)}
    rows = (
        collect(folders)
        if options.verb == "collect"
        else time_inference(options.model, folders, options.count)
    )
    here = environment(0)
    content = {
        "revision": options.revision or here["git_revision"],
        "environment": here,
        "rows": rows,
    }
    write_text(options.json, json.dumps(content, indent=1) + "\n")
    for name, row in rows.items():
        print(name, {key: value for key, value in row.items() if key != "environment"})


if __name__ == "__main__":
    main()
