"""Synthetic scenes: a small data set with the typical failures of CAMs, generated in seconds.

Each class has a small discriminative part, a plain body with colours shared by other classes and
clutter, and a typical background. A classifier only needs the part or the background, so a plain
CAM misses bodies and labels water as boat, the failures that DSCNet addresses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dscnet.data import scene_backgrounds as backgrounds
from dscnet.data import scene_objects as objects
from dscnet.files.label_images import voc_palette
from dscnet.types import DataError

MIN_SHARE = 0.015
"""Minimum visible area of every object, as a fraction of the image."""

_MIN_VISIBLE = 0.45  # minimum visible fraction of an object's own area
_MAX_CLASSES = 3
_MIN_SIZE = 32
_NEGATIVE_EVERY = 33  # one image in this many has no object, 3 %
_SPLITS = ("train", "val")


class _Kind(NamedTuple):
    name: str
    draw: Callable[[objects.Canvas, np.random.Generator], None]
    paint: Callable[[np.random.Generator, int], backgrounds.Floats]
    overhead: bool  # its background lies above others
    tilt: float  # radians


_KINDS = (
    _Kind("boat", objects.draw_boat, backgrounds.paint_water, False, 0.18),
    _Kind("plane", objects.draw_plane, backgrounds.paint_sky, True, 0.5),
    _Kind("sheep", objects.draw_sheep, backgrounds.paint_grass, False, 0.15),
    _Kind("car", objects.draw_car, backgrounds.paint_asphalt, False, 0.2),
    _Kind("house", objects.draw_house, backgrounds.paint_fence, False, 0.08),
    _Kind("bird", objects.draw_bird, backgrounds.paint_foliage, True, 0.4),
)
SCENE_CLASSES = tuple(kind.name for kind in _KINDS)
"""Foreground class names; class ``c`` has label ``c + 1``."""

_NEUTRAL = (backgrounds.paint_sand, backgrounds.paint_rock)
_GROUNDS = (*(kind.paint for kind in _KINDS), *_NEUTRAL)  # ground c surrounds class c


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth.

    Attributes:
        image: RGB, ``(H, W, 3)`` uint8.
        mask: Labels, ``(H, W)`` uint8, 0 = background and clutter. Not for training.
        labels: Visible classes, 0-based and sorted; empty without objects.
        part: Mask of the discriminative parts, ``(H, W)`` bool.
        grounds: Classes whose typical background is visible, 0-based and sorted.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    labels: tuple[int, ...]
    part: NDArray[np.bool_]
    grounds: tuple[int, ...]


def render_scene(
    rng: np.random.Generator, size: int = 128, *, classes: Sequence[int] | None = None
) -> Scene:
    """Draw one scene: background, clutter, one to three objects, lighting and noise.

    Objects are about 25 to 60 % of the side and may occlude each other or be cut by the border;
    each covers at least ``MIN_SHARE`` of the image.

    Args:
        rng: Random generator.
        size: Pixels per side, at least 32.
        classes: Classes to show, 0-based, distinct, at most 3; empty for no objects. None draws one
            or two, or none for 3 % of the images.

    Raises:
        ValueError: If an argument is invalid.
    """
    if size < _MIN_SIZE:
        raise ValueError(f"size must be at least {_MIN_SIZE}, got {size}")
    if classes is None:
        index = int(rng.integers(_NEGATIVE_EVERY * len(_KINDS)))
        classes = _draw_classes(rng, index)
    known = set(range(len(_KINDS)))
    if len(set(classes)) != len(classes) or len(classes) > _MAX_CLASSES or not known >= {*classes}:
        raise ValueError(
            f"classes must be at most {_MAX_CLASSES} different values in 0..{len(_KINDS) - 1}, "
            f"got {tuple(classes)}"
        )
    stage = _Stage(rng, size, _draw_grounds(rng, classes))
    for _ in range(rng.integers(1, 5)):
        stage.put_clutter(0.4)
    for rank, chosen in enumerate(classes):
        while not stage.put_object(chosen, (0.36, 0.62) if rank == 0 else (0.3, 0.5)):
            pass  # another place, size and pose
    if 0 < len(classes) < _MAX_CLASSES and rng.random() < 0.3:
        stage.put_object(classes[-1], (0.28, 0.42))
    for _ in range(rng.integers(0, 3)):
        stage.put_clutter(0.2)
    return stage.scene()


def write_scenes(
    root: str | Path, *, num_train: int, num_val: int, size: int = 128, seed: int = 0
) -> None:
    """Write a generated data set in VOC layout.

    ``JPEGImages/*.jpg``, ``SegmentationClass/*.png`` (palette), ``saliency/*.png``,
    ``ImageSets/Segmentation/{train,val}.txt``, ``ImageSets/tags.csv``, ``classes.txt`` (background
    first) and ``README.txt``. The masks are for evaluation. The saliency maps (8 bit, 255 = object)
    imitate those of a saliency network but are made from the ground-truth masks: blurred, noisy,
    and sometimes without an object's part or with a hole. So they contain more information than
    tags; mention that with every number measured with them.

    Image j of a split depends on ``seed``, ``size``, the split and j only. The required class
    cycles, so a split of six or more images has all classes. Every 33rd image of a split has no
    object and no tag. An empty split has no list file.

    Args:
        root: Folder to create, atomically.
        num_train: Training images, at least 0.
        num_val: Validation images, at least 0.
        size: Pixels per side, at least 32.
        seed: Random seed, at least 0.

    Raises:
        DataError: If ``root`` exists and is not an empty folder.
        ValueError: If a number is too small.
    """
    root = Path(root)
    for name, value, least in (
        *(("num_train", num_train, 0), ("num_val", num_val, 0), ("seed", seed, 0)),
        ("size", size, _MIN_SIZE),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(
            f"{root} already exists and is not empty; remove it or choose another folder"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as beside:
        made = Path(beside) / root.name
        _write_all(made, {"train": num_train, "val": num_val}, size, seed)
        if root.exists():
            root.rmdir()
        made.replace(root)


def _draw_classes(rng: np.random.Generator, index: int) -> tuple[int, ...]:
    """Classes of the image at ``index``: the required one, and sometimes a second."""
    if index % _NEGATIVE_EVERY == _NEGATIVE_EVERY - 1:
        return ()
    first = index % len(_KINDS)
    if rng.random() > 0.35:
        return (first,)
    return first, (first + int(rng.integers(1, len(_KINDS)))) % len(_KINDS)


def _draw_grounds(rng: np.random.Generator, classes: Sequence[int]) -> list[int]:
    """One or two backgrounds, top to bottom: mostly those of the classes, sometimes others."""
    neutral = int(rng.integers(len(_KINDS), len(_GROUNDS)))
    other = int(rng.choice([c for c in range(len(_KINDS)) if c not in classes]))
    if not classes:
        options, odds = [[other], [other, neutral], [neutral]], [0.4, 0.3, 0.3]
    elif len(classes) == 1:
        own = classes[0]
        options = [[own], [own, neutral], [own, other], [other], [neutral]]
        odds = [0.5, 0.22, 0.13, 0.06, 0.09]
    else:
        first, second = classes[:2]
        options, odds = [[first, second], [first], [second]], [0.7, 0.15, 0.15]
    grounds = options[rng.choice(len(options), p=odds)]
    return sorted(grounds, key=lambda ground: ground >= len(_KINDS) or not _KINDS[ground].overhead)


class _Stage:
    """An image being drawn, with the object visible at each pixel."""

    def __init__(self, rng: np.random.Generator, size: int, grounds: list[int]) -> None:
        self._rng, self._size = rng, size
        edge = rng.uniform(0.4, 0.6) if len(grounds) == 2 else 1.0
        spans = [(0.0, edge), (edge, 1.0)][: len(grounds)]
        self._spans = dict(zip(grounds, spans, strict=True))
        self._image = _GROUNDS[grounds[0]](rng, size)
        if len(grounds) == 2:
            _, y = backgrounds.frame(size)
            border = edge + 0.1 * (backgrounds.cloud(rng, size, 2, 5)[:1] - 0.5)
            share = np.clip((y - border) * size / 2 + 0.5, 0, 1)[..., None]
            self._image += share * (_GROUNDS[grounds[1]](rng, size) - self._image)
        self._labels = np.zeros(1, np.uint8)  # by owner; owner 0 is the background
        self._outlines = np.zeros(1, np.int64)  # pixels of an owner without occlusion
        self._owner = np.zeros((size, size), np.uint8)
        self._part = np.zeros((size, size), np.bool_)

    def put_clutter(self, largest: float) -> bool:
        """Place clutter anywhere, unless it hides an object."""
        scale = self._rng.uniform(0.3, 1.0) * largest
        canvas = self._canvas(scale, tilt=np.pi)
        objects.draw_clutter(canvas, self._rng)
        x, y = self._rng.uniform(0, 1, 2)
        return self._lay(canvas.layer(), x, y, label=0)

    def put_object(self, chosen: int, scales: tuple[float, float]) -> bool:
        """Place an object, on its background if visible, unless an object would be hidden."""
        kind = _KINDS[chosen]
        canvas = self._canvas(self._rng.uniform(*scales), tilt=kind.tilt)
        kind.draw(canvas, self._rng)
        top, bottom = self._spans.get(chosen, (0.0, 1.0))
        y = top + (bottom - top) * self._rng.uniform(0.25, 0.75)
        return self._lay(canvas.layer(), self._rng.uniform(0.12, 0.88), y, label=chosen + 1)

    def scene(self) -> Scene:
        """Apply lighting and noise, and return the scene."""
        rng = self._rng
        x, y = backgrounds.frame(self._size)
        across, down = rng.uniform(-0.3, 0.3, 2)
        light = rng.uniform(0.75, 1.15) + across * (x - 0.5) + down * (y - 0.5)
        tint = rng.uniform(0.93, 1.07, 3).astype(np.float32)
        noise = rng.standard_normal(self._image.shape, dtype=np.float32)
        lit = self._image * light[..., None] * tint + rng.uniform(0.008, 0.035) * noise
        mask = self._labels[self._owner]
        return Scene(
            image=(np.clip(lit, 0, 1) * 255 + 0.5).astype(np.uint8),
            mask=mask,
            labels=tuple(int(label) - 1 for label in np.unique(mask[mask > 0])),
            part=self._part,
            grounds=tuple(sorted(ground for ground in self._spans if ground < len(_KINDS))),
        )

    def _canvas(self, scale: float, *, tilt: float) -> objects.Canvas:
        rng = self._rng
        return objects.Canvas(
            scale * self._size / 2,
            angle=rng.uniform(-tilt, tilt),
            stretch=rng.uniform(0.9, 1.12),
            flip=bool(rng.random() < 0.5),
        )

    def _lay(self, layer: objects.Layer, x: float, y: float, label: int) -> bool:
        """Composite a drawing centred at ``(x, y)``, unless that hides an object."""
        side = len(layer.alpha)
        left, top = (int(at * self._size) - side // 2 for at in (x, y))
        rows = slice(max(top, 0), min(top + side, self._size))
        columns = slice(max(left, 0), min(left + side, self._size))
        here = (rows, columns)
        cut = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        alpha = layer.alpha[cut]
        solid = alpha >= 0.5
        owner = self._owner.copy()
        owner[here][solid] = len(self._labels)
        labels = np.append(self._labels, np.uint8(label))
        outlines = np.append(self._outlines, np.count_nonzero(layer.alpha >= 0.5))
        visible = np.bincount(owner.ravel(), minlength=len(labels))
        needed = np.maximum(MIN_SHARE * owner.size, _MIN_VISIBLE * outlines)
        if np.any((visible < needed) & (labels > 0)):
            return False
        self._owner, self._labels, self._outlines = owner, labels, outlines
        self._image[here] = layer.colour[cut] + (1 - alpha[..., None]) * self._image[here]
        self._part[here] = np.where(solid, layer.part[cut], self._part[here])
        return True


def _imperfect_saliency(rng: np.random.Generator, scene: Scene) -> NDArray[np.uint8]:
    """An imitation of a saliency network's output, from the ground-truth mask ``(H, W)``."""
    size = len(scene.mask)
    salient = scene.mask > 0
    if rng.random() < 0.3:
        salient &= ~scene.part
    if rng.random() < 0.3:
        x, y = backgrounds.frame(size)
        u, v = rng.uniform(0.2, 0.8, 2)
        salient &= np.hypot(x - u, y - v) > rng.uniform(0.08, 0.16)
    blur = ImageFilter.GaussianBlur(size * rng.uniform(0.01, 0.025))
    soft = np.asarray(Image.fromarray(np.uint8(255 * salient)).filter(blur), np.float32)
    strength = 0.7 + 0.3 * backgrounds.cloud(rng, size, 5, 5)
    stray = 45 * backgrounds.cloud(rng, size, 6, 6) ** 2 + rng.integers(0, 12, soft.shape)
    saliency: NDArray[np.uint8] = np.clip(soft * strength + stray, 0, 255).astype(np.uint8)
    return saliency


def _write_all(root: Path, counts: dict[str, int], size: int, seed: int) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "saliency", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    tags = ["image_id,labels"]
    for stream, split in enumerate(_SPLITS):
        names = []
        for index in range(counts[split]):
            rng = np.random.default_rng([seed, stream, index])
            scene = render_scene(rng, size, classes=_draw_classes(rng, index))
            name = f"scene_{len(tags):05d}"
            _write_scene(root, name, scene, _imperfect_saliency(rng, scene))
            tags.append(f"{name},{';'.join(SCENE_CLASSES[c] for c in scene.labels)}")
            names.append(name)
        if names:
            _write_lines(root / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    _write_lines(root / "ImageSets" / "tags.csv", tags)
    _write_lines(root / "classes.txt", ["background", *SCENE_CLASSES])
    _write_lines(
        root / "README.txt",
        [
            f"Scenes generated by dscnet.data.write_scenes(num_train={counts['train']}, "
            f"num_val={counts['val']}, size={size}, seed={seed}).",
            "Masks are exact and meant for evaluation. Saliency maps are made from the masks.",
            "Nobody's photos are in here. Free for any use: CC0 1.0.",
        ],
    )


def _write_scene(root: Path, name: str, scene: Scene, saliency: NDArray[np.uint8]) -> None:
    Image.fromarray(scene.image).save(root / "JPEGImages" / f"{name}.jpg", quality=92)
    labels = Image.fromarray(scene.mask)
    labels.putpalette(voc_palette())  # turns mode L into P and keeps the values
    labels.save(root / "SegmentationClass" / f"{name}.png")
    Image.fromarray(saliency).save(root / "saliency" / f"{name}.png")


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
