"""Masks for photos from a trained segmentation network: no tags, no ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dscnet.build import build_eval_transform, build_model, build_segmenter, device_of
from dscnet.config import Config
from dscnet.data import PhotoSet, open_photos
from dscnet.data.io import read_image
from dscnet.labels.files import whole_file
from dscnet.labels.pseudo_label import write_label
from dscnet.models import AuxSegNet, SegmentationPath
from dscnet.overlay import overlay
from dscnet.run_folder import RunFolder
from dscnet.types import DscnetError


class Predictor:
    """A segmentation network, ready for photos of any size.

    Args:
        model: Maps ``(image (1, 3, H, W), None)`` to a ``ModelOutput`` with ``seg_logits``.
        classes: Foreground names; label ``c + 1`` is ``classes[c]``.
        mean: Channel means of the photos, in [0, 1] units.
        std: Channel deviations, likewise.
        flip: Average a photo with its mirror image.
        device: Where to run.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        flip: bool = True,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device).eval()
        self.classes = classes
        self.mean, self.std = mean, std
        self.transform = build_eval_transform(mean, std)
        self.flip = flip

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
        card = folder.read_card()
        classes = tuple(card["classes"])
        return cls(
            _load_network(config, weights, len(classes)),
            classes,
            mean=tuple(card["mean"]),
            std=tuple(card["std"]),
            flip=config.segment.flip_test,
            device=device_of(config.segment.accelerator),
        )

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> NDArray[np.uint8]:
        """Labels of one photo.

        Args:
            image: RGB photo, ``(3, H, W)`` uint8, as ``dscnet.data.io.read_image`` gives it.

        Returns:
            ``(H, W)`` uint8: 0 = background, ``c + 1`` = class ``c``.
        """
        photo = self.transform(image, None)[0][None].to(self.device)
        scores = self.model(photo).seg_logits.float().softmax(1)
        if self.flip:
            scores = scores + self.model(photo.flip(-1)).seg_logits.float().softmax(1).flip(-1)
        labels: NDArray[np.uint8] = scores.argmax(1)[0].to(torch.uint8).cpu().numpy()
        return labels

    def write(
        self,
        photos: PhotoSet,
        masks: Path,
        *,
        overlays: Path | None = None,
    ) -> list[str]:
        """Write ``masks/ID.png`` (palette PNG) for every photo; if asked, an overlay too.

        A photo that cannot be read does not stop the others.

        Returns:
            What went wrong, a line a photo; empty if nothing did.
        """
        masks.mkdir(parents=True, exist_ok=True)
        failures = []
        for sample in photos.samples:
            try:
                image = read_image(sample.image_path)
            except DscnetError as error:
                failures.append(str(error))
                continue
            labels = self(image)
            target = masks / f"{sample.image_id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_label(target, labels)
            if overlays is not None:
                _write_overlay(overlays / f"{sample.image_id}.jpg", image, labels)
        return failures


def predict(photos: str | Path, model: str | Path, out: str | Path) -> list[str]:
    """Masks for a folder of photos: ``OUT/masks``, ``OUT/overlays`` and ``OUT/classes.txt``.

    Returns:
        What went wrong, a line a photo.
    """
    predictor = Predictor.from_run(model)
    photo_set = open_photos(photos)
    target = Path(out)
    failures = predictor.write(photo_set, target / "masks", overlays=target / "overlays")
    (target / "classes.txt").write_text("\n".join(["background", *predictor.classes]) + "\n")
    return failures


def store(model: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, whole or not at all."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with whole_file(path) as file:
        file.write(save(state))


def restore(model: nn.Module, path: Path) -> None:
    """Load weights that ``store`` wrote.

    Raises:
        DscnetError: If the file is unreadable or holds another network's weights.
    """
    try:
        model.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise DscnetError(f"{path} does not fit this network: {error}") from error


def _load_network(config: Config, weights: Path, num_classes: int) -> nn.Module:
    if not config.own_branch:
        segmenter = build_segmenter(config, num_classes + 1, pretrained=False)
        restore(segmenter, weights)
        return segmenter
    network = build_model(config, num_classes, pretrained=False)
    restore(network, weights)
    assert isinstance(network, AuxSegNet)
    return SegmentationPath(network)


def _write_overlay(path: Path, image: Tensor, labels: NDArray[np.uint8]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(overlay(image.permute(1, 2, 0).numpy(), labels)).save(path, quality=90)
