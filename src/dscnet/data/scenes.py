"""Generated scenes: a data set that shows what image tags alone get wrong, made in seconds.

Each class has a small patterned part that tells it apart, a plain body whose colours other classes
and clutter share, and usual surroundings. A classifier needs only the part, or the surroundings, so
a plain class activation map misses bodies and marks water as boat, which is what DSCNet is about.
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
"""Every object that is placed shows on at least this share of the picture."""

_MIN_VISIBLE = 0.45  # and at least this share of its own outline stays free of what is in front
_MAX_CLASSES = 3
_MIN_SIZE = 32
_NEGATIVE_EVERY = 33  # one picture in so many holds no object, 3 %
_SPLITS = ("train", "val")


class _Kind(NamedTuple):
    name: str
    draw: Callable[[objects.Canvas, np.random.Generator], None]
    paint: Callable[[np.random.Generator, int], backgrounds.Floats]
    overhead: bool  # its surroundings lie above others
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
    """One picture with what is known about it.

    Attributes:
        image: RGB, ``(H, W, 3)`` uint8.
        mask: Labels, ``(H, W)`` uint8, 0 = background and clutter. Not for training.
        labels: Classes that show, 0-based and sorted; empty without objects.
        part: Where the part that tells an object's class apart shows, ``(H, W)`` bool.
        grounds: Classes whose usual surroundings show, with or without them, 0-based and sorted.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    labels: tuple[int, ...]
    part: NDArray[np.bool_]
    grounds: tuple[int, ...]


def render_scene(
    rng: np.random.Generator, size: int = 128, *, classes: Sequence[int] | None = None
) -> Scene:
    """Draw one scene: surroundings, clutter, one to three objects, light and noise.

    Objects are about 25 to 60 % of the side and may hide each other or leave the frame a little;
    each shows on at least ``MIN_SHARE`` of the picture.

    Args:
        rng: Source of every choice.
        size: Pixels a side, at least 32.
        classes: Classes that the picture must show, 0-based, different, at most 3; empty for a
            picture without objects. None draws one or two, or none in 3 % of the pictures.

    Raises:
        ValueError: If an argument breaks its rule.
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
    stand in for those of a saliency network but are made from the true masks: blurred, noisy, and
    now and then without an object's part or with a hole. So they know more than tags do; say so
    with every number that was measured with them.

    Picture j of a split depends on ``seed``, ``size``, the split and j only. Classes take turns as
    the one that must show, so a split of six or more pictures has them all. Every 33rd picture of a
    split has no object and an empty tag. A split of no pictures has no list file.

    Args:
        root: Folder to make. It appears when it is complete, or not at all.
        num_train: Pictures to train on, at least 0.
        num_val: Pictures to validate on, at least 0; they come after the others.
        size: Pixels a side, at least 32.
        seed: Same seed, same files; at least 0.

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
        raise DataError(f"{root} already exists and is not empty; remove it or name another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as beside:
        made = Path(beside) / root.name
        _write_all(made, {"train": num_train, "val": num_val}, size, seed)
        if root.exists():
            root.rmdir()
        made.replace(root)


def _draw_classes(rng: np.random.Generator, index: int) -> tuple[int, ...]:
    """Classes of the picture at ``index``: its turn's, and sometimes a second one."""
    if index % _NEGATIVE_EVERY == _NEGATIVE_EVERY - 1:
        return ()
    first = index % len(_KINDS)
    if rng.random() > 0.35:
        return (first,)
    return first, (first + int(rng.integers(1, len(_KINDS)))) % len(_KINDS)


def _draw_grounds(rng: np.random.Generator, classes: Sequence[int]) -> list[int]:
    """One or two grounds, from top to bottom: mostly those of the classes, at times others."""
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
    """A picture in the making: what has been painted, and which object every pixel shows."""

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
        self._labels = np.zeros(1, np.uint8)  # by owner; owner 0 is the ground
        self._outlines = np.zeros(1, np.int64)  # pixels of an owner as if nothing lay before it
        self._owner = np.zeros((size, size), np.uint8)
        self._part = np.zeros((size, size), np.bool_)

    def put_clutter(self, largest: float) -> bool:
        """Place a thing of no class anywhere, if that leaves every object visible."""
        scale = self._rng.uniform(0.3, 1.0) * largest
        canvas = self._canvas(scale, tilt=np.pi)
        objects.draw_clutter(canvas, self._rng)
        x, y = self._rng.uniform(0, 1, 2)
        return self._lay(canvas.layer(), x, y, label=0)

    def put_object(self, chosen: int, scales: tuple[float, float]) -> bool:
        """Place an object, in its surroundings if they show, unless too little of one shows."""
        kind = _KINDS[chosen]
        canvas = self._canvas(self._rng.uniform(*scales), tilt=kind.tilt)
        kind.draw(canvas, self._rng)
        top, bottom = self._spans.get(chosen, (0.0, 1.0))
        y = top + (bottom - top) * self._rng.uniform(0.25, 0.75)
        return self._lay(canvas.layer(), self._rng.uniform(0.12, 0.88), y, label=chosen + 1)

    def scene(self) -> Scene:
        """Light the picture, add the camera's noise, and hand it out."""
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
        """Lay a drawing over the picture, centred at ``(x, y)``, unless that hides an object."""
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
        shown = np.bincount(owner.ravel(), minlength=len(labels))
        needed = np.maximum(MIN_SHARE * owner.size, _MIN_VISIBLE * outlines)
        if np.any((shown < needed) & (labels > 0)):
            return False
        self._owner, self._labels, self._outlines = owner, labels, outlines
        self._image[here] = layer.colour[cut] + (1 - alpha[..., None]) * self._image[here]
        self._part[here] = np.where(solid, layer.part[cut], self._part[here])
        return True


def _imperfect_saliency(rng: np.random.Generator, scene: Scene) -> NDArray[np.uint8]:
    """What a saliency network might say, made from the true mask ``(H, W)``."""
    size = len(scene.mask)
    shown = scene.mask > 0
    if rng.random() < 0.3:
        shown &= ~scene.part
    if rng.random() < 0.3:
        x, y = backgrounds.frame(size)
        u, v = rng.uniform(0.2, 0.8, 2)
        shown &= np.hypot(x - u, y - v) > rng.uniform(0.08, 0.16)
    blur = ImageFilter.GaussianBlur(size * rng.uniform(0.01, 0.025))
    soft = np.asarray(Image.fromarray(np.uint8(255 * shown)).filter(blur), np.float32)
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
