"""Backgrounds of generated scenes; most are the typical context of one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating[Any]]


def cloud(rng: np.random.Generator, size: int, rows: int, columns: int) -> Floats:
    """A smooth random field ``(size, size)`` in 0..1 with about ``rows`` x ``columns`` blobs."""
    grid = rng.random((rows, columns), dtype=np.float32)
    field = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(field, np.float32).clip(0, 1)


def frame(size: int) -> tuple[Floats, Floats]:
    """Coordinates ``x (1, size)`` and ``y (size, 1)`` in 0..1."""
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    return steps[None, :], steps[:, None]


def blend(low: Sequence[float] | Floats, high: Sequence[float] | Floats, share: Floats) -> Floats:
    """Colours ``(H, W, 3)`` from ``low`` where ``share (H, W)`` is 0 to ``high`` where it is 1."""
    first, last = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return first + share[..., None] * (last - first)


def paint_water(rng: np.random.Generator, size: int) -> Floats:
    """Waves with glints."""
    _, y = frame(size)
    phase = y * rng.uniform(9, 16) + 2.0 * cloud(rng, size, 5, 3)
    waves = 0.5 + 0.5 * np.sin(2 * np.pi * phase)
    share = 0.6 * waves * cloud(rng, size, 30, 7) + 0.4 * cloud(rng, size, 40, 8)
    deep = np.asarray([0.08, 0.28, 0.42], np.float32) + _shift(rng)
    return blend(deep, deep + np.asarray([0.32, 0.38, 0.34], np.float32), share)


def paint_sky(rng: np.random.Generator, size: int) -> Floats:
    """Blue, grey or evening sky with clouds."""
    _, y = frame(size)
    tops = ((0.25, 0.48, 0.82), (0.40, 0.62, 0.90), (0.45, 0.55, 0.68), (0.50, 0.45, 0.65))
    horizons = ((0.72, 0.84, 0.94), (0.80, 0.88, 0.92), (0.75, 0.78, 0.80), (0.95, 0.72, 0.55))
    hue = rng.integers(len(tops))
    clear = blend(tops[hue], horizons[hue], np.broadcast_to(y, (size, size)))
    field = 0.6 * cloud(rng, size, 5, 3) + 0.28 * cloud(rng, size, 12, 8)
    field += 0.12 * cloud(rng, size, 26, 20)
    cover = np.clip((field - rng.uniform(0.42, 0.6)) * 4, 0, 0.9)
    return clear + cover[..., None] * (np.asarray([0.95, 0.95, 0.96], np.float32) - clear)


def paint_grass(rng: np.random.Generator, size: int) -> Floats:
    """Blades, patches and a few flowers."""
    share = 0.65 * cloud(rng, size, 36, 90) + 0.35 * cloud(rng, size, 6, 6)
    dark = np.asarray([0.12, 0.30, 0.07], np.float32) + _shift(rng)
    field = blend(dark, dark + np.asarray([0.38, 0.42, 0.20], np.float32), share)
    y, x = rng.integers(0, size, (2, int(rng.integers(0, 25))))
    field[y, x] = np.asarray([0.95, 0.92, 0.6], np.float32)
    return field


def paint_asphalt(rng: np.random.Generator, size: int) -> Floats:
    """Speckled grey with lane marks and a joint."""
    share = 0.55 * cloud(rng, size, 110, 110) + 0.45 * cloud(rng, size, 4, 5)
    dark = np.asarray([0.20, 0.20, 0.22], np.float32) + _shift(rng) / 2
    road = blend(dark, dark + np.asarray([0.30, 0.30, 0.30], np.float32), share)
    x, y = frame(size)
    lean, height = rng.uniform(-0.25, 0.25), rng.uniform(0.1, 0.9)
    across = y - height - lean * (x - 0.5)
    dashes = (x * rng.uniform(2, 4) + rng.random()) % 1 < 0.6
    road[(np.abs(across) < 0.018) & dashes] = np.asarray([0.85, 0.84, 0.76], np.float32)
    road[np.abs(across + rng.uniform(0.2, 0.5)) < 0.006] *= 0.6
    return road


def paint_fence(rng: np.random.Generator, size: int) -> Floats:
    """A picket fence before a hedge."""
    hedge = blend((0.05, 0.13, 0.06), (0.22, 0.36, 0.18), cloud(rng, size, 40, 40))
    x, y = frame(size)
    wood = np.asarray([0.62, 0.48, 0.34], np.float32) + _shift(rng)
    boards = blend(0.85 * wood, 1.15 * wood, cloud(rng, size, 5, 80))
    pickets = (x * rng.uniform(9, 14)) % 1 < 0.62
    rails = (np.abs(y - 0.28) < 0.03) | (np.abs(y - 0.72) < 0.03)
    boards *= np.where(rails & ~pickets, 0.75, 1.0)[..., None]
    return np.where((pickets | rails)[..., None], boards, hedge)


def paint_foliage(rng: np.random.Generator, size: int) -> Floats:
    """Leaves and branches."""
    picture = Image.new("RGB", (size, size), (24, 38, 20))
    draw = ImageDraw.Draw(picture)
    for _ in range(3):
        ends = rng.uniform(-0.1, 1.1, 4) * size
        draw.line(ends.tolist(), fill=(84, 62, 44), width=max(1, int(0.03 * size)))
    warmth = rng.uniform(0, 0.6)
    centres, tones = rng.uniform(0, size, (190, 2)), rng.uniform(0.35, 1, 190)
    reach = rng.uniform(0.015, 0.05, (190, 2)) * size
    corners = np.concatenate([centres - reach, centres + reach], axis=1)
    colours = np.outer(tones, [90 + 120 * warmth, 150, 50]) + rng.uniform(0, 20, (190, 3))
    for corner, colour in zip(corners.tolist(), colours.astype(int).tolist(), strict=True):
        draw.ellipse(corner, fill=tuple(colour))
    return np.asarray(picture, np.float32) / 255


def paint_sand(rng: np.random.Generator, size: int) -> Floats:
    """Rippled sand; the context of no class."""
    _, y = frame(size)
    ripples = 0.5 + 0.5 * np.sin(2 * np.pi * (y * 7 + 1.5 * cloud(rng, size, 4, 4)))
    share = 0.35 * ripples + 0.35 * cloud(rng, size, 90, 90) + 0.3 * cloud(rng, size, 4, 4)
    dark = np.asarray([0.58, 0.48, 0.34], np.float32) + _shift(rng)
    return blend(dark, dark + np.asarray([0.28, 0.27, 0.24], np.float32), share)


def paint_rock(rng: np.random.Generator, size: int) -> Floats:
    """Cracked grey-brown stone; the context of no class."""
    ridges = np.abs(2 * cloud(rng, size, 9, 9) - 1)
    share = 0.6 * ridges + 0.4 * cloud(rng, size, 28, 28)
    dark = np.asarray([0.27, 0.25, 0.23], np.float32) + _shift(rng)
    return blend(dark, dark + np.asarray([0.42, 0.38, 0.34], np.float32), share)


def _shift(rng: np.random.Generator) -> Floats:
    """A small random colour shift."""
    return rng.normal(0, 0.03, 3).astype(np.float32)
