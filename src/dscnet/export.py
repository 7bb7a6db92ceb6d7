"""A run's network and masks for use elsewhere, each export checked against the original."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from dscnet.config import Config
from dscnet.data import Sample, available_splits, open_dataset, open_photos
from dscnet.files.label_images import read_labels
from dscnet.labels.coco import coco_annotations
from dscnet.labels.contours import fill
from dscnet.models import SegmentationPath
from dscnet.models.checkpoint import store
from dscnet.models.deeplab import DeepLab
from dscnet.models.segmenter import Segmenter
from dscnet.predictor import Predictor
from dscnet.run_folder import RunFolder, write_text
from dscnet.types import BACKGROUND, IGNORE_INDEX, DscnetError

OWN_SIZE_SIDE = 320
"""Side of the photos that a network takes by default which saw them at their own size, pixels."""

TOLERANCE = 1e-3
"""Largest difference of a score, original against export, that counts as the same network."""


class Scores(nn.Module):
    """Normalised photos whose sides are multiples of the stride to ``(B, L, H, W)`` scores.

    One size and no mirror image, whatever ``segment.test_scales``, ``flip_test`` and ``crf`` are.
    """

    def __init__(self, segmenter: Segmenter | DeepLab | SegmentationPath) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities over the labels; label 0 = background."""
        # Without the padding of `Segmenter.forward`, whose sizes a fixed graph cannot decide.
        probabilities: Tensor = self.segmenter.net(image).softmax(1)
        return probabilities


def export(
    model: str | Path,
    out: Path,
    kind: Literal["onnx", "safetensors"],
    size: tuple[int, int] | None = None,
) -> str:
    """Write the segmentation network of a run folder.

    Args:
        model: Run folder.
        out: File (``onnx``: any batch of photos of one size; class names, normalisation and the
            longer side that photos are to be scaled to in its metadata), or folder
            (``safetensors``: weights, ``model.json``).
        kind: What to write.
        size: Height and width of the photos that an ``onnx`` file takes, multiples of the stride;
            None = a square as large as the network sees photos at scale 1.

    Returns:
        What was written and how far it is from the original.

    Raises:
        ValueError: If ``size`` is no multiple of the output stride.
        DscnetError: If the folder holds no network, ``out`` would replace a run's files or is no
            place for what is written, the ``onnx`` extra is missing, or the export differs.
    """
    _check_target(out, model, ending=None if kind == "safetensors" else ".onnx")
    predictor = Predictor.from_run(model)
    card = {
        "classes": ["background", *predictor.classes],
        "mean": list(predictor.mean),
        "std": list(predictor.std),
        "long_side": predictor.scale.side,
    }
    if kind == "safetensors":
        out.mkdir(parents=True, exist_ok=True)
        weights = out / "model.safetensors"
        store(predictor.model, weights)
        stored = load_file(weights)
        for name, value in predictor.model.state_dict().items():
            if not torch.equal(stored[name], value.cpu()):
                raise DscnetError(f"{weights}: '{name}' differs from the network's")
        write_text(out / "model.json", json.dumps(card, indent=2) + "\n")
        return f"{out}: weights, checked against the original, and model.json"
    assert isinstance(predictor.model, Segmenter | DeepLab | SegmentationPath)
    stride = predictor.model.output_stride
    if size is None:
        side = predictor.scale.side or OWN_SIZE_SIDE
        size = (side + -side % stride,) * 2
    if any(side < 1 or side % stride for side in size):
        raise ValueError(f"size must be multiples of the output stride {stride}, got {size}")
    difference = _export_onnx(Scores(predictor.model).cpu().eval(), out, card, size)
    return f"{out}: checked against the original, largest difference {difference:.1e}"


def export_coco(
    model: str | Path,
    out: Path,
    masks: str | Path | None = None,
    photos: str | Path | None = None,
) -> str:
    """Write masks as one COCO instances file.

    Args:
        model: Run folder.
        out: File.
        masks: Folder of label PNGs, such as ``dscnet predict`` writes; None = the run's pseudo
            labels of its training photos.
        photos: Folder of the photos that the masks are of, or one photo: gives the names of the
            files; None = the run's photos, where they still are.

    Returns:
        What was written.

    Raises:
        DscnetError: If a folder holds no masks or no photos, nothing tells the run's classes,
            ``out`` is a folder or one of a run's files, or what was written gives other masks.
    """
    _check_target(out, model, ending=".json")
    folder = RunFolder(Path(model))
    config = folder.read_config()
    source = folder.labels if masks is None else Path(masks)
    files = sorted(source.glob("*.png"))
    if not files:
        raise DscnetError(f"{source}: no label PNGs; run `dscnet label` or name a folder: --masks")
    named = _photos_of_run(config) if photos is None else open_photos(photos).samples
    names = _file_names(named)
    labels = ((names.get(file.stem, file.name), read_labels(file)) for file in files)
    content = coco_annotations(labels, _classes_of_run(folder, config))
    undecided = 0
    for file, got in zip(files, _decoded(content), strict=True):
        original = read_labels(file)
        undecided += bool((original == IGNORE_INDEX).any())
        if not np.array_equal(got, np.where(original == IGNORE_INDEX, BACKGROUND, original)):
            raise DscnetError(f"{out}: the masks of {file} differ; nothing was written")
    write_text(out, json.dumps(content) + "\n")
    count = len(content["annotations"])
    strangers = sum(file.stem not in names for file in files)
    known = "of the run" if photos is None else f"in {photos}"
    note = f"; {strangers} are no photos {known} and named as their masks" if strangers else ""
    if undecided:
        note += f"; undecided pixels of {undecided} photos are left out, as background is"
    return f"{out}: {len(files)} photos, {count} masks, checked against the original{note}"


def _check_target(out: Path, model: str | Path, *, ending: str | None) -> None:
    """Refuse a target that is of the wrong kind, or that would replace a run's files.

    A file must have its kind's ending, so that none of another kind is replaced; None = a folder.
    """
    folder = ending is None
    if folder and out.exists() and not out.is_dir():
        raise DscnetError(f"{out}: expected a folder to write to, found a file; name another --out")
    if not folder and out.is_dir():
        raise DscnetError(f"{out}: expected a file to write, found a folder; name a file in it")
    target = out.resolve()
    run = _run_around(target, Path(model).resolve())
    if run is not None and folder:
        raise DscnetError(
            f"{out}: expected a folder outside of runs, found the run {run}, whose model.json and"
            " weights could be replaced; name another --out"
        )
    if run is not None and target.relative_to(run).parts[0] in _names_of_run(RunFolder(run)):
        raise DscnetError(
            f"{out}: expected a file of your own, found a place where the run {run} keeps its"
            " files; name another --out"
        )
    if ending is not None and out.suffix.lower() != ending:
        raise DscnetError(f"{out}: expected a file ending in {ending}; name another --out")


def _run_around(path: Path, model: Path) -> Path | None:
    """The run folder, ``model`` or another, that a path is or lies in."""
    for place in (path, *path.parents):
        run = RunFolder(place)
        if place == model or (run.config.exists() and run.environment.exists()):
            return place
    return None


def _names_of_run(run: RunFolder) -> set[str]:
    """What a run's files and folders are called, whether or not they are there yet."""
    files = (run.config, run.environment, run.stages, run.losses, run.refinement, run.threshold)
    results = (run.model_card, run.metrics, run.report)
    folders = (run.checkpoints, run.cams, run.refined, run.learned, run.labels, run.saliency)
    more = (run.segmenter, run.masks, run.round(0).root, run.self_training(0).root)
    places = (*files, *results, *folders, *more)
    return {place.relative_to(run.root).parts[0] for place in places}


def _classes_of_run(folder: RunFolder, config: Config) -> Sequence[str]:
    """Class names; a run on labels or maps made elsewhere may have trained no CAM network."""
    if folder.segmenter_card.exists() or folder.model_card.exists():
        names: Sequence[str] = folder.read_segmenter_card()["classes"]
        return names
    if not config.data or not Path(config.data).exists():
        raise DscnetError(
            f"{folder.root}: expected class names in {folder.model_card}, in"
            f" {folder.segmenter_card} or in the run's data set, found none (data:"
            f" '{config.data}'); put the data set there"
        )
    return open_dataset(config.data, config.train_split).classes


def _decoded(content: dict[str, Any]) -> Iterator[NDArray[np.uint8]]:
    """Labels of each photo as its annotations give them."""
    of_photo: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of_photo[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        labels = np.full((image["height"], image["width"]), BACKGROUND, np.uint8)
        for annotation in of_photo[image["id"]]:
            labels[fill(annotation["segmentation"], labels.shape)] = annotation["category_id"]
        yield labels


def _photos_of_run(config: Config) -> Sequence[Sample]:
    """The photos that a run learned from and was tested on; none where they no longer are."""
    if not config.data or not Path(config.data).exists():
        return ()
    # A data set without splits is one to train on.
    splits = {config.train_split} | ({config.val_split} & set(available_splits(config.data)))
    return [sample for split in splits for sample in open_dataset(config.data, split).samples]


def _file_names(samples: Sequence[Sample]) -> dict[str, str]:
    """File names of photos by id, below the folder that all lie in."""
    if not samples:
        return {}
    root = os.path.commonpath([sample.image_path.parent for sample in samples])
    return {s.image_id: s.image_path.relative_to(root).as_posix() for s in samples}


def _export_onnx(network: Scores, out: Path, card: dict[str, Any], size: tuple[int, int]) -> float:
    try:
        import onnx
        import onnxruntime  # noqa: F401  (the check needs it)
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise DscnetError(f"{error.name} is missing: pip install 'dscnet[onnx]'") from error
    generator = torch.Generator().manual_seed(0)
    # A batch of one would be taken for a constant. Height and width are constants: the trunk pads
    # by them in a way that takes the exporter minutes to solve for free sizes.
    example = torch.randn(2, 3, *size, generator=generator)
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["image"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None  # it is None only for the exporter that `dynamo=True` replaces
    model = program.model_proto
    for key, value in card.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    try:
        onnx.save(model, temporary)
        difference = _difference(network, temporary, torch.randn(3, 3, *size, generator=generator))
        if difference > TOLERANCE:
            raise DscnetError(
                f"the export differs from the network by {difference:.1e}; nothing was written"
            )
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def _difference(network: Scores, file: Path, photos: Tensor) -> float:
    """Largest difference of a score, network against ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = network(photos)
    (got,) = session.run(None, {"image": photos.numpy()})
    return float((torch.from_numpy(got) - expected).abs().max())
