"""The stages, wired: train -> cam -> label -> segment -> evaluate -> report.

Stages talk through the files of a run folder. A stage whose inputs, settings and code are unchanged
is not
run again; an interrupted training goes on from its last epoch.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from dscnet import evaluation
from dscnet.build import (
    build_eval_transform,
    build_model,
    build_objective,
    build_segmenter,
    build_train_transform,
    device_of,
    optimiser_settings,
)
from dscnet.config import Config, TrainConfig
from dscnet.data import (
    PhotoDataset,
    PhotoSet,
    available_splits,
    check_dataset,
    image_size,
    make_loader,
    open_dataset,
    read_image,
    read_mask,
)
from dscnet.labels.cam import multi_scale_cam, read_cam, write_cam
from dscnet.labels.pseudo_label import (
    otsu_score,
    pseudo_label,
    read_label,
    score_histogram,
    write_label,
)
from dscnet.losses.tags import mean_average_precision
from dscnet.models import PlainCam
from dscnet.objective import SegmentationObjective
from dscnet.predictor import Predictor, restore, store
from dscnet.run_folder import RunFolder, fingerprint, write_text
from dscnet.training import CollapseWatch, TrainingModule, fit, tag_entropy
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")


@dataclass
class Context:
    """What every stage gets: settings, folder, photos."""

    config: Config
    folder: RunFolder
    train: PhotoSet
    val: PhotoSet | None
    progress: bool = True


def open_run(config: Config, folder: RunFolder, *, progress: bool = True) -> Context:
    """Open the run's photos; a data set without a validation split has ``val=None``."""
    if not config.data:
        raise DataError("no data set was named: --data FOLDER")
    splits = available_splits(config.data)
    train = open_dataset(config.data, config.train_split)
    val = open_dataset(config.data, config.val_split) if config.val_split in splits else None
    return Context(config, folder, train, val, progress)


def run(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    stages: Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """All stages, from photos and tags to masks, numbers and a report.

    Args:
        config: Settings; ``config.data`` names the data set.
        out: Run folder.
        resume: Go on in a folder that holds a run.
        force: Delete what the folder holds and start anew.
        stages: Names of the stages to run, in their order; None = all.
        progress: Show progress bars.

    Returns:
        What ``metrics.json`` holds; empty if nothing was evaluated.

    Raises:
        DscnetError: For data or settings that cannot work, before anything is trained.
    """
    names = list(STAGES) if stages is None else list(stages)
    if unknown := [name for name in names if name not in STAGES]:
        raise ValueError(f"stages must be among {', '.join(STAGES)}, got {', '.join(unknown)}")
    folder = RunFolder(Path(out))
    context = open_run(config, folder, progress=progress)
    if not (resume and folder.fingerprint_of("train")):
        check_photos(context)
    folder.create(resume=resume, force=force)
    folder.write_config(config)
    for name in names:
        run_stage(name, context)
    return evaluation.read_metrics(folder.metrics) if folder.metrics.exists() else {}


def run_single(
    name: str,
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> bool:
    """One stage alone, in a run folder that may hold what the stages before it made.

    Returns:
        Whether it ran; False when its files are up to date.
    """
    folder = RunFolder(Path(out))
    context = open_run(config, folder, progress=progress)
    if name == "train":
        check_photos(context)
        folder.create(resume=resume, force=force)
    else:
        folder.create(resume=True)
    folder.write_config(config)
    return run_stage(name, context)


def run_stage(name: str, context: Context) -> bool:
    """Run one stage unless its inputs, settings and code are those it finished with.

    Returns:
        Whether it ran.
    """
    stage, folder = STAGES[name], context.folder
    config = context.config
    for need in stage.needs(config):
        if folder.fingerprint_of(need) is None:
            raise DscnetError(
                f"'{name}' needs what '{need}' makes, and {folder.root} does not hold it:"
                f" run `dscnet {need}` first"
            )
    upstream = [folder.fingerprint_of(need) for need in (*stage.needs(config), *stage.reads)]
    mark = fingerprint(
        name,
        config.seed,
        [data_fingerprint(photos) for photos in (context.train, context.val)],
        stage.settings(config),
        upstream,
        code=stage.code,
    )
    if folder.is_done(name, mark):
        log.info("%s: up to date", name)
        return False
    resumable = folder.start(name, mark, stale=_downstream(name, config))
    started = time.monotonic()
    log.info("%s ...", name)
    stage.work(context, resumable)
    folder.finish(name, mark, time.monotonic() - started)
    log.info("%s: done in %.0f s", name, time.monotonic() - started)
    return True


def check_photos(context: Context) -> None:
    """Refuse photos that training or labelling would stumble over, all of them at once."""
    for photos in (context.train, context.val):
        if photos is None:
            continue
        report = check_dataset(photos, min_size=context.config.model.output_stride)
        for line in (*report.info, *report.warnings):
            log.info("data: %s", line)
        if not report.ok:
            raise DataError(
                "the data set cannot be used as it is:\n  " + "\n  ".join(report.errors)
            )


def data_fingerprint(photos: PhotoSet | None) -> str:
    """Names, tags and file states of a photo set."""
    if photos is None:
        return ""
    rows = []
    for sample in photos.samples:
        state = sample.image_path.stat()
        rows.append([sample.image_id, sample.tags, state.st_size, state.st_mtime_ns])
    return fingerprint(photos.classes, rows)


# ----------------------------------------------------------------------------------------------
# train


def train(context: Context, resume: bool) -> None:
    """Train the CAM network on photos and tags; the last weights count, no validation chooses."""
    config, folder = context.config, context.folder
    L.seed_everything(config.seed, workers=True, verbose=False)
    model = build_model(config, context.train.num_classes)
    objective = build_objective(config.method, context.train.num_labels)
    backbone = model.backbone
    dataset = PhotoDataset(
        context.train, build_train_transform(config.augment, backbone.mean, backbone.std)
    )
    write_card(context, backbone.mean, backbone.std)
    watch = CollapseWatch("cls", tag_entropy(tag_matrix(context.train)))
    optimise(
        context,
        model,
        objective,
        dataset,
        config.train,
        folder.checkpoints,
        folder.losses,
        resume,
        [watch],
    )
    store(model, folder.weights)
    scores = {"collapsed": watch.collapsed, "map": tag_map(context, model)}
    write_text(folder.checkpoints / "tags.json", json.dumps(scores) + "\n")


def optimise(
    context: Context,
    model: torch.nn.Module,
    objective: torch.nn.Module,
    dataset: PhotoDataset,
    settings: TrainConfig,
    checkpoints: Path,
    losses: Path,
    resume: bool,
    callbacks: list[Any],
) -> None:
    """One training by Lightning; a checkpoint of other settings is not resumed."""
    config = context.config
    if not resume:
        (checkpoints / "last.ckpt").unlink(missing_ok=True)
    loader = make_loader(
        dataset,
        batch_size=min(settings.batch_size, len(dataset)),
        seed=config.seed,
        shuffle=True,
        num_workers=config.augment.num_workers,
        drop_last=True,
    )
    module = TrainingModule(
        model,
        objective,
        total_steps=settings.epochs * len(loader),
        seed=config.seed,
        **optimiser_settings(settings),
    )
    fit(
        module,
        loader,
        epochs=settings.epochs,
        folder=checkpoints,
        log_path=losses,
        clip=settings.clip,
        precision=settings.precision,
        accelerator=settings.accelerator,
        resume=resume,
        callbacks=callbacks,
        progress=context.progress,
    )


def write_card(context: Context, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """What prediction needs beside weights and settings."""
    photos = context.train
    card = {
        "data": photos.name,
        "classes": list(photos.classes),
        "mean": list(mean),
        "std": list(std),
    }
    write_text(context.folder.model_card, json.dumps(card, indent=2) + "\n")


def tag_matrix(photos: PhotoSet) -> torch.Tensor:
    """Tags of a photo set, ``(N, C)`` float in {0, 1}."""
    matrix = torch.zeros(len(photos.samples), photos.num_classes)
    for row, sample in zip(matrix, photos.samples, strict=True):
        row[list(sample.tags or ())] = 1
    return matrix


@torch.inference_mode()
def tag_map(context: Context, model: PlainCam) -> float | None:
    """Mean average precision of the tags on the validation photos: it needs no masks."""
    if context.val is None:
        return None
    device = device_of(context.config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(model.backbone.mean, model.backbone.std)
    scores = []
    for sample in context.val.samples:
        image = transform(read_image(sample.image_path), None)[0][None].to(device)
        scores.append(model.tag_logits(model(image), (image.shape[-2], image.shape[-1])).cpu())
    value = mean_average_precision(torch.cat(scores), tag_matrix(context.val))
    return None if np.isnan(value) else value


# ------------------------------------------------------------------------------------------ cam,
# label


def cam(context: Context, resume: bool) -> None:
    """Write the maps of every training photo: ``cams/ID.npz``."""
    config, folder = context.config, context.folder
    model = build_model(config, context.train.num_classes, pretrained=False)
    restore(model, folder.weights)
    card = folder.read_card()
    device = device_of(config.train.accelerator)
    model.to(device).eval()
    transform = build_eval_transform(card["mean"], card["std"])
    fresh_folder(folder.cams)
    for indices in same_size_batches(context.train, config.cam.batch_size):
        samples = [context.train.samples[index] for index in indices]
        images = torch.stack(
            [transform(read_image(sample.image_path), None)[0] for sample in samples]
        )
        tags = tag_matrix(context.train)[indices]
        with torch.inference_mode():
            maps = multi_scale_cam(
                model.score_maps,
                images.to(device),
                tags.to(device),
                scales=config.cam.scales,
                flip=config.cam.flip,
            )
        for row, sample in enumerate(samples):
            present = np.asarray(sample.tags or (), dtype=np.int64)
            write_cam(
                folder.cams / f"{sample.image_id}.npz",
                {name: value[row, present].cpu().numpy() for name, value in maps.items()},
                present,
            )


def same_size_batches(photos: PhotoSet, batch_size: int) -> Iterator[list[int]]:
    """Indices of photos that share one size, at most ``batch_size`` at once."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, sample in enumerate(photos.samples):
        by_size.setdefault(image_size(sample.image_path), []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def load_map(folder: Path, image_id: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The map that labels are made from: the refined CAM where there is one; with its classes."""
    maps, classes = read_cam(folder / f"{image_id}.npz")
    return maps["refined" if "refined" in maps else "cam"], classes


def label(context: Context, resume: bool) -> None:
    """Write the pseudo label of every training photo: ``labels/ID.png``.

    Beside the fixed background score it notes the one that the maps themselves suggest.
    """
    settings, folder = context.config.label, context.folder
    cams = Path(settings.cams) if settings.cams else folder.cams
    band = (
        None if settings.ignore_band is None else (settings.ignore_band[0], settings.ignore_band[1])
    )
    fresh_folder(folder.labels)
    histogram = score_histogram(np.zeros((0, 1, 1)))
    for sample in context.train.samples:
        scores, classes = load_map(cams, sample.image_id)
        histogram += score_histogram(scores)
        labels = pseudo_label(scores, classes, bg_score=settings.bg_score, ignore_band=band)
        write_label(folder.labels / f"{sample.image_id}.png", labels)
    otsu = otsu_score(histogram)
    write_text(folder.threshold, json.dumps({"otsu": otsu, "used": settings.bg_score}) + "\n")
    log.info(
        "background score %s; Otsu's criterion on the maps suggests %s", settings.bg_score, otsu
    )


def fresh_folder(path: Path) -> None:
    """An empty folder in the place of what a stage wrote before."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)


# -------------------------------------------------------------------------------------------
# segment


def segment(context: Context, resume: bool) -> None:
    """Train the segmentation network on the pseudo labels; write the validation photos' masks."""
    config, folder = context.config, context.folder
    L.seed_everything(config.seed, workers=True, verbose=False)
    model = build_segmenter(config, context.train.num_labels)
    transform = build_train_transform(config.augment, model.mean, model.std)
    full = config.segment.supervision == "full"
    labels = Path(config.segment.labels) if config.segment.labels else folder.labels
    dataset = PhotoDataset(
        context.train, transform, mask_dir=None if full else labels, use_masks=full
    )
    write_card(context, model.mean, model.std)
    optimise(
        context,
        model,
        SegmentationObjective(),
        dataset,
        config.segment,
        folder.segmenter,
        folder.segmenter / "metrics.csv",
        resume,
        [],
    )
    store(model, folder.segmenter_weights)
    if context.val is not None:
        fresh_folder(folder.masks)
        Predictor.from_run(folder.root).write(context.val, folder.masks)


# ---------------------------------------------------------------------------------- evaluate,
# report


def evaluate(context: Context, resume: bool) -> None:
    """Measure every stage against the true masks, where the data set has them: ``metrics.json``."""
    config, folder = context.config, context.folder
    classes = context.train.classes
    train_masks = truth(context.train)
    val_masks = truth(context.val)
    bg_score = config.label.bg_score
    sections: dict[str, Any] = {
        "cam": None,
        "pseudo_label": None,
        "segmenter": None,
        "tags": {"map": None},
    }
    if train_masks and folder.fingerprint_of("cam"):
        items = (
            (*load_map(folder.cams, image_id), read_mask(path).numpy())
            for image_id, path in train_masks
        )
        sections["cam"] = evaluation.evaluate_cams(
            items, classes, split=config.train_split, bg_score=bg_score
        )
    if train_masks and folder.fingerprint_of("label"):
        pairs = label_pairs(folder.labels, train_masks)
        sections["pseudo_label"] = evaluation.evaluate_pairs(
            pairs, classes, split=config.train_split, bg_score=bg_score
        )
    if val_masks and folder.fingerprint_of("segment"):
        pairs = label_pairs(folder.masks, val_masks)
        sections["segmenter"] = evaluation.evaluate_pairs(pairs, classes, split=config.val_split)
    tags = folder.checkpoints / "tags.json"
    if folder.fingerprint_of("train"):
        sections["tags"]["map"] = json.loads(tags.read_text())["map"]
    evaluation.write_metrics(folder.metrics, sections)


def truth(photos: PhotoSet | None) -> list[tuple[str, Path]]:
    """Ids and true masks of the photos that have one."""
    if photos is None:
        return []
    return [
        (sample.image_id, sample.mask_path)
        for sample in photos.samples
        if sample.mask_path is not None
    ]


def label_pairs(
    folder: Path, masks: list[tuple[str, Path]]
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Written labels beside the true masks."""
    for image_id, path in masks:
        yield read_label(folder / f"{image_id}.png"), read_mask(path).numpy()


def report(context: Context, resume: bool) -> None:
    """Write ``report.html``."""
    from dscnet.run_report import write_run_report

    write_run_report(context.config, context.folder, context.train, context.val)


# --------------------------------------------------------------------------------------------
# stages


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline and what decides whether it must run again.

    Attributes:
        work: Does it; its second argument says whether an interrupted try may be continued.
        needs: Stages whose files it reads, given the settings.
        settings: The settings that change what it makes.
        code: Modules and rooms that change what it makes.
        reads: Stages whose files it reads where there are any.
    """

    work: Callable[[Context, bool], None]
    needs: Callable[[Config], tuple[str, ...]]
    settings: Callable[[Config], Any]
    code: tuple[str, ...]
    reads: tuple[str, ...] = ()


def _downstream(name: str, config: Config) -> set[str]:
    """Stages whose files are out of date once ``name`` has run again."""
    stale = {name}
    for other, stage in STAGES.items():
        if stale & {*stage.needs(config), *stage.reads}:
            stale.add(other)
    return stale - {name}


def _learning(config: Config) -> list[Any]:
    augment = asdict(config.augment)
    augment.pop("num_workers")
    return [asdict(config.model), augment]


STAGES: dict[str, Stage] = {
    "train": Stage(
        train,
        lambda config: (),
        lambda config: [*_learning(config), asdict(config.method), asdict(config.train)],
        ("data", "models", "context", "losses", "objective.py", "training.py", "build.py"),
    ),
    "cam": Stage(
        cam,
        lambda config: ("train",),
        lambda config: asdict(config.cam),
        ("models", "context", "labels/cam.py"),
    ),
    "label": Stage(
        label,
        lambda config: () if config.label.cams else ("cam",),
        lambda config: asdict(config.label),
        ("labels/pseudo_label.py",),
    ),
    "segment": Stage(
        segment,
        lambda config: (
            () if config.segment.labels or config.segment.supervision == "full" else ("label",)
        ),
        lambda config: [*_learning(config), asdict(config.segment)],
        ("data", "models", "training.py", "predictor.py", "objective.py"),
    ),
    "evaluate": Stage(
        evaluate,
        lambda config: (),
        lambda config: [asdict(config.label), asdict(config.segment)],
        ("evaluation.py", "confusion.py", "labels/pseudo_label.py"),
        reads=("train", "cam", "label", "segment"),
    ),
    "report": Stage(
        report,
        lambda config: ("evaluate",),
        lambda config: None,
        ("report.py", "run_report.py", "overlay.py", "templates/report.html.j2"),
    ),
}
