"""Inference: masks for photos from a trained segmentation network, without tags."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dscnet.build import build_eval_transform, build_model, build_segmenter, inference_settings
from dscnet.config import Config
from dscnet.data import (
    TAG_SUFFIXES,
    PhotoSet,
    Sample,
    open_photos,
    refuse_overwriting_photos,
    write_failure,
)
from dscnet.data.io import image_size, read_image
from dscnet.data.photo_places import photo_places
from dscnet.data.scale import PhotoScale, windows
from dscnet.data.transforms import resize_labels, resize_photo
from dscnet.distributed.ranks import gather_parts, join, own_part
from dscnet.files.in_threads import in_threads
from dscnet.files.label_images import write_label
from dscnet.files.progress import photo_progress
from dscnet.labels.upsampled_argmax import label_at
from dscnet.labels.windows import join_windows
from dscnet.models import AuxSegNet, SegmentationPath
from dscnet.models.checkpoint import restore
from dscnet.models.segmenter import Segmenter
from dscnet.numerics import resize
from dscnet.refine.crf import dense_crf
from dscnet.report.overlay import overlay
from dscnet.run_folder import RunFolder, write_text
from dscnet.types import DataError, DscnetError

log = logging.getLogger("dscnet")

TEST_CRF: dict[str, Any] = {
    "iterations": 10,
    "gaussian_std": 4.0,
    "gaussian_weight": 3.0,
    "bilateral_std": 83.0,
    "color_std": 5.0,
    "bilateral_weight": 3.0,
    "negligible": 0.05,
}
"""Parameters of the dense CRF at test time, from AuxSegNet's published code.

``negligible`` is ours, for speed: ``benchmarks/predict_speed.py`` measures the agreement.
"""

OWN_SIZE = PhotoScale()
"""Photos at their own size, as published."""

LARGE = 2**20
"""Pixels from which a photo's working size takes much memory: such photos go one at a time."""

MOST_THREADS = 4
"""Maximum number of photos at a time; each needs memory."""

OVERLAY_SIDE = 1600
"""Maximum longer side of overlays, pixels."""


class Predictor:
    """A segmentation network for photos of any size.

    Args:
        model: Maps photos ``(B, 3, H, W)``, one and its mirror image, to a ``ModelOutput`` with
            ``seg_logits``; called by several threads.
        classes: Foreground class names; label ``c + 1`` is ``classes[c]``.
        mean: Channel means, for values in [0, 1].
        std: Channel standard deviations.
        scale: Photo size at scale 1, and the size at which scores are computed; by default the
            photo's own.
        scales: Test scales whose scores are averaged, each > 0; at least one.
        flip: Also average over horizontally flipped photos.
        crf: Post-process with a dense CRF with parameters ``TEST_CRF``.
        device: Device to run on.

    Raises:
        ValueError: If ``scales`` is empty or not all positive.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        scale: PhotoScale = OWN_SIZE,
        scales: Sequence[float] = (1.0,),
        flip: bool = True,
        crf: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model = self._network = model.to(self.device).eval()
        self.classes = classes
        self.mean, self.std = mean, std
        self.transform = build_eval_transform(mean, std)
        self.scale, self.scales, self.flip, self.crf = scale, check_scales(scales), flip, crf
        self._one_large_photo = threading.Lock()

    @classmethod
    def from_run(cls, root: str | Path) -> Predictor:
        """Load the segmentation network of a run folder.

        Raises:
            DscnetError: If the folder contains no trained segmentation network.
        """
        folder = RunFolder(Path(root))
        config = folder.read_config()
        weights = folder.weights if config.own_branch else folder.segmenter_weights
        if not weights.exists():
            raise DscnetError(
                f"{folder.root} contains no segmentation network: {weights} is missing; train one"
                f" with `dscnet {'train' if config.own_branch else 'segment'} --out {folder.root}`"
            )
        card = folder.read_card() if config.own_branch else folder.read_segmenter_card()
        return cls.from_weights(config, weights, card)

    @classmethod
    def from_weights(cls, config: Config, weights: Path, card: Mapping[str, Any]) -> Predictor:
        """Load a segmentation network from its files.

        Args:
            config: The run's settings.
            weights: The network's weight file.
            card: Class names and photo normalisation, as in a run's ``model.json``.
        """
        classes = tuple(card["classes"])
        predictor = cls(
            _load_network(config, weights, len(classes)),
            classes,
            mean=tuple(card["mean"]),
            std=tuple(card["std"]),
            **inference_settings(config),
        )
        if isinstance(predictor.model, Segmenter):
            predictor._network = predictor.model.for_inference()
        return predictor

    def __call__(self, image: Tensor) -> NDArray[np.uint8]:
        """The most probable label of each pixel of one photo.

        Args:
            image: RGB photo, ``(3, H, W)`` uint8, from ``dscnet.data.io.read_image``.

        Returns:
            ``(H, W)`` uint8: 0 = background, ``c + 1`` = class ``c``.
        """
        size = (image.shape[-2], image.shape[-1])
        return label_at(self.work_probabilities(image, size), size)

    @property
    def read_side(self) -> int | None:
        """Longer side that a photo can be reduced to without loss; None = no limit."""
        return self.scale.read_side(self.scales)

    def probabilities(self, image: Tensor) -> Tensor:
        """Label probabilities of one photo at its own size.

        Args:
            image: RGB photo, ``(3, H, W)`` uint8.

        Returns:
            ``(L, H, W)`` float32 on the CPU, sums to 1 over the labels; label 0 = background. For
            large photos this takes much memory; calling the predictor does not need it.
        """
        size = (image.shape[-2], image.shape[-1])
        whole = resize(self.work_probabilities(image, size)[None], size, align_corners=False)
        return whole[0].cpu()

    @torch.inference_mode()
    def work_probabilities(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Label probabilities of one photo at the working size of ``scale``.

        Softmax of the mean score over scales and flips. Photos and scores are resized bilinearly
        without aligned corners; photos are antialiased unless ``scale`` keeps their own size.

        Args:
            image: RGB photo, ``(3, *, *)`` uint8, possibly reduced to ``read_side``.
            size: Height and width of the original photo.

        Returns:
            ``(L, h, w)`` float32, sums to 1 over the labels; label 0 = background.
        """
        photo = self.transform(image, None)[0][None].to(self.device)
        work = self.scale.work_size(size)
        total = torch.zeros((), device=self.device)
        for scale in self.scales:
            seen = self.scale.view_size(size, scale)
            smooth = self.scale.side is not None
            view = resize(photo, seen, align_corners=False, antialias=smooth)
            total = total + resize(self._view_scores(view), work, align_corners=False)
        probabilities = (total / (len(self.scales) * (1 + self.flip))).softmax(1)
        if self.crf:
            pixels = resize_photo(image[None].to(self.device), work)
            probabilities = dense_crf(probabilities, pixels, **TEST_CRF)
        return probabilities[0]

    def _view_scores(self, view: Tensor) -> Tensor:
        """Scores of a photo, plus those of its mirror image with ``flip``, ``(1, L, H, W)``."""
        if not self.flip:
            return self._scores(view)
        if math.prod(view.shape[-2:]) > LARGE:
            return self._scores(view) + self._scores(view.flip(-1)).flip(-1)
        both = self._scores(torch.cat([view, view.flip(-1)]))
        return both[:1] + both[1:].flip(-1)

    def _scores(self, view: Tensor) -> Tensor:
        """The network's scores ``(B, L, H, W)``, computed window by window with tiling."""
        size = (view.shape[-2], view.shape[-1])
        parts = windows(size, self.scale.tiles, self.scale.tile_overlap)
        if len(parts) == 1:
            scores: Tensor = self._network(view).seg_logits.float()
            return scores
        seen = [
            {"seg": self._network(view[..., rows, columns]).seg_logits.float()}
            for rows, columns in parts
        ]
        return join_windows(seen, parts, size)["seg"]

    def write(
        self,
        photos: PhotoSet,
        masks: Path,
        *,
        overlays: Path | None = None,
        done: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """Write ``masks/ID.png`` (palette PNG) for every photo, and optionally an overlay.

        Photos that cannot be read, or whose output cannot be written, are skipped. Several ranks
        share the photos, and each processes several at a time, one thread each, as one photo does
        not keep many cores busy.

        Args:
            photos: The photos.
            masks: Folder of the masks.
            overlays: Folder of the overlays; None = none.
            done: Called after each photo of this rank.

        Returns:
            One error message per skipped photo.
        """
        masks.mkdir(parents=True, exist_ok=True)
        threads = torch.get_num_threads()
        samples = own_part(photos.samples)
        workers = min(threads, MOST_THREADS, max(1, len(samples)))
        work = partial(self._write_photo, masks=masks, overlays=overlays)
        each = partial(torch.set_num_threads, threads // workers)
        outcomes = []
        try:
            for outcome in in_threads(work, samples, workers, start=each):
                outcomes.append(outcome)
                done()
        finally:
            # The number is the thread's own, but new threads take that of the last call.
            torch.set_num_threads(threads)
        return [message for message in gather_parts(outcomes) if message is not None]

    def _write_photo(self, sample: Sample, *, masks: Path, overlays: Path | None) -> str | None:
        """Write the outputs of a photo; returns an error message if it is skipped."""
        try:
            size = image_size(sample.image_path)
            # Decoding takes memory too, but at most a sixteenth of what inference does.
            large = max(math.prod(self.scale.work_size(size)), math.prod(size) // 16) > LARGE
            with self._one_large_photo if large else nullcontext():
                image = read_image(sample.image_path, self.read_side)
                labels = label_at(self.work_probabilities(image, size), size)
            write_label(masks / f"{sample.image_id}.png", labels)
            if overlays is not None:
                _write_overlay(overlays / f"{sample.image_id}.jpg", sample.image_path, labels)
        except DscnetError as error:
            return str(error)
        except OSError as error:
            return write_failure(sample, error)
        return None


def refuse_failures(failures: Sequence[str]) -> None:
    """Raise a ``DataError`` with the messages from ``write``, if there are any."""
    if failures:
        raise DataError("some photos could not be predicted:\n  " + "\n  ".join(failures))


def check_scales(scales: Sequence[float], name: str = "scales") -> tuple[float, ...]:
    """Validate test scales and return them as a tuple."""
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"{name} must be one or more positive numbers, got {tuple(scales)}")
    return tuple(scales)


def predict(
    photos: str | Path | Sequence[str | Path],
    model: str | Path,
    out: str | Path,
    *,
    lists: Sequence[str | Path] = (),
    crf: bool | None = None,
    progress: bool = False,
) -> list[str]:
    """Predict masks for photos: ``OUT/masks``, ``OUT/overlays`` and ``OUT/classes.txt``.

    Args:
        photos: A folder, a photo or a glob pattern, or several of them.
        model: Run folder of a trained network.
        out: Output folder.
        lists: Files with one such path per line.
        crf: Whether to post-process with a dense CRF; None = as in the run's settings.
        progress: Show a progress bar in a terminal.

    Returns:
        One error message per photo that failed.

    Raises:
        DscnetError: If the run has no trained network, there are no photos, ``out`` contains a data
            set or other masks, or a photo would be overwritten.
    """
    join("auto")
    _refuse_data_set(Path(out))
    places = photo_places([photos] if isinstance(photos, str | Path) else photos, lists)
    if not places:
        raise DataError("no photos are named: give photos, folders or lists of them")
    masks, overlays = Path(out) / "masks", Path(out) / "overlays"
    # They may be inside the folder of photos, from an earlier call.
    photo_set = open_photos(*places, apart_from=(masks, overlays))
    for folder, ending in ((masks, "png"), (overlays, "jpg")):
        names = (f"{sample.image_id}.{ending}" for sample in photo_set.samples)
        refuse_overwriting_photos(photo_set.samples, (folder / name for name in names))
    _refuse_others_masks(Path(out))
    for note in photo_set.notes:
        log.warning("%s", note)
    predictor = Predictor.from_run(model)
    predictor.crf = predictor.crf if crf is None else crf
    # First, as it marks these masks as predictions.
    write_text(Path(out) / "classes.txt", "\n".join(["background", *predictor.classes]) + "\n")
    with photo_progress(len(photo_set.samples), shown=progress) as done:
        return predictor.write(photo_set, masks, overlays=overlays, done=done)


def _refuse_data_set(out: Path) -> None:
    """Reject a data set: predictions would overwrite its ground-truth masks and class list."""
    parts = ("images", "JPEGImages", *(f"tags{suffix}" for suffix in TAG_SUFFIXES))
    found = [name for name in parts if (out / name).exists()]
    found += [path.name for path in sorted(out.glob("*.tar"))[:1]]
    if found:
        raise DscnetError(
            f"{out}: expected a folder for predictions, found a data set ({', '.join(found)}),"
            " whose masks and classes.txt would be overwritten; choose another --out"
        )


def _refuse_others_masks(out: Path) -> None:
    """Reject masks that no earlier prediction wrote, such as those of a data set or a run."""
    masks, classes = out / "masks", out / "classes.txt"
    ours = classes.is_file() and classes.read_text(encoding="utf-8", errors="replace").startswith(
        "background\n"
    )
    if not ours and masks.is_dir() and any(masks.iterdir()):
        raise DscnetError(
            f"{masks}: expected no masks, or those of an earlier `dscnet predict`, which also"
            f" writes {classes}; found other masks that could be overwritten; choose another --out"
        )


def _load_network(config: Config, weights: Path, num_classes: int) -> nn.Module:
    if not config.own_branch:
        segmenter = build_segmenter(config, num_classes + 1, pretrained=False)
        restore(segmenter, weights)
        return segmenter
    network = build_model(config, num_classes, pretrained=False)
    restore(network, weights)
    assert isinstance(network, AuxSegNet)
    return SegmentationPath(network, averaged=config.segment.branch_scores == "averaged")


def _write_overlay(path: Path, photo: Path, labels: NDArray[np.uint8]) -> None:
    from PIL import Image

    image = read_image(photo, OVERLAY_SIDE)
    reduced = resize_labels(torch.from_numpy(labels), (image.shape[-2], image.shape[-1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = overlay(image.permute(1, 2, 0).numpy(), reduced.numpy())
    Image.fromarray(picture).save(path, quality=90)
