"""Tolerant parsing of numbers, flags and outlines in COCO files."""

from __future__ import annotations

import ast
import re
from array import array
from typing import Any

_YES = ("1", "true", "yes")
_NO = ("", "0", "false", "no", "none", "null")


def whole(value: Any) -> int | None:
    """An integer written as ``7``, ``7.0`` or ``"7"``; None if it is not one."""
    if type(value) is int:
        return value
    written = value.strip() if isinstance(value, str) else repr(value)
    found = re.fullmatch(r"([+-]?\d+)(\.0*)?", written)
    return int(found[1]) if found else None


def key(value: Any) -> int | str | None:
    """An identifier: an integer, or else text; None if it is neither."""
    number = whole(value)
    return (value.strip() or None) if number is None and isinstance(value, str) else number


def text(value: Any) -> str | None:
    """Non-blank text; None otherwise."""
    return (value.strip() or None) if isinstance(value, str) else None


def flag(value: Any) -> bool | None:
    """A flag written as number, boolean or text; False if absent; None if invalid."""
    said = "" if value is None else str(value).strip().casefold().removesuffix(".0")
    return True if said in _YES else False if said in _NO else None


def polygons(outline: list[Any]) -> list[array[float]]:
    """Polygons ``x, y, x, y, ...``, packed.

    Args:
        outline: A list of polygons, or a single one; each of numbers or points ``[x, y]``.

    Raises:
        ValueError: If it contains anything else.
    """
    alone = bool(outline) and not isinstance(outline[0], list)
    return [_polygon(item) for item in ([outline] if alone else outline)]


def run_lengths(counts: Any) -> Any:
    """Run lengths as numbers, or packed as text; anything else unchanged."""
    if isinstance(counts, list) and not all(type(number) is int for number in counts):
        numbers = [whole(number) for number in counts]
        return counts if None in numbers else numbers
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):  # Python's bytes, printed
        try:
            return ast.literal_eval(counts).decode("ascii")
        except (ValueError, SyntaxError):
            return counts
    return counts


def _polygon(points: Any) -> array[float]:
    try:
        if points and isinstance(points[0], list):
            points = [number for x, y in points for number in (x, y)]
        try:
            return array("d", points)
        except TypeError:  # some are text
            return array("d", map(float, points))
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected polygons of numbers, found {str(points)[:40]!r}") from error
