"""The graph convolution and S against plain loops."""

from __future__ import annotations

import inspect

import pytest
import torch

from dscnet.config import MethodConfig
from dscnet.config.legacy import REMOVED
from dscnet.context import SemanticGraph
from dscnet.context.semantic_graph import adjacency


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def cosine(x, y):
    return dot(x, y) / (dot(x, x) * dot(y, y)) ** 0.5


def naive_graph(graph, features, valid):
    """Nodes, category nodes and logits by loops over the groups that exist."""
    weight, bias = graph.embed.weight.tolist(), graph.embed.bias.tolist()
    mix = graph.convolve.weight.tolist()
    places = [(b, k) for b in range(valid.shape[0]) for k in range(valid.shape[1]) if valid[b, k]]
    nodes = [
        [dot(row, features[b, k].tolist()) + shift for row, shift in zip(weight, bias, strict=True)]
        for b, k in places
    ]
    nodes += graph.prototypes.tolist()
    hidden = []
    for i, node in enumerate(nodes):
        edges = [max(cosine(node, other), 0.0) for other in nodes]
        assert edges[i] == pytest.approx(1)
        total = sum(edges)
        mixed = [
            sum(e / total * other[d] for e, other in zip(edges, nodes, strict=True))
            for d in range(len(node))
        ]
        out = [max(dot(row, mixed), 0.0) for row in mix]
        hidden.append([o + n for o, n in zip(out, node, strict=True)] if graph.residual else out)
    categories = hidden[len(places) :]
    logits = {
        place: [cosine(hidden[i], category) / graph.temperature for category in categories]
        for i, place in enumerate(places)
    }
    return dict(zip(places, hidden, strict=False)), categories, logits


@pytest.mark.parametrize("residual", [True, False])
def test_forward_against_loops(residual, generator):
    torch.manual_seed(3)
    graph = SemanticGraph(5, 3, node_dim=8, temperature=0.2, residual=residual).double()
    features = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    valid = torch.tensor([[True, True, False], [True, False, True]])
    result = graph(features, valid)
    nodes, categories, logits = naive_graph(graph, features, valid)
    torch.testing.assert_close(result.category_nodes.tolist(), categories)
    for b in range(2):
        for k in range(3):
            expected = nodes.get((b, k), [0.0] * 8)
            assert result.nodes[b, k].tolist() == pytest.approx(expected)
            assert result.logits[b, k].tolist() == pytest.approx(logits.get((b, k), [0.0] * 3))


def test_adjacency_rows_sum_to_one_and_leave_out_what_is_not_there(generator):
    nodes = torch.randn(6, 4, generator=generator)
    nodes[1] = 0
    exists = torch.tensor([True, True, False, True, True, True])
    weights = adjacency(nodes, exists)
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert (weights >= 0).all()
    assert weights[2].tolist() == [0, 0, 1, 0, 0, 0]
    assert weights[:, 2].tolist() == [0, 0, 1, 0, 0, 0]
    assert (weights.diagonal() > 0).all()


def test_empty_groups_change_nothing(generator):
    torch.manual_seed(0)
    graph = SemanticGraph(4, 3, node_dim=6)
    features = torch.randn(1, 2, 4, generator=generator)
    padded = torch.cat([features, torch.full((1, 2, 4), 9.0)], dim=1)
    alone = graph(features, torch.ones(1, 2, dtype=torch.bool))
    beside = graph(padded, torch.tensor([[True, True, False, False]]))
    torch.testing.assert_close(beside.nodes[:, :2], alone.nodes)
    torch.testing.assert_close(beside.logits[:, :2], alone.logits)
    torch.testing.assert_close(beside.category_nodes, alone.category_nodes)


def test_order_of_groups_does_not_matter(generator):
    torch.manual_seed(0)
    graph = SemanticGraph(4, 3, node_dim=6)
    features = torch.randn(2, 3, 4, generator=generator)
    valid = torch.tensor([[True, True, True], [True, True, False]])
    order = torch.tensor([2, 0, 1])
    straight = graph(features, valid)
    permuted = graph(features[:, order], valid[:, order])
    torch.testing.assert_close(permuted.logits, straight.logits[:, order])


def test_images_of_a_batch_are_joined(generator):
    torch.manual_seed(0)
    graph = SemanticGraph(4, 3, node_dim=6)
    features = torch.randn(2, 2, 4, generator=generator)
    valid = torch.ones(2, 2, dtype=torch.bool)
    first = graph(features, valid).nodes[0]
    features[1] = features[0]
    assert not torch.allclose(graph(features, valid).nodes[0], first)


def test_gradients_reach_features_and_prototypes(generator):
    torch.manual_seed(0)
    graph = SemanticGraph(4, 3, node_dim=6)
    features = torch.randn(2, 2, 4, generator=generator, requires_grad=True)
    graph(features, torch.ones(2, 2, dtype=torch.bool)).logits[..., 0].sum().backward()
    for tensor in (features, graph.prototypes, graph.embed.weight, graph.convolve.weight):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_prototypes_can_stay_as_drawn():
    fixed = SemanticGraph(4, 3, learned_prototypes=False)
    assert "prototypes" in fixed.state_dict()
    assert not fixed.prototypes.requires_grad
    assert fixed.prototypes.norm(dim=1).sub(1).abs().max() < 0.5


def test_finite_in_bf16(generator):
    graph = SemanticGraph(4, 3, node_dim=6)
    features = torch.randn(2, 2, 4, generator=generator)
    valid = torch.ones(2, 2, dtype=torch.bool)
    exact = graph(features, valid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = graph(features, valid)
    torch.testing.assert_close(cast.logits, exact.logits)
    assert graph.bfloat16()(features.bfloat16(), valid).logits.isfinite().all()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        SemanticGraph(4, 3, temperature=0)
    with pytest.raises(ValueError, match=r"valid must be \(1, 2\)"):
        SemanticGraph(4, 3)(torch.zeros(1, 2, 4), torch.ones(1, 3, dtype=torch.bool))


def test_defaults_are_those_of_the_settings():
    parameters = inspect.signature(SemanticGraph).parameters
    assert parameters["temperature"].default == MethodConfig().temperature
    for name in ("node_dim", "residual", "learned_prototypes"):
        assert parameters[name].default == REMOVED[f"method.{name}"].value, name
