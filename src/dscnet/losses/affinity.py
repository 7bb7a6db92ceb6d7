"""Pairwise affinity loss of AffinityNet and IRNet."""

from __future__ import annotations

from torch import Tensor

from dscnet.distributed.batch import batch_mean
from dscnet.types import LossTerms

EPS = 1e-5
"""The published constant in the logarithms and the means."""

WEIGHTS = {"aff_bg": 0.25, "aff_fg": 0.25, "aff_neg": 0.5}
"""Weight of each kind of pair."""


def affinity_loss(
    affinity: Tensor, background: Tensor, foreground: Tensor, negative: Tensor
) -> LossTerms:
    """Binary cross-entropy of pairs, averaged per kind so that rare kinds count equally.

    AffinityNet (Ahn, Kwak, CVPR 2018): the mean of ``-log(a + 1e-5)`` over the pairs within the
    background and over those within a class, and of ``-log(1 + 1e-5 - a)`` over those with
    different labels, weighted 1/4, 1/4 and 1/2.

    Args:
        affinity: a, of any shape, in [0, 1].
        background: Pairs within the background; bool, same shape.
        foreground: Pairs within one foreground class.
        negative: Pairs with different labels.

    Returns:
        Terms ``aff_bg``, ``aff_fg`` and ``aff_neg`` with their weights; a kind without pairs is 0
        with zero gradient.

    Raises:
        ValueError: If the shapes differ.
    """
    shapes = {tuple(table.shape) for table in (affinity, background, foreground, negative)}
    if len(shapes) > 1:
        raise ValueError(f"affinity and the kinds of pairs must have the same shape, got {shapes}")
    alike = -(affinity + EPS).log()
    different = -(1 + EPS - affinity).log()
    terms = {
        "aff_bg": _mean(alike, background),
        "aff_fg": _mean(alike, foreground),
        "aff_neg": _mean(different, negative),
    }
    return LossTerms(terms, WEIGHTS)


def _mean(values: Tensor, pairs: Tensor) -> Tensor:
    pairs = pairs.to(values.dtype)
    return (pairs * values).sum() / (batch_mean(pairs.sum()) + EPS)
