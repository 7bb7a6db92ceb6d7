"""AuxSegNet's affinities: self-attention within a task, and cross-task affinity of two tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dscnet.numerics import full_precision

BLOCK_BYTES = 2**24
"""Maximum size at inference of the rows of a photo's two affinities held at once, bytes."""


@full_precision
def affinity(query: Tensor, key: Tensor) -> Tensor:
    """Attention of the query pixels to each pixel of their photo.

    AuxSegNet's intra-task affinity (non-local form of Wang et al., CVPR 2018): softmax over all
    pixels of the unscaled dot product.

    Args:
        query: The query pixels, ``(..., R, E)``.
        key: All pixels, ``(..., N, E)``.

    Returns:
        ``(..., R, N)``; rows sum to 1.
    """
    return (query @ key.mT).softmax(-1)


class NonLocal(nn.Module):
    """Non-local block: adds to each pixel the :func:`affinity`-weighted mean of all pixels.

    Args:
        channels: Channels of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the block to ``(B, E, h, w)`` features.

        Returns:
            The output features ``(B, E, h, w)``; queries and keys of the affinity ``(B, N, E)``.
        """
        query, key, value = (
            layer(features).flatten(2).mT for layer in (self.query, self.key, self.value)
        )
        mixed = _attend(query, key, value).mT.reshape(features.shape)
        return features + self.out(mixed.to(features.dtype)), query, key


@full_precision
def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``affinity(query, key) @ value`` without keeping the N x N matrix."""
    # The memory-efficient kernels need a heads axis and contiguous rows.
    q, k, v = (tensor[:, None].contiguous() for tensor in (query, key, value))
    mixed: Tensor = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    return mixed[:, 0]


class CrossTaskAffinity(nn.Module):
    """Cross-task affinity A = w S_1 + (1 - w) S_2, and propagation of maps along it.

    AuxSegNet: the two N x N affinities are treated as the channels of an image, which a 3x3
    convolution, ReLU, a 1x1 convolution and a softmax over the channels turn into the weights w.

    No N x N matrix is stored: a block of rows of A needs the same rows of S_1 and S_2 plus one on
    either side, and is recomputed in the backward pass. Without gradients, blocks are smaller where
    the rows of a large photo would exceed ``BLOCK_BYTES``.

    Deviation: rows of A are divided by their sum, as the weights vary along a row;
    ``published_row_quirk`` disables that.

    Args:
        rows: Maximum rows per block, >= 1; does not affect the result.
        published_row_quirk: Use A as published, with rows that do not sum to 1.

    Raises:
        ValueError: If ``rows`` is below 1.
    """

    def __init__(self, *, rows: int = 512, published_row_quirk: bool = False) -> None:
        super().__init__()
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self.rows = rows
        self.published_row_quirk = published_row_quirk
        self.mix = nn.Conv2d(2, 2, 3, bias=False)
        self.weigh = nn.Conv2d(2, 2, 1)

    def forward(self, queries: Tensor, keys: Tensor, maps: Tensor) -> Tensor:
        """Propagate maps along A.

        Args:
            queries: Queries of the two tasks, ``(B, 2, N, E)``.
            keys: Keys of the two tasks, ``(B, 2, N, E)``.
            maps: ``(B, M, h, w)`` with N = h w.

        Returns:
            ``(B, M, h, w)``, within the range of ``maps`` unless ``published_row_quirk`` is set.
        """
        values = maps.flatten(2).mT
        count = values.shape[1]
        if torch.is_grad_enabled():
            rows = self.rows
        else:
            rows = min(self.rows, max(1, BLOCK_BYTES // (2 * count * queries.element_size())))
        spread = [
            checkpoint(self._spread, queries, keys, values, start, rows, use_reentrant=False)
            if torch.is_grad_enabled() and count > rows
            else self._spread(queries, keys, values, start, rows)
            for start in range(0, count, rows)
        ]
        return torch.cat(spread, 1).mT.reshape(maps.shape).to(maps.dtype)

    @full_precision
    def matrix(
        self, queries: Tensor, keys: Tensor, start: int = 0, rows: int | None = None
    ) -> Tensor:
        """Up to ``rows`` rows of A, starting at row ``start``, ``(B, R, N)``."""
        count = queries.shape[2]
        stop = min(start + (rows or self.rows), count)
        first, last = max(start - 1, 0), min(stop + 1, count)
        pair = affinity(queries[:, :, first:last], keys)
        # The convolution sees zeros beyond the matrix, and the actual neighbours beyond the block.
        padded = functional.pad(pair, (1, 1, int(start == 0), int(stop == count)))
        weights = self.weigh(self.mix(padded).relu()).softmax(1)
        joined: Tensor = (weights * pair[:, :, start - first : stop - first]).sum(1)
        # No row sums to zero: affinities sum to 1 and their weights are positive.
        return joined if self.published_row_quirk else joined / joined.sum(-1, keepdim=True)

    @full_precision
    def _spread(
        self, queries: Tensor, keys: Tensor, values: Tensor, start: int, rows: int
    ) -> Tensor:
        """Rows of ``A @ values``, ``(B, R, M)``."""
        return self.matrix(queries, keys, start, rows) @ values
