"""Masks for photos from a trained segmentation network: no tags, no ground truth."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dscnet.build import build_eval_transform, build_model, build_segmenter, inference_settings
from dscnet.config import Config
from dscnet.data import TAG_SUFFIXES, PhotoSet, keep_photos, open_photos, unwritten
from dscnet.data.io import image_size, read_image
from dscnet.data.scale import PhotoScale, windows
from dscnet.data.transforms import resize_labels, resize_photo
from dscnet.files.label_images import write_label
from dscnet.labels.enlarge import label_at
from dscnet.labels.windows import join_windows
from dscnet.models import AuxSegNet, SegmentationPath
from dscnet.models.checkpoint import restore
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
}
"""Constants of the dense CRF at test time: those of AuxSegNet's published code."""

OWN_SIZE = PhotoScale()
"""Photos are seen at their own size, as published."""

OVERLAY_SIDE = 1600
"""Longer side of overlays of larger photos, pixels: they are to be looked at."""


class Predictor:
    """A segmentation network, ready for photos of any size.

    Args:
        model: Maps ``(image (1, 3, H, W), None)`` to a ``ModelOutput`` with ``seg_logits``.
        classes: Foreground names; label ``c + 1`` is ``classes[c]``.
        mean: Channel means of the photos, in [0, 1] units.
        std: Channel deviations, likewise.
        scale: What a size of 1 is, and the size at which scores are fitted to the photo; by default
            the photo's own.
        scales: Sizes whose scores are averaged, relative to that, each > 0; at least one.
        flip: Average the scores of each size with those of its mirror image.
        crf: Fit the probabilities to the photo by a dense CRF with the constants ``TEST_CRF``.
        device: Where to run.

    Raises:
        ValueError: If ``scales`` is empty or holds one that is not positive.
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
        self.model = model.to(self.device).eval()
        self.classes = classes
        self.mean, self.std = mean, std
        self.transform = build_eval_transform(mean, std)
        self.scale, self.scales = scale, check_scales(scales)
        self.flip, self.crf = flip, crf

    @classmethod
    def from_run(cls, root: str | Path) -> Predictor:
        """Load the segmentation network of a run folder.

        Raises:
            DscnetError: If the folder holds no trained segmentation network.
        """
        folder = RunFolder(Path(root))
        config = folder.read_config()
        weights = folder.weights if config.own_branch else folder.segmenter_weights
        if not weights.exists():
            raise DscnetError(
                f"{folder.root} holds no segmentation network: {weights} is missing;"
                f" `dscnet {'train' if config.own_branch else 'segment'} --out {folder.root}`"
                " trains one"
            )
        card = folder.read_card() if config.own_branch else folder.read_segmenter_card()
        return cls.from_weights(config, weights, card)

    @classmethod
    def from_weights(cls, config: Config, weights: Path, card: Mapping[str, Any]) -> Predictor:
        """Load a segmentation network from its files.

        Args:
            config: The run's settings.
            weights: The network's.
            card: Class names and photo normalisation, as in a run's ``model.json``.
        """
        classes = tuple(card["classes"])
        return cls(
            _load_network(config, weights, len(classes)),
            classes,
            mean=tuple(card["mean"]),
            std=tuple(card["std"]),
            **inference_settings(config),
        )

    def __call__(self, image: Tensor) -> NDArray[np.uint8]:
        """The most probable label of each pixel of one photo.

        Args:
            image: RGB photo, ``(3, H, W)`` uint8, as ``dscnet.data.io.read_image`` gives it.

        Returns:
            ``(H, W)`` uint8: 0 = background, ``c + 1`` = class ``c``.
        """
        size = (image.shape[-2], image.shape[-1])
        return label_at(self.work_probabilities(image, size), size)

    @property
    def read_side(self) -> int | None:
        """The longer side beyond which a photo holds more than is used; None = all is used."""
        return self.scale.read_side(self.scales)

    def probabilities(self, image: Tensor) -> Tensor:
        """Probabilities of the labels of one photo, at its size.

        Args:
            image: RGB photo, ``(3, H, W)`` uint8.

        Returns:
            ``(L, H, W)`` float32 on the CPU, sums to 1 over the labels; label 0 = background. Of a
            large photo that is a lot: a call gives the labels without it.
        """
        size = (image.shape[-2], image.shape[-1])
        return _resize(self.work_probabilities(image, size)[None], size)[0].cpu()

    @torch.inference_mode()
    def work_probabilities(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities of the labels of one photo, at the size that ``scale`` works at.

        The softmax of the mean of the scores over sizes and mirror images. Photos are resized
        bilinear without aligned corners, antialiased unless ``scale`` keeps their own size, and so
        are their scores, never antialiased.

        Args:
            image: RGB photo, ``(3, *, *)`` uint8; it may have been reduced to ``read_side``.
            size: Height and width that it has unreduced.

        Returns:
            ``(L, h, w)`` float32, sums to 1 over the labels; label 0 = background.
        """
        photo = self.transform(image, None)[0][None].to(self.device)
        work = self.scale.work_size(size)
        total = torch.zeros((), device=self.device)
        for scale in self.scales:
            seen = self.scale.view_size(size, scale)
            view = _resize(photo, seen, antialias=self.scale.side is not None)
            for mirrored in (False, True) if self.flip else (False,):
                scores = self._scores(view.flip(-1) if mirrored else view)
                total = total + _resize(scores.flip(-1) if mirrored else scores, work)
        probabilities = (total / (len(self.scales) * (1 + self.flip))).softmax(1)
        if self.crf:
            pixels = resize_photo(image[None].to(self.device), work)
            probabilities = dense_crf(probabilities, pixels, **TEST_CRF)
        return probabilities[0]

    def _scores(self, view: Tensor) -> Tensor:
        """The network's scores ``(1, L, H, W)``, seen window by window where there are tiles."""
        size = (view.shape[-2], view.shape[-1])
        parts = windows(size, self.scale.tiles, self.scale.tile_overlap)
        if len(parts) == 1:
            scores: Tensor = self.model(view).seg_logits.float()
            return scores
        seen = [
            {"seg": self.model(view[..., rows, columns]).seg_logits.float()}
            for rows, columns in parts
        ]
        return join_windows(seen, parts, size)["seg"]

    def write(
        self,
        photos: PhotoSet,
        masks: Path,
        *,
        overlays: Path | None = None,
    ) -> list[str]:
        """Write ``masks/ID.png`` (palette PNG) for every photo; if asked, an overlay too.

        A photo that cannot be read, or written because of its name, does not stop the others.

        Returns:
            What went wrong, a line a photo; empty if nothing did.
        """
        masks.mkdir(parents=True, exist_ok=True)
        failures = []
        for sample in photos.samples:
            try:
                size = image_size(sample.image_path)
                image = read_image(sample.image_path, self.read_side)
                labels = label_at(self.work_probabilities(image, size), size)
                write_label(masks / f"{sample.image_id}.png", labels)
                if overlays is not None:
                    _write_overlay(overlays / f"{sample.image_id}.jpg", sample.image_path, labels)
            except DscnetError as error:
                failures.append(str(error))
            except OSError as error:
                failures.append(unwritten(sample, error))
        return failures


def refuse_failures(failures: Sequence[str]) -> None:
    """Raise a ``DataError`` with what ``write`` returned, where every photo must have its mask."""
    if failures:
        raise DataError("not every photo could be predicted:\n  " + "\n  ".join(failures))


def check_scales(scales: Sequence[float], name: str = "scales") -> tuple[float, ...]:
    """Refuse sizes that a photo cannot have; they are returned as they are."""
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"{name} must be one or more positive numbers, got {tuple(scales)}")
    return tuple(scales)


def predict(
    photos: str | Path | Sequence[str | Path], model: str | Path, out: str | Path
) -> list[str]:
    """Masks for photos: ``OUT/masks``, ``OUT/overlays`` and ``OUT/classes.txt``.

    Args:
        photos: A folder or a photo, or several of them.
        model: Run folder of a trained network.
        out: Folder to write to.

    Returns:
        What went wrong, a line a photo.

    Raises:
        DscnetError: If the run holds no trained network, there is no photo, ``out`` holds a data
            set or others' masks, or a photo would be replaced.
    """
    _refuse_data_set(Path(out))
    places = [photos] if isinstance(photos, str | Path) else photos
    masks, overlays = Path(out) / "masks", Path(out) / "overlays"
    # They may lie among the photos, from an earlier call.
    photo_set = open_photos(*places, apart_from=(masks, overlays))
    for folder, ending in ((masks, "png"), (overlays, "jpg")):
        names = (f"{sample.image_id}.{ending}" for sample in photo_set.samples)
        keep_photos(photo_set.samples, (folder / name for name in names))
    _refuse_others_masks(Path(out))
    for note in photo_set.notes:
        log.warning("%s", note)
    predictor = Predictor.from_run(model)
    # First, for it tells whose masks these are.
    write_text(Path(out) / "classes.txt", "\n".join(["background", *predictor.classes]) + "\n")
    return predictor.write(photo_set, masks, overlays=overlays)


def _refuse_data_set(out: Path) -> None:
    """Predictions would replace its true masks and its list of classes."""
    parts = ("images", "JPEGImages", *(f"tags{suffix}" for suffix in TAG_SUFFIXES))
    found = [name for name in parts if (out / name).exists()]
    if found:
        raise DscnetError(
            f"{out}: expected a folder for predictions, found a data set ({', '.join(found)}),"
            " whose masks and classes.txt would be replaced; name another --out"
        )


def _refuse_others_masks(out: Path) -> None:
    """True masks of a data set without a folder of photos, or those of a run."""
    masks, classes = out / "masks", out / "classes.txt"
    ours = classes.is_file() and classes.read_text(encoding="utf-8", errors="replace").startswith(
        "background\n"
    )
    if not ours and masks.is_dir() and any(masks.iterdir()):
        raise DscnetError(
            f"{masks}: expected no masks, or those of an earlier `dscnet predict`, which leaves a"
            f" list of labels in {classes}; found others that could be replaced; name another --out"
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


def _resize(maps: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    return functional.interpolate(
        maps, size, mode="bilinear", align_corners=False, antialias=antialias
    )


def _write_overlay(path: Path, photo: Path, labels: NDArray[np.uint8]) -> None:
    from PIL import Image

    image = read_image(photo, OVERLAY_SIDE)
    shown = resize_labels(torch.from_numpy(labels), (image.shape[-2], image.shape[-1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = overlay(image.permute(1, 2, 0).numpy(), shown.numpy())
    Image.fromarray(picture).save(path, quality=90)
