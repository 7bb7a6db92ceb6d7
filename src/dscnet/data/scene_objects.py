"""Objects of generated scenes: each class has a plain body and one discriminative part.

Drawings use a unit frame: ``u`` to the right, ``v`` down, both about -1..1, facing right.
Bodies of all classes and all clutter share a set of colours without pattern; parts are patterned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Colour = Sequence[float] | Floats
Pattern = Callable[[Floats, Floats], Floats]

BODY_COLOURS = (
    *((0.86, 0.84, 0.80), (0.74, 0.70, 0.62), (0.58, 0.59, 0.60), (0.70, 0.60, 0.46)),
    *((0.46, 0.37, 0.30), (0.42, 0.49, 0.58), (0.60, 0.40, 0.35), (0.48, 0.52, 0.38)),
)
"""RGB in 0..1 of bodies and clutter."""

_SUPERSAMPLE = 2
_BODY, _PART = 1, 2
_MARGIN = 1.35  # a canvas reaches this far beyond the unit frame, room for tilted corners


@dataclass(frozen=True)
class Brush:
    """A colour, or a pattern of two: value 1 is ``colour``, 0 is ``other``."""

    colour: Colour
    other: Colour = (0.0, 0.0, 0.0)
    pattern: Pattern | None = None

    def __call__(self, u: Floats, v: Floats) -> Floats:
        """Colours ``(M, 3)`` at M points, darker towards the bottom, as lit from above."""
        share = np.ones_like(u) if self.pattern is None else self.pattern(u, v)
        colour, other = np.asarray(self.colour, np.float32), np.asarray(self.other, np.float32)
        return (other + share[:, None] * (colour - other)) * (0.95 - 0.15 * v[:, None])


def stripes(period: float, slope: float = 0.0) -> Pattern:
    """Vertical stripes that lean by ``slope``."""
    return lambda u, v: ((u + slope * v) % period < period / 2).astype(np.float32)


def rings(u0: float, v0: float, width: float) -> Pattern:
    """Rings around a point."""
    return lambda u, v: (np.hypot(u - u0, v - v0) // width % 2).astype(np.float32)


def spokes(u0: float, v0: float, count: int) -> Pattern:
    """Rays from a point."""
    return lambda u, v: (np.sin(count * np.arctan2(v - v0, u - u0)) > 0).astype(np.float32)


def lattice(period: float, bar: float) -> Pattern:
    """Panes between bars of one width."""
    return lambda u, v: ((u % period > bar) & (v % period > bar)).astype(np.float32)


def ellipse(u0: float, v0: float, ru: float, rv: float, *, lumps: int = 0) -> Floats:
    """Outline ``(48, 2)`` of an ellipse, with ``lumps`` bulges."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    swell = 1 + 0.06 * np.cos(lumps * turn) if lumps else 1.0
    return np.asarray(
        np.stack([u0 + ru * swell * np.cos(turn), v0 + rv * swell * np.sin(turn)], 1), np.float32
    )


def box(u0: float, v0: float, u1: float, v1: float) -> Floats:
    """Outline of an upright rectangle."""
    return np.asarray([(u0, v0), (u1, v0), (u1, v1), (u0, v1)], np.float32)


def bar(start: tuple[float, float], end: tuple[float, float], width: float) -> Floats:
    """Outline of a straight stroke."""
    a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
    along = (b - a) / np.linalg.norm(b - a)
    side = np.asarray([-along[1], along[0]], np.float32) * width / 2
    return np.stack([a + side, b + side, b - side, a - side])


def smooth(outline: ArrayLike) -> Floats:
    """Smooth a closed outline by three rounds of Chaikin's corner cutting."""
    corners = np.asarray(outline, np.float32)
    return _corner_cutting(len(corners)) @ corners


@lru_cache
def _corner_cutting(count: int) -> Floats:
    """Weights ``(8 * count, count)`` of the corners in every point of the round outline."""
    weights = np.eye(count, dtype=np.float32)
    for _ in range(3):
        after = np.roll(weights, -1, axis=0)
        cut = [0.75 * weights + 0.25 * after, 0.25 * weights + 0.75 * after]
        weights = np.stack(cut, axis=1).reshape(-1, count)
    return weights


@dataclass(frozen=True)
class Layer:
    """A finished drawing, ``p`` pixels per side, for compositing.

    Attributes:
        colour: RGB in 0..1 times ``alpha``, ``(p, p, 3)``.
        alpha: Coverage in 0..1, ``(p, p)``.
        part: Mask of the discriminative part, ``(p, p)``.
    """

    colour: Floats
    alpha: Floats
    part: Bools


class Canvas:
    """A square canvas for one object, at twice the resolution of the image.

    Args:
        radius: Image pixels per unit of the drawing.
        angle: Rotation in radians, clockwise on screen.
        stretch: Factor of the width; the height is divided by it.
        flip: Mirror, to face left.
    """

    def __init__(
        self, radius: float, *, angle: float = 0.0, stretch: float = 1.0, flip: bool = False
    ) -> None:
        self._half = int(np.ceil(radius * _MARGIN))
        scale = _SUPERSAMPLE * radius
        turn = np.asarray(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32
        )
        reach = (
            np.diag(np.asarray([-stretch if flip else stretch, 1 / stretch], np.float32)) * scale
        )
        self._to_pixels = turn @ reach
        self._to_units = np.linalg.inv(self._to_pixels)
        side = 2 * self._half * _SUPERSAMPLE
        self._colour = np.zeros((side, side, 3), np.float32)
        self._kind = np.zeros((side, side), np.uint8)

    def body(self, outline: ArrayLike, brush: Brush) -> None:
        """Fill an outline ``(M, 2)`` as body."""
        self._fill(outline, brush, _BODY)

    def part(self, outline: ArrayLike, brush: Brush) -> None:
        """Fill an outline ``(M, 2)`` as the discriminative part."""
        self._fill(outline, brush, _PART)

    def layer(self) -> Layer:
        """Downsample the drawing to the image's resolution."""
        alpha = _shrink((self._kind > 0).astype(np.float32))
        part = _shrink((self._kind == _PART).astype(np.float32))
        return Layer(_shrink(self._colour), alpha, (alpha >= 0.5) & (part > alpha / 2))

    def _fill(self, outline: ArrayLike, brush: Brush, kind: int) -> None:
        centre = len(self._kind) / 2
        points = np.asarray(outline, np.float32) @ self._to_pixels.T + centre
        low = np.clip(np.floor(points.min(0)).astype(int), 0, len(self._kind) - 1)
        high = np.clip(np.ceil(points.max(0)).astype(int) + 1, low + 1, len(self._kind))
        stencil = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
        ImageDraw.Draw(stencil).polygon((points - low).ravel().tolist(), fill=1)
        rows, columns = np.nonzero(np.asarray(stencil))
        rows, columns = rows + low[1], columns + low[0]
        offset = np.stack([columns, rows]).astype(np.float32) - centre
        u, v = self._to_units @ offset
        self._colour[rows, columns] = brush(u, v)
        self._kind[rows, columns] = kind


def _shrink(pixels: Floats) -> Floats:
    """Mean of every 2 x 2 pixels."""
    return (pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2]) / 4


def _plain(rng: np.random.Generator) -> Brush:
    """The brush of a body."""
    colour = BODY_COLOURS[rng.integers(len(BODY_COLOURS))]
    return Brush(np.asarray(np.clip(colour + rng.normal(0, 0.04, 3), 0, 1), np.float32))


def _shade(brush: Brush, factor: float) -> Brush:
    return Brush(np.asarray(brush.colour, np.float32) * np.asarray(factor, np.float32))


def draw_boat(canvas: Canvas, rng: np.random.Generator) -> None:
    """A hull and two plain sails; the part is a ringed emblem on the main sail."""
    hull, sail = _plain(rng), _plain(rng)
    canvas.body(bar((0, -0.98), (0, 0.4), 0.06), _shade(hull, 0.6))
    canvas.body([(0.05, -0.95), (0.05, 0.28), (0.85, 0.28)], sail)
    canvas.body([(-0.05, -0.75), (-0.05, 0.28), (-0.62, 0.28)], _shade(sail, 0.9))
    canvas.body(smooth([(-1.1, 0.36), (1.15, 0.3), (0.75, 0.82), (-0.7, 0.82)]), hull)
    u, v = rng.uniform(0.28, 0.32), rng.uniform(-0.1, 0.0)
    emblem = Brush((0.96, 0.93, 0.85), (0.85, 0.12, 0.14), rings(u, v, 0.075))
    canvas.part(ellipse(u, v, 0.225, 0.225), emblem)


def draw_plane(canvas: Canvas, rng: np.random.Generator) -> None:
    """A fuselage with plain wings; the part is a striped tail fin."""
    body = _plain(rng)
    canvas.body([(0.2, -0.1), (-0.2, -0.5), (-0.4, -0.5), (-0.2, -0.08)], _shade(body, 0.7))
    fin = Brush((0.98, 0.80, 0.10), (0.12, 0.16, 0.55), stripes(0.16, rng.uniform(0.4, 0.6)))
    canvas.part([(-0.5, -0.12), (-0.86, -0.66), (-1.12, -0.66), (-0.98, -0.02)], fin)
    hull = [(-1.15, -0.08), (-0.6, -0.22), (0.6, -0.23), (1.15, 0.04), (0.6, 0.24), (-0.6, 0.2)]
    canvas.body(smooth(hull), body)
    canvas.body([(0.3, 0.02), (-0.4, 0.62), (-0.64, 0.62), (-0.22, 0.02)], _shade(body, 0.8))
    canvas.body(smooth(box(-0.1, 0.24, 0.3, 0.42)), _shade(body, 0.6))


def draw_sheep(canvas: Canvas, rng: np.random.Generator) -> None:
    """A lumpy body on four legs; the part is a black head with a white blaze."""
    wool = _plain(rng)
    for u in (-0.6, -0.4, 0.15, 0.35):
        foot = (u + rng.uniform(-0.08, 0.08), 0.88)
        canvas.body(bar((u, 0.2), foot, 0.11), _shade(wool, 0.55))
    canvas.body(ellipse(-0.13, 0.0, 0.78, 0.5, lumps=int(rng.integers(9, 14))), wool)
    canvas.body(ellipse(-0.92, -0.08, 0.12, 0.16), wool)
    black, white = Brush((0.08, 0.07, 0.08)), Brush((0.97, 0.95, 0.92))
    v = rng.uniform(-0.35, -0.2)
    canvas.part(smooth([(0.46, v - 0.26), (0.3, v - 0.38), (0.6, v - 0.24)]), black)
    canvas.part(smooth([(0.92, v - 0.26), (1.1, v - 0.36), (0.8, v - 0.2)]), black)
    face = [(0.4, v - 0.36), (0.98, v - 0.36), (0.86, v + 0.42), (0.6, v + 0.42)]
    canvas.part(smooth(face), black)
    blaze = [(0.64, v - 0.3), (0.78, v - 0.3), (0.8, v + 0.3), (0.62, v + 0.3)]
    canvas.part(smooth(blaze), white)
    canvas.part(ellipse(0.55, v - 0.08, 0.05, 0.06), white)
    canvas.part(ellipse(0.86, v - 0.08, 0.05, 0.06), white)


def draw_car(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plain bodywork with dull windows; the part is the pair of spoked wheels."""
    paint = _plain(rng)
    roof = rng.uniform(-0.58, -0.46)
    cabin = [(-0.72, -0.08), (-0.46, roof), (0.28, roof), (0.62, -0.06)]
    canvas.body(cabin, paint)
    shell = [(-1.1, -0.14), (0.6, -0.14), (1.12, 0.02), (1.12, 0.36), (-1.1, 0.36)]
    canvas.body(smooth(shell), paint)
    window = np.asarray(cabin, np.float32) * np.asarray([0.8, 0.72], np.float32) - np.asarray(
        [0.0, 0.05], np.float32
    )
    canvas.body(window, _shade(paint, 0.5))
    canvas.body(bar((-0.06, roof), (-0.06, -0.1), 0.08), paint)
    v = 0.34
    for u in (-0.58, 0.6):
        canvas.part(ellipse(u, v, 0.24, 0.24), Brush((0.06, 0.06, 0.07)))
        rim = Brush((0.92, 0.93, 0.96), (0.1, 0.1, 0.12), spokes(u, v, 6))
        canvas.part(ellipse(u, v, 0.17, 0.17), rim)


def draw_house(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plain wall, roof, chimney and door; the part is a pair of lit lattice windows."""
    wall, roof = _plain(rng), _plain(rng)
    canvas.body(box(0.4, -0.95, 0.58, -0.3), _shade(roof, 0.75))
    canvas.body(box(-0.8, -0.2, 0.8, 0.8), wall)
    ridge = rng.uniform(0.2, 0.5)
    canvas.body([(-0.98, -0.12), (-ridge, -0.8), (ridge, -0.8), (0.98, -0.12)], roof)
    canvas.body(box(-0.14, 0.25, 0.14, 0.8), _shade(wall, 0.6))
    glass = Brush((1.0, 0.86, 0.35), (0.16, 0.09, 0.07), lattice(0.14, 0.05))
    for u in (-0.5, 0.5):
        canvas.part(box(u - 0.24, 0.0, u + 0.24, 0.44), glass)


def draw_bird(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plain torso, wing and tail; the part is a ringed head with an orange beak."""
    body = _plain(rng)
    for u in (0.0, 0.18):
        canvas.body(bar((u, 0.4), (u + 0.06, 0.85), 0.06), _shade(body, 0.5))
    droop = rng.uniform(0.2, 0.5)
    tail = [(-0.35, -0.05), (-1.05, droop), (-0.98, droop + 0.26), (-0.2, 0.35)]
    canvas.body(tail, _shade(body, 0.8))
    torso = [(-0.75, 0.1), (-0.2, -0.38), (0.6, -0.6), (0.8, 0.0), (0.35, 0.58), (-0.3, 0.52)]
    canvas.body(smooth(torso), body)
    wing = [(-0.7, 0.2), (-0.1, -0.25), (0.4, -0.1), (0.1, 0.36)]
    canvas.body(smooth(wing), _shade(body, 0.82))
    canvas.part([(0.75, -0.55), (1.14, -0.38), (0.75, -0.3)], Brush((0.98, 0.52, 0.05)))
    feathers = Brush((0.10, 0.45, 0.42), (0.95, 0.93, 0.80), rings(0.66, -0.47, 0.08))
    canvas.part(ellipse(0.58, -0.44, 0.3, 0.28), feathers)
    canvas.part(ellipse(0.66, -0.47, 0.06, 0.06), Brush((0.03, 0.03, 0.03)))


def draw_clutter(canvas: Canvas, rng: np.random.Generator) -> None:
    """An object of no class, with outline and colours like those of a body."""
    outlines = (
        ellipse(0, 0, 0.9, 0.6, lumps=int(rng.integers(3, 12))),
        smooth([(-1.1, -0.3), (1.1, -0.3), (0.7, 0.4), (-0.7, 0.4)]),
        smooth([(-1.2, -0.25), (1.2, -0.2), (1.2, 0.25), (-1.2, 0.2)]),
        box(-0.7, -0.6, 0.7, 0.6),
        np.asarray([(-0.6, 0.8), (0.0, -0.9), (0.6, 0.8)], np.float32),
        bar((0, -1.2), (0, 1.2), 0.25),
        smooth(rng.uniform(0.5, 1.0, (7, 1)) * ellipse(0, 0, 1.1, 0.9)[::7]),
    )
    brush = _plain(rng)
    canvas.body(outlines[rng.integers(len(outlines))], brush)
    if rng.random() < 0.4:
        inner = ellipse(rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), 0.3, 0.2)
        canvas.body(inner, _shade(brush, rng.uniform(0.6, 0.9)))
