"""SGCL's graph: pixel groups of the whole batch and one node per category, Eq. (8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dscnet.distributed.batch import gather, own_rows
from dscnet.numerics import full_precision, unit


class SemanticNodes(NamedTuple):
    """Output of the graph for a batch.

    Attributes:
        nodes: Groups after the graph convolution, ``(B, K, node_dim)``; zero for empty groups.
        category_nodes: Categories after the graph convolution, ``(L, node_dim)``.
        logits: Cosine of the two divided by the temperature, ``(B, K, L)``; its softmax over the
            labels is S of Eq. (8), the category probabilities of each group.
    """

    nodes: Tensor
    category_nodes: Tensor
    logits: Tensor


class SemanticGraph(nn.Module):
    """One graph convolution over all groups of a batch and L category nodes.

    H' = relu(A H W), plus H if ``residual``; A is the positive part of the cosine between nodes,
    with self-loops, each row divided by its sum. [Readings] Category nodes are separate prototypes,
    the convolution has a residual connection, and S compares nodes after the convolution.

    The graph connects images: the output for one image depends on the rest of the batch.

    Args:
        in_channels: D, channels of the group features.
        num_labels: L, background included.
        node_dim: Length of a node.
        temperature: Divides the cosine, > 0.
        residual: Whether the convolution adds its input.
        learned_prototypes: Whether category nodes are trained or keep their initial values.
    """

    def __init__(
        self,
        in_channels: int,
        num_labels: int,
        *,
        node_dim: int = 128,
        temperature: float = 0.1,
        residual: bool = True,
        learned_prototypes: bool = True,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.temperature = temperature
        self.residual = residual
        self.embed = nn.Linear(in_channels, node_dim)
        self.convolve = nn.Linear(node_dim, node_dim, bias=False)
        # About unit length for any node_dim.
        prototypes = torch.randn(num_labels, node_dim) / node_dim**0.5
        self.prototypes = nn.Parameter(prototypes, requires_grad=learned_prototypes)

    @full_precision
    def forward(self, group_features: Tensor, valid: Tensor) -> SemanticNodes:
        """Relate groups and categories.

        Args:
            group_features: Mean feature of each group, ``(B, K, D)``.
            valid: Non-empty groups, ``(B, K)`` bool; the others are ignored.
        """
        if valid.shape != group_features.shape[:2]:
            raise ValueError(
                f"valid must be {tuple(group_features.shape[:2])}, got {tuple(valid.shape)}"
            )
        groups = gather(self.embed(group_features.to(self.embed.weight.dtype))).flatten(0, 1)
        valid = gather(valid)
        nodes = torch.cat([groups, self.prototypes])
        exists = torch.cat([valid.flatten(), valid.new_ones(len(self.prototypes))])
        hidden = self.convolve(adjacency(nodes, exists) @ nodes).relu()
        if self.residual:
            hidden = hidden + nodes
        hidden = hidden * exists[:, None]
        group_nodes, category_nodes = hidden.tensor_split([len(groups)])
        group_nodes = own_rows(group_nodes.unflatten(0, valid.shape))
        logits = unit(group_nodes) @ unit(category_nodes).mT / self.temperature
        return SemanticNodes(group_nodes, category_nodes, logits)


def adjacency(nodes: Tensor, exists: Tensor) -> Tensor:
    """Row-normalised similarity of nodes, ``(M, node_dim)`` to ``(M, M)``.

    The positive part of the cosine; zero from and to nodes that do not exist (``exists``, ``(M,)``
    bool), except for the self-loops, so each row sums to one.
    """
    directions = unit(nodes)
    joined = exists[:, None] & exists[None, :]
    loops = torch.eye(len(nodes), dtype=torch.bool, device=nodes.device)
    weights = (directions @ directions.mT).relu() * joined
    weights = weights.masked_fill(loops, 1.0)
    return weights / weights.sum(-1, keepdim=True)
