"""Whether photos of one scene give the same labels at any resolution: enlarge them, run, collect.

python benchmarks/scale.py enlarge MSRC FOLDER --times 8 --photos 60
for each FOLDER: dscnet train|cam|label|evaluate --data FOLDER --out RUN (default settings)
python benchmarks/scale.py collect --json benchmarks/results/scale.json x1=RUN x8=RUN ...
python benchmarks/scale.py predict --model RUN --json benchmarks/results/scale_predict.json \\
    x1=FOLDER/JPEGImages x8=...
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from PIL import Image

from dscnet.data import open_photos
from dscnet.data.io import image_size, read_image
from dscnet.labels.enlarge import label_at
from dscnet.labels.pseudo_label import write_label
from dscnet.predictor import Predictor
from dscnet.run_folder import RunFolder, environment, read_record, write_text

LISTS = Path("ImageSets") / "Segmentation"
WARM_UP = 3


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
    """What finished runs reached, and the seconds a photo of their maps."""
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
            "cam_seconds_a_photo": folder.seconds()["cam"] / labels["num_images"],
            "train_seconds": folder.seconds()["train"],
            "environment": read_record(folder.environment),
        }
    return rows


def time_prediction(model: Path, folders: dict[str, Path], count: int) -> dict[str, Any]:
    """Median seconds a photo of prediction, in turn, from file to file."""
    predictor, rows = Predictor.from_run(model), {}
    seconds: dict[str, list[float]] = {name: [] for name in folders}
    photos = {name: open_photos(folder).samples for name, folder in folders.items()}
    for turn in range(count + WARM_UP):
        for name, samples in photos.items():
            sample = samples[turn % len(samples)]
            started = time.perf_counter()
            size = image_size(sample.image_path)
            image = read_image(sample.image_path, predictor.read_side)
            labels = label_at(predictor.work_probabilities(image, size), size)
            write_label(model / "timed.png", labels)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    (model / "timed.png").unlink()
    for name, samples in photos.items():
        width_and_height = image_size(samples[0].image_path)[::-1]
        rows[name] = {"size": width_and_height, "median_seconds": statistics.median(seconds[name])}
    return rows


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
    for name in ("collect", "predict"):
        verb = verbs.add_parser(name)
        verb.add_argument("folders", nargs="+", help="NAME=FOLDER")
        verb.add_argument("--json", type=Path, required=True)
        verb.add_argument("--revision", help="commit, where the package is no checkout")
        if name == "predict":
            verb.add_argument("--model", type=Path, required=True)
            verb.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    if options.verb == "enlarge":
        enlarge(options.source, options.target, options.times, options.photos)
        return
    folders = {name: Path(path) for name, _, path in (x.partition("=") for x in options.folders)}
    rows = (
        collect(folders)
        if options.verb == "collect"
        else time_prediction(options.model, folders, options.count)
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
