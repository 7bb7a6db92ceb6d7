"""The colours in which label images are shown."""

from __future__ import annotations


def voc_palette() -> list[int]:
    """Colours of labels 0 to 255 as in PASCAL VOC.

    The three lowest bits of a label are the highest bits of its red, green and blue, the next three
    bits come one place lower, and so on: near labels get far colours. 255 (ignore) is off-white.

    Returns:
        768 values in 0..255, ``r, g, b`` of label 0 first, as ``PIL.Image.putpalette`` takes them.

    Example:
        >>> voc_palette()[3:6]
        [128, 0, 0]
    """
    return [_spread_bits(label, channel) for label in range(256) for channel in range(3)]


def _spread_bits(label: int, channel: int) -> int:
    return sum((label >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
