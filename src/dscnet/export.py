"""Export of a run's network and masks, checked against the original."""

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
from dscnet.data.photo_places import is_there
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
"""Default input side of networks trained on photos at their own size, pixels."""

TOLERANCE = 1e-3
"""Maximum difference of a score between the original and the export."""


class Scores(nn.Module):
    """Maps normalised photos with sides that are multiples of the stride to probabilities.

    Single scale, without flipping or CRF, regardless of ``segment.test_scales``, ``flip_test`` and
    ``crf``.
    """

    def __init__(self, segmenter: Segmenter | DeepLab | SegmentationPath) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities over the labels; label 0 = background."""
        # Without the padding of `Segmenter.forward`, which depends on the input size.
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
            longer side to scale photos to in its metadata), or folder (``safetensors``: weights,
            ``model.json``).
        kind: What to write.
        size: Input height and width of an ``onnx`` file, multiples of the stride; None = a square
            with the size of photos at scale 1.

    Returns:
        A description of what was written and its difference from the original.

    Raises:
        ValueError: If ``size`` is not a multiple of the output stride.
        DscnetError: If the folder contains no network, ``out`` is invalid or would overwrite a
            run's files, the ``onnx`` extra is missing, or the export differs.
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
                raise DscnetError(f"{weights}: '{name}' differs from the network")
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
    """Write masks as a COCO instances file.

    Args:
        model: Run folder.
        out: File.
        masks: Folder of label PNGs, such as from ``dscnet predict``; None = the run's pseudo labels
            of its training photos.
        photos: Folder of the photos of these masks, or one photo, for the file names; None = the
            run's photos, if they still exist.

    Returns:
        A description of what was written.

    Raises:
        DscnetError: If a folder contains no masks or no photos, the class names are unknown,
            ``out`` is a folder or one of a run's files, or decoding gives different masks.
    """
    _check_target(out, model, ending=".json")
    folder = RunFolder(Path(model))
    config = folder.read_config()
    source = folder.labels if masks is None else Path(masks)
    files = sorted(source.glob("*.png"))
    if not files:
        raise DscnetError(
            f"{source}: no label PNGs; run `dscnet label` or give a folder with --masks"
        )
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
    unmatched = sum(file.stem not in names for file in files)
    known = "of the run" if photos is None else f"in {photos}"
    note = f"; {unmatched} match no photo {known} and keep the mask's name" if unmatched else ""
    if undecided:
        note += f"; ignored pixels (255) of {undecided} photos are omitted, like background"
    return f"{out}: {len(files)} photos, {count} masks, checked against the original{note}"


def _check_target(out: Path, model: str | Path, *, ending: str | None) -> None:
    """Reject a target of the wrong type, or one that would overwrite a run's files.

    A file must have the given ending, so that no other file is overwritten; None = a folder.
    """
    folder = ending is None
    if folder and out.exists() and not out.is_dir():
        raise DscnetError(
            f"{out}: expected a folder to write to, found a file; choose another --out"
        )
    if not folder and out.is_dir():
        raise DscnetError(f"{out}: expected a file to write, found a folder; give a file in it")
    target = out.resolve()
    run = _run_around(target, Path(model).resolve())
    if run is not None and folder:
        raise DscnetError(
            f"{out}: expected a folder outside of runs, found the run {run}, whose model.json and"
            " weights could be overwritten; choose another --out"
        )
    if run is not None and target.relative_to(run).parts[0] in _names_of_run(RunFolder(run)):
        raise DscnetError(
            f"{out}: expected a new file, found a path used by the run {run}; choose another --out"
        )
    if ending is not None and out.suffix.lower() != ending:
        raise DscnetError(f"{out}: expected a file ending in {ending}; choose another --out")


def _run_around(path: Path, model: Path) -> Path | None:
    """The run folder, ``model`` or another, that a path is in."""
    for place in (path, *path.parents):
        run = RunFolder(place)
        if place == model or (run.config.exists() and run.environment.exists()):
            return place
    return None


def _names_of_run(run: RunFolder) -> set[str]:
    """Names of a run's files and folders, existing or not."""
    files = (run.config, run.environment, run.stages, run.losses, run.refinement, run.threshold)
    results = (run.model_card, run.metrics, run.report)
    folders = (run.checkpoints, run.cams, run.refined, run.learned, run.labels, run.saliency)
    more = (run.segmenter, run.masks, run.round(0).root, run.self_training(0).root)
    places = (*files, *results, *folders, *more)
    return {place.relative_to(run.root).parts[0] for place in places}


def _classes_of_run(folder: RunFolder, config: Config) -> Sequence[str]:
    """Class names; a run on external labels or CAMs may not have a CAM network."""
    if folder.segmenter_card.exists() or folder.model_card.exists():
        names: Sequence[str] = folder.read_segmenter_card()["classes"]
        return names
    if not config.data or not is_there(config.data):
        raise DscnetError(
            f"{folder.root}: expected class names in {folder.model_card}, in"
            f" {folder.segmenter_card} or in the run's data set, found none (data:"
            f" '{config.data}'); put the data set there"
        )
    return open_dataset(config.data, config.train_split).classes


def _decoded(content: dict[str, Any]) -> Iterator[NDArray[np.uint8]]:
    """Labels of each photo decoded from its annotations."""
    of_photo: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of_photo[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        labels = np.full((image["height"], image["width"]), BACKGROUND, np.uint8)
        for annotation in of_photo[image["id"]]:
            labels[fill(annotation["segmentation"], labels.shape)] = annotation["category_id"]
        yield labels


def _photos_of_run(config: Config) -> Sequence[Sample]:
    """The training and test photos of a run; empty if they no longer exist."""
    if not config.data or not is_there(config.data):
        return ()
    # A data set without splits has training photos only.
    splits = {config.train_split} | ({config.val_split} & set(available_splits(config.data)))
    return [sample for split in splits for sample in open_dataset(config.data, split).samples]


def _file_names(samples: Sequence[Sample]) -> dict[str, str]:
    """File names of photos by id, relative to their common folder."""
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
    # A batch size of 1 would be exported as a constant. Height and width are constants: the padding
    # of the backbone depends on them, which takes the exporter minutes with dynamic sizes.
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
    assert program is not None  # None only from the exporter that `dynamo=True` replaces
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
    """Maximum difference of a score between the network and the ONNX file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = network(photos)
    (got,) = session.run(None, {"image": photos.numpy()})
    return float((torch.from_numpy(got) - expected).abs().max())
